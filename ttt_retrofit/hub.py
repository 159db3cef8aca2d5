"""Saving and pushing converted models: the shim that makes remote loading work, and the model card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers.utils.quantization_config import QuantizationMethod

from .config import TTTConfig

MODEL_TYPE = "ttt_retrofit"
SHIM = "modeling_ttt_retrofit"
AUTO_MAP = {"AutoConfig": f"{SHIM}.TTTModelConfig", "AutoModelForCausalLM": f"{SHIM}.TTTForCausalLM"}
SHIM_SOURCE = '''"""Loads this checkpoint through the installed package: pip install ttt-retrofit"""

from ttt_retrofit import TTTForCausalLM, TTTModelConfig  # noqa: F401
'''
TAGS = ["ttt", "test-time-training", "ttt-retrofit"]


class SavingMixin:
    """Saves a converted model so that plain `from_pretrained` brings it back."""

    ttt: TTTConfig
    config: Any

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, losses: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """As `PreTrainedModel.save_pretrained`, with a model card and what loading by `trust_remote_code` needs.

        Parameters
        ----------
        losses : measured figures for the card, such as {"window": 3.26, "window + TTT": 3.19}, nats per token.
        """
        forget_gguf(self)
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        Path(save_directory, f"{SHIM}.py").write_text(SHIM_SOURCE)
        Path(save_directory, "README.md").write_text(str(model_card(self, losses)))
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]

    def push_to_hub(self, repo_id: str, *, losses: dict[str, float] | None = None, **kwargs: Any) -> str:
        """As `PreTrainedModel.push_to_hub`; the card names the repository and gives `losses` if they are given."""
        kwargs["tags"] = [*TAGS, *(kwargs.get("tags") or [])]
        self._card = {"losses": losses, "repo_id": repo_id}
        try:
            return super().push_to_hub(repo_id, **kwargs)  # type: ignore[misc]
        finally:
            del self._card


def forget_gguf(model: Any) -> None:
    """A model loaded from GGUF is dequantised, yet keeps a quantizer that refuses to save."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None or quantizer.quantization_config.quant_method != QuantizationMethod.GGUF:
        return
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config


def model_card(model: Any, losses: dict[str, float] | None) -> ModelCard:
    """A card with base model, tags, a loading snippet, the configuration and measured losses if given."""
    pushed = getattr(model, "_card", {"losses": None, "repo_id": None})
    losses = losses or pushed["losses"]
    base = model.config._name_or_path or None
    named = pushed["repo_id"] or "path/or/repository"
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        # A local directory is not a repository; the hub rejects cards that name one.
        base_model=base if base and not os.path.isdir(base) and base.count("/") == 1 else None,
        base_model_relation="finetune" if base and not os.path.isdir(base) and base.count("/") == 1 else None,
        tags=TAGS,
    )
    settings = "\n".join(f"| `{name}` | `{value}` |" for name, value in model.ttt.to_dict().items())
    text = f"""---
{data.to_yaml()}
---

# {type(model)._base_class.__name__} with test-time training

Converted from {base or "a local checkpoint"} with `ttt_retrofit`. While it reads, fast weights added to its MLPs take a
gradient step on the next-token loss of each chunk, under a sliding window with attention sinks: cost and memory per token
stay constant, however long the context.

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
    if losses:
        rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in losses.items())
        text += f"\n## Measured\n\n| setting | nats/token |\n|---|---|\n{rows}\n"
    return ModelCard(text)
