"""Checkpoints of converted models: what stands beside the weights, what is refused, what a card on the hub says."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils.quantization_config import QuantizationMethod

from ..config import TTTConfig
from ..errors import CheckpointError, UnsupportedModelError
from ..inner import layer
from ..util.files import check_regular_inside
from ..util.hub_ids import hub_id
from ..util.shards import check_whole
from . import weights_seal

MODEL_TYPE = "ttt_retrofit"
SHIM = "modeling_ttt_retrofit"
# The configuration alone is enough: reading it registers the derived class with AutoModelForCausalLM.
AUTO_MAP = {"AutoConfig": f"{SHIM}.TTTModelConfig"}
SHIM_SOURCE = '''"""Loads this checkpoint through the installed package: pip install ttt-retrofit"""

from ttt_retrofit import TTTModelConfig  # noqa: F401
'''
CARD = "README.md"
TAGS = ["ttt", "test-time-training", "ttt-retrofit"]
Losses = dict[str, float]

# The mixin stands before the family's class, from which it inherits everything it calls.
if TYPE_CHECKING:
    _Base = PreTrainedModel
else:
    _Base = object


# Whether what is being loaded is a base, for the report of missing tensors, which transformers writes in between. No
# forward runs then, so that it is no part of a `ForwardContext`.
_CONVERTING: ContextVar[bool] = ContextVar("ttt_converting", default=False)


class CheckpointMixin(_Base):
    """Saves a converted model so that plain `from_pretrained` brings it back, and refuses what is not whole."""

    ttt: TTTConfig
    _base_class: type[PreTrainedModel]
    _card_losses: Losses | None = None  # for the card of the push in progress

    def bind_ttt(self) -> None:
        raise NotImplementedError

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        path: str | os.PathLike,
        *args: Any,
        convert: bool = False,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As `PreTrainedModel.from_pretrained`, of a converted checkpoint, or with `convert` of a base.

        Raises
        ------
        CheckpointError
            When a file in the directory is missing or damaged, or its tensors are not those of this model.
        """
        check_regular_inside(Path(path))
        # Mismatches are asked for rather than raised by transformers, whose error does not say which they are.
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        token = _CONVERTING.set(convert)
        try:
            with torch.inference_mode(False):  # tensors made in inference mode could never carry a gradient
                loaded: Any = super().from_pretrained(path, *args, **kwargs)
        except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
            raise CheckpointError(
                f"A file of {path} is cut short or damaged: {error}. Download or save it again."
            ) from error
        except OSError as error:
            if not os.path.isdir(path):
                raise
            raise CheckpointError(
                f"{path} is incomplete or cannot be read: {error} Download or save it again."
            ) from error
        finally:
            _CONVERTING.reset(token)
        model, info = loaded
        _check_loaded(path, info, convert, ignore_mismatched_sizes)
        weights_seal.check(path)  # last: whatever else is wrong can be said more exactly
        settle(model, fresh=convert)
        model.bind_ttt()
        if convert:
            layer.initialise(model)
            layer.warn_of_large_steps(model.sites, model.ttt)
        return (model, info) if output_loading_info else model

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        super()._adjust_missing_and_unexpected_keys(loading_info)
        if _CONVERTING.get():
            # A base has no fast weights; a report of them as missing would only alarm.
            loading_info.missing_keys = {key for key in loading_info.missing_keys if not _is_ttt(key)}

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        *args: Any,
        losses: Losses | None = None,
        **kwargs: Any,
    ) -> None:
        """As `PreTrainedModel.save_pretrained`, with a model card and what loading by `trust_remote_code` needs.

        Parameters
        ----------
        losses : measured figures for the card, such as {"window": 3.26, "window + TTT": 3.19}, nats per token.

        Raises
        ------
        UnsupportedModelError
            For a base from remote code, and for weights that are split over processes.
        CheckpointError
            When the directory cannot be written.
        """
        if self.config.model_type not in CONFIG_MAPPING:
            raise UnsupportedModelError(
                f"{self._base_class.__name__} comes from remote code, so transformers could not load the converted "
                f"checkpoint again. Register it first: AutoConfig.register({self.config.model_type!r}, ...)."
            )
        if not args and kwargs.get("state_dict") is None:
            check_whole(self)
        forget_gguf(self)
        before, self._card_losses = self._card_losses, losses or self._card_losses
        try:
            super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
            # With adapters added through transformers, what was written is an adapter and no converted model.
            if is_main_process and not self._hf_peft_config_loaded:
                self._write_beside(save_directory)
                weights_seal.write(save_directory)
        except (OSError, SafetensorError) as error:  # many of which do not say where
            raise CheckpointError(
                f"{save_directory} could not be written: {error}. Make room, or choose another directory: what is "
                "there now is not whole."
            ) from error
        finally:
            self._card_losses = before

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, losses: Losses | None = None, **kwargs: Any
    ) -> str:
        """As `PreTrainedModel.push_to_hub`. A card on the Hub is kept, and its measured losses are renewed."""
        kwargs["tags"] = [*TAGS, *(kwargs.get("tags") or [])]
        self._card_losses = losses
        try:
            return super().push_to_hub(repo_id, **kwargs)  # type: ignore[arg-type]
        finally:
            self._card_losses = None

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # transformers has just put its own template card there, or the one it found on the hub, with our tags added.
        path = Path(working_dir, CARD)
        tags = ModelCard(path.read_text()).data.to_dict().get("tags", [])
        try:
            ModelCard.load(repo_id, token=kwargs.get("token"))
        except EntryNotFoundError:
            path.write_text(model_card(self, repo_id, tags))
        self._write_beside(working_dir)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def _write_beside(self, directory: str | os.PathLike) -> None:
        Path(directory, f"{SHIM}.py").write_text(SHIM_SOURCE)
        path = Path(directory, CARD)
        card = path.read_text() if path.exists() else model_card(self)
        path.write_text(_with_measured(card, self._card_losses))


