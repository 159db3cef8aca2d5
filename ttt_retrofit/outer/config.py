"""`TTTTrainingConfig`: transformers' `TrainingArguments` and the few settings of the outer loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args, get_type_hints

from transformers import TrainingArguments

from ..config import TTTConfig, check_flag, is_integer
from ..errors import ConfigError
from ..util.settings import settings
from .choices import OUTER_PARAMETERS, Gradients

SHARDED = (
    "{} shards parameters behind hooks that know gradients of one backward pass; the outer loop goes through a model "
    "several times for one gradient. Launch several processes without it (accelerate launch --multi_gpu), and set "
    "shard=True: what is not trained is then sharded by FSDP2."
)


@settings()
@dataclass(repr=False)
class TTTTrainingConfig(TrainingArguments):
    """How the outer loop trains (TTT-E2E, arXiv 2512.23675, §2.2, retrofitted).

    It takes every field of transformers' `TrainingArguments` as well.

    Raises
    ------
    ConfigError
        For values outside their range, and for fp16, accelerate's FSDP and DeepSpeed, which the outer loop does not
        support.
    """

    sequence_length: int = field(
        default=4096,
        metadata={"help": "tokens of a sequence, a multiple of the chunk; fast weights start anew with each sequence"},
    )
    gradients: Gradients = field(
        default="exact",
        metadata={
            "help": "'exact' through every update, the keys and the window | 'truncated' exact through the last "
            "`truncate_chunks` chunks, first order before | 'first_order' as cheap as reading | 'none' no updates at "
            "all: plain fine-tuning of the same parameters, as a control"
        },
    )
    truncate_chunks: int = field(default=4, metadata={"help": "chunks that 'truncated' goes back through exactly"})
    outer_parameters: list[str] = field(
        default_factory=lambda: ["start", "log_lr"],
        metadata={
            "help": "what is trained: 'start' of the fast weights (for 'delta', the projections they are added to), "
            "'log_lr' one inner learning rate for each site, 'lora' adapters that the model carries, 'everything'"
        },
    )
    learning_rate: float = field(
        default=3e-5,
        metadata={
            "help": "outer learning rate of everything but the inner rates; suits matrices with entries of about 0.02, "
            "and should scale with them"
        },
    )
    log_lr_learning_rate: float = field(default=0.05, metadata={"help": "outer learning rate of the log inner rates"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "largest norm of the outer gradient; 0 does not clip"})
    evaluate_without_updates: bool = field(
        default=True, metadata={"help": "also evaluate with updates off, to measure their gain"}
    )

    shard: bool = field(
        default=False,
        metadata={
            "help": "split what is not trained over the processes (FSDP2), for a base that one device cannot hold; the "
            "weights are sent around for every chunk"
        },
    )

    @property
    def place_model_on_device(self) -> bool | None:
        """A model that is sharded goes to its device part by part."""
        return False if self.shard else None

    def __post_init__(self) -> None:
        self._check_types()
        if isinstance(self.outer_parameters, str):
            self.outer_parameters = [self.outer_parameters]
        super().__post_init__()
        self._check_choices()
        self._check_unsupported()
        # Every process cuts the same stream and takes its share; the rows of a batch may differ in length.
        self.accelerator_config.dispatch_batches = False  # type: ignore[union-attr]

    def check_fits(self, ttt: TTTConfig, longest: int | None) -> None:
        """Raise `ConfigError` if these settings contradict how the model reads, or how far it can read."""
        if ttt.inner_rule != "gradient":
            raise ConfigError(
                f"inner_rule={ttt.inner_rule!r}: the outer loop goes back through the gradient of the chunk's loss, "
                "which is not what this rule steps along. configure_ttt(inner_rule='gradient') before training."
            )
        chunk = ttt.chunk_size
        if self.sequence_length < 2 * chunk or self.sequence_length % chunk:
            raise ConfigError(
                f"sequence_length={self.sequence_length}: expected a multiple of the chunk, {chunk} tokens, and at "
                "least two of them, because the first chunk's loss comes before any update. Use a longer sequence, or "
                "configure_ttt(chunk_size=...)."
            )
        if longest is not None and self.sequence_length > longest:
            raise ConfigError(
                f"sequence_length={self.sequence_length}, but the model can read {longest} positions: it has "
                "learned no more, or its rotary frequencies would change beyond. A window below that prevents it."
            )

    def _check_types(self) -> None:
        """Check numbers and flags, including those of `TrainingArguments`, which would fail later or not at all."""
        for name, hint in get_type_hints(type(self)).items():
            value, allowed = getattr(self, name, None), set(get_args(hint) or [hint])
            if isinstance(value, str) and allowed <= {bool, int, float, type(None)}:
                raise ConfigError(f"{name}={value!r}: expected {_in_words(allowed)}, without quotes.")
        for name in ("sequence_length", "truncate_chunks"):
            if not is_integer(getattr(self, name)):
                raise ConfigError(f"{name}={getattr(self, name)!r}: expected a whole number.")
        for name in ("evaluate_without_updates", "shard"):
            check_flag(name, getattr(self, name))

    def _check_choices(self) -> None:
        if self.gradients not in get_args(Gradients):
            raise ConfigError(f"gradients={self.gradients!r} is not known. Choose one of {list(get_args(Gradients))}.")
        unknown = sorted(set(self.outer_parameters) - set(OUTER_PARAMETERS))
        if unknown or not self.outer_parameters:
            raise ConfigError(f"outer_parameters={self.outer_parameters}: expected some of {list(OUTER_PARAMETERS)}.")
        if self.truncate_chunks < 1:
            raise ConfigError(
                f"truncate_chunks={self.truncate_chunks}: expected at least 1. gradients='first_order' is 0 of them."
            )

    def _check_unsupported(self) -> None:
        if self.fp16:
            raise ConfigError("fp16=True: fast weights take steps that float16 cannot hold. Use bf16=True.")
        if self.fsdp or self.deepspeed:
            raise ConfigError(SHARDED.format("fsdp" if self.fsdp else "deepspeed"))
        if self.shard and "everything" in self.outer_parameters:
            raise ConfigError(
                "shard=True splits what is not trained, and outer_parameters=['everything'] leaves nothing. Train "
                "'start' and 'log_lr', with 'lora' where the model carries adapters, or leave shard out."
            )
        if self.torch_compile:
            raise ConfigError("torch_compile=True: the outer loop runs chunks of the plain model. Leave it off.")
        if not self.average_tokens_across_devices:
            raise ConfigError(
                "average_tokens_across_devices=False: the outer gradient is of the mean over the target tokens of all "
                "processes. Leave it out."
            )
        for name in ("label_smoothing_factor", "neftune_noise_alpha", "bf16_full_eval", "fp16_full_eval"):
            if value := getattr(self, name):
                raise ConfigError(f"{name}={value}: the outer loop has its own loss and evaluation. Leave it out.")


def _in_words(allowed: set[type]) -> str:
    return "True or False" if bool in allowed else "a number" if float in allowed else "a whole number"
