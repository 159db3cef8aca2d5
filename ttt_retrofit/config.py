"""`TTTConfig`: everything that decides how a converted model reads.

It knows nothing of models or tensors.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, Self, get_args

from .errors import ConfigError
from .util.registry import Registry
from .util.settings import settings

LearnFrom = Literal["all", "prompt", "none"]
LayerSelection = str | float | tuple[int, ...]

ROLES = ("gate", "up", "down")
# Named ranges of layers, as fractions of the depth. The middle learns best for its cost (`docs/ablation.md`): what
# lies below it costs a longer backward pass, and what lies above it has less left to change. The upper range is the
# last sixth without the very last layers, whose fast weights overshoot at the rates that the others need.
RANGES: dict[str, tuple[Fraction, Fraction]] = {
    "all": (Fraction(0), Fraction(1)),
    "first_quarter": (Fraction(0), Fraction(1, 4)),
    "second_quarter": (Fraction(1, 4), Fraction(1, 2)),
    "third_quarter": (Fraction(1, 2), Fraction(3, 4)),
    "last_quarter": (Fraction(3, 4), Fraction(1)),
    "middle": (Fraction(1, 3), Fraction(5, 6)),
    "upper": (Fraction(5, 6), Fraction(14, 15)),
}

# What a configuration names, and `inner` brings: the methods register themselves there.
FAST_WEIGHTS = Registry("fast_weights", "ttt_retrofit.fast_weights")
INNER_RULES = Registry("inner_rule", "ttt_retrofit.inner_rules")
INNER_OPTIMIZERS = Registry("inner_optimizer", "ttt_retrofit.inner_optimizers")

MOST = 2**24  # of anything that memory is set aside for: a larger number is a slip or a damaged file
DECIDE_PARAMETERS = ("fast_weights", "rank", "layers", "target_modules")  # which ones a converted model has
# Fields on which the shape and meaning of what a conversation carries depend.
SHAPES_STATE = (
    *DECIDE_PARAMETERS,
    "chunk_size",
    "sliding_window",
    "sink_tokens",
    "inner_rule",
    "inner_optimizer",
)


class JSONFields:
    """Settings as a dictionary of JSON values, and back."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`. Unknown keys raise `ConfigError`."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON values."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