def _check_loaded(path: str | os.PathLike, info: dict[str, Any], convert: bool, ignore_mismatched_sizes: bool) -> None:
    if info["mismatched_keys"] and not ignore_mismatched_sizes:
        name, found, expected = sorted(info["mismatched_keys"])[0]
        raise CheckpointError(
            f"{path} holds weights of another base than its config.json describes: {name!r} has shape {tuple(found)}, "
            f"expected {tuple(expected)}, as do {len(info['mismatched_keys']) - 1} more. Put the config.json and the "
            "weights of one model together, or save it again."
        )
    if convert:
        return
    missing, surplus = sorted(info["missing_keys"]), sorted(filter(_is_ttt, info["unexpected_keys"]))
    if surplus:
        raise CheckpointError(
            f"{path} holds {len(surplus)} tensors of fast weights that the `ttt` block of its config.json does not ask "
            f"for, such as {surplus[0]!r}. Restore the config.json they were saved with."
        )
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} tensors that a complete converted checkpoint has, such as {missing[0]!r}. "
            "Save the converted model again, or convert the base anew with wrap()."
        )


def settle(model: PreTrainedModel, fresh: bool) -> None:
    """Keep the sites of offloaded layers in memory; `fresh` ones are not on disk yet.

    accelerate brings a module's tensors back for the time of its forward, and a site has none.
    """
    for site in layer.ttt_sites(model):
        hook = vars(site).pop("_hf_hook", None)
        if hook is None or not hook.offload:
            continue
        for name, tensor in [*site.named_parameters(), *site.named_buffers()]:
            if not tensor.is_meta:
                continue
            stored = torch.empty_like(tensor, device="cpu") if fresh else hook.weights_map[name]
            value = stored.to(hook.execution_device)
            setattr(site, name, nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value)


def _is_ttt(name: str) -> bool:
    return f".{layer.TTT}." in name


def forget_gguf(model: Any) -> None:
    """A model loaded from GGUF is dequantised, yet keeps a quantizer that refuses to save."""
    quantizer = vars(model).get("hf_quantizer")
    if quantizer is None or quantizer.quantization_config.quant_method != QuantizationMethod.GGUF:
        return
    del model.hf_quantizer
    model.is_quantized = False
    del model.config.quantization_config


def model_card(model: Any, repo_id: str | None = None, tags: Sequence[str] = ()) -> str:
    """A card with base model, tags, a loading snippet and the configuration."""
    base = hub_id(model.config.base_model_name_or_path)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base,
        base_model_relation="finetune" if base else None,
        tags=list(dict.fromkeys([*TAGS, *tags])),
    )
    settings = "\n".join(f"| `{name}` | `{value}` |" for name, value in model.ttt.to_dict().items())
    named = repo_id or "path/or/repository"
    return f"""---
{data.to_yaml()}
---

# {model._base_class.__name__} with test-time training

Converted from {base or "a local checkpoint"} with `ttt_retrofit`. While it reads, fast weights added to its MLPs take a
gradient step on the next-token loss of each chunk, under a sliding window with attention sinks: cost and memory per
token stay constant, however long the context.

## Use

```python
import ttt_retrofit  # registers the model type
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{named}")
tokenizer = AutoTokenizer.from_pretrained("{named}")
cache = model.read(long_text, tokenizer=tokenizer)
```

## Test-time training

| setting | value |
|---|---|
{settings}
"""


def _with_measured(card: str, losses: Losses | None) -> str:
    """`card` with its section of measured losses put in or renewed."""
    if not losses:
        return card
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in losses.items())
    section = f"\n## Measured\n\n| setting | nats/token |\n|---|---|\n{rows}\n"
    without = re.sub(r"\n## Measured\n.*?(?=\n## |\Z)", "", card, flags=re.DOTALL)
    return without.rstrip("\n") + "\n" + section