@settings()
@dataclass(frozen=True, repr=False)
class TTTConfig(JSONFields):
    """How a pretrained decoder learns while it reads (TTT-E2E, arXiv 2512.23675, §2, retrofitted).

    Raises
    ------
    ConfigError
        For a value outside its range, or values that contradict each other, such as a chunk longer than the window.
    """

    fast_weights: str = field(
        default="delta",
        metadata={
            "help": "'delta' a full matrix | 'subspace' one on calibrated directions of the input | 'lora' low rank | "
            "'prime' an added gated MLP (TTT-E2E's dual MLP)"
        },
    )
    rank: int = field(
        default=16, metadata={"help": "directions of 'subspace', at most; rank of 'lora'; hidden width of 'prime'"}
    )
    layers: LayerSelection = field(
        default="middle",
        metadata={
            "help": "a range ('all', 'middle', 'upper', 'last_quarter', ...), a fraction from the top, or indices"
        },
    )
    target_modules: tuple[str, ...] = field(
        default=("down",), metadata={"help": "roles 'gate', 'up', 'down', or module names such as 'down_proj'"}
    )
    chunk_size: int = field(default=256, metadata={"help": "the inner mini-batch, in tokens"})
    sliding_window: int | None = field(
        default=2048, metadata={"help": "tokens a query attends to, including itself; None keeps the base's attention"}
    )
    sink_tokens: int = field(default=4, metadata={"help": "first tokens of a sequence, always attended to"})
    inner_rule: str = field(
        default="gradient",
        metadata={"help": "direction of a step: the 'gradient' of the chunk's loss | 'in_place' (In-Place TTT)"},
    )
    inner_optimizer: str = field(default="adam", metadata={"help": "'sgd' | 'normalized_sgd' | 'adam' | 'muon'"})
    inner_lr: float | None = field(
        default=None,
        metadata={"help": "step size of the inner optimizer; None uses `relative_lr`, which suits any model"},
    )
    relative_lr: float | None = field(
        default=None,
        metadata={
            "help": "step size in units of the root mean square of each matrix, used where `inner_lr` is None; "
            "None uses the measured default of the optimizer"
        },
    )
    max_relative_update: float = field(
        default=0.1,
        metadata={"help": "trust region: largest norm of the change of a matrix, relative to the norm of the matrix"},
    )
    learn_from: LearnFrom = field(
        default="all", metadata={"help": "tokens the inner loop learns from: 'all' | 'prompt' (not generated) | 'none'"}
    )

    def __post_init__(self) -> None:
        # JSON and users hand over lists; a frozen, hashable configuration holds tuples.
        if isinstance(self.layers, list):
            object.__setattr__(self, "layers", tuple(self.layers))
        if isinstance(self.target_modules, str):
            object.__setattr__(self, "target_modules", (self.target_modules,))
        elif isinstance(self.target_modules, list):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))
        self._check_choices()
        check_layers(self.layers)
        self._check_sizes()
        self._check_step()

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TTTConfig:
        """A named setting (`docs/ablation.md`, `docs/research-log/inner-loop.md`), with `changes` applied.

        Parameters
        ----------
        name : {"default", "fast", "small", "accelerator"}
            "default" closes most of the gap to full attention; "fast" trades part of that for reading speed; "small"
            carries a ninth of the default's fast weights and moments, and less of larger models'; "accelerator" is
            "small" in chunks of 1,024 tokens under a window of 2,048.
        """
        if name not in PRESETS:
            raise ConfigError(f"Unknown preset {name!r}. Presets are {sorted(PRESETS)}.")
        return cls(**{**PRESETS[name], **changes})

    @property
    def step_size(self) -> tuple[float, bool]:
        """The inner learning rate, and whether it is in units of the matrix it steps beside."""
        if self.inner_lr is not None:
            return self.inner_lr, False
        if self.relative_lr is not None:
            return self.relative_lr, True
        own: dict[str, float] = FAST_WEIGHTS.get(self.fast_weights).relative_lr
        return own.get(self.inner_optimizer, INNER_OPTIMIZERS.get(self.inner_optimizer).relative_lr), True

    @property
    def in_words(self) -> str:
        """The configuration in one line."""
        rate, relative = self.step_size
        window = "the base's own window" if self.sliding_window is None else f"window {self.sliding_window}"
        kind = self.fast_weights if self.fast_weights == "delta" else f"{self.fast_weights} of rank {self.rank}"
        return (
            f"{window}, sinks {self.sink_tokens}, chunk {self.chunk_size}, {kind} on "
            f"{'/'.join(self.target_modules)} of layers {self.layers}, {self.inner_rule}, "
            f"{self.inner_optimizer} {rate:g}{' of each matrix' if relative else ''}"
        )

    @property
    def reach(self) -> float:
        """The largest distance of two tokens that attend to each other, sinks included."""
        if self.sliding_window is None:
            return math.inf
        return self.sliding_window + self.chunk_size + self.sink_tokens

    def state_differences(self, here: TTTConfig) -> list[str]:
        """Why state made with this configuration cannot be used with `here`, in words; empty if it can."""
        return [
            f"{name}={getattr(self, name)!r} there, {getattr(here, name)!r} here"
            for name in SHAPES_STATE
            if getattr(self, name) != getattr(here, name)
        ]

    def _check_choices(self) -> None:
        for methods in (FAST_WEIGHTS, INNER_RULES, INNER_OPTIMIZERS):
            methods.get(getattr(self, methods.setting))
        if self.learn_from not in get_args(LearnFrom):
            raise ConfigError(
                f"learn_from={self.learn_from!r} is not known. Choose one of {list(get_args(LearnFrom))}."
            )
        INNER_RULES.get(self.inner_rule)().check_config(self)
        names = self.target_modules
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(
                f"target_modules={names!r}: expected roles {list(ROLES)} or module names such as 'down_proj'."
            )

    def _check_sizes(self) -> None:
        for name, least in (("rank", 1), ("chunk_size", 2), ("sink_tokens", 0)):
            value = getattr(self, name)
            if not is_integer(value) or value < least:
                raise ConfigError(f"{name}={value!r}: expected an integer of at least {least}.")
            if value > MOST:
                raise ConfigError(f"{name}={value}: expected at most {MOST}: memory is allocated for all of it.")
        window = self.sliding_window
        if window is None:
            return
        if not is_integer(window) or window < 1:
            raise ConfigError(
                f"sliding_window={window!r}: expected a positive integer, or None for the base's attention."
            )
        if window > MOST:
            raise ConfigError(
                f"sliding_window={window}: expected at most {MOST}: its keys and values are allocated at once. "
                "None keeps the base's attention."
            )
        if window <= self.sink_tokens:
            raise ConfigError(
                f"sliding_window={window} is not larger than sink_tokens={self.sink_tokens}. "
                "Widen the window or use fewer sinks."
            )
        if self.chunk_size > window:
            raise ConfigError(
                f"chunk_size={self.chunk_size} is longer than sliding_window={window}: tokens of one chunk could not "
                "see each other. Use chunk_size <= sliding_window."
            )

    def _check_step(self) -> None:
        for name in ("inner_lr", "relative_lr"):
            rate = getattr(self, name)
            if rate is not None and not (is_number(rate) and 0 <= rate < float("inf")):
                raise ConfigError(f"{name}={rate!r}: expected None or a finite number of at least 0.")
        if not is_number(self.max_relative_update) or not self.max_relative_update > 0:
            raise ConfigError(f"max_relative_update={self.max_relative_update!r}: expected a positive number.")


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_flag(name: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is a bool. Any string would count as true, "False" and "no" too."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r}: expected True or False.")


def check_layers(layers: object) -> None:
    """Raise `ConfigError` unless `layers` is a `LayerSelection`."""
    if isinstance(layers, str):
        valid = layers in RANGES
    elif isinstance(layers, float):
        valid = 0 < layers <= 1
    elif isinstance(layers, tuple):
        valid = len(layers) > 0 and all(is_integer(i) and i >= 0 for i in layers) and len(set(layers)) == len(layers)
    else:
        valid = False
    if not valid:
        expected = f"one of {list(RANGES)}, a fraction in (0, 1], or a list of indices"
        raise ConfigError(f"layers={layers!r}: expected {expected}.")


SMALL: dict[str, Any] = {"fast_weights": "subspace", "rank": 512, "inner_optimizer": "normalized_sgd"}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {"layers": "upper", "relative_lr": 5e-3},
    "small": SMALL,
    "accelerator": SMALL | {"chunk_size": 1024, "sliding_window": 2048},
}
