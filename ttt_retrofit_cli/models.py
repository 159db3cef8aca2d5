"""`convert` and `info`: checkpoints made and looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ttt_retrofit.config import TTTConfig
from ttt_retrofit.errors import ConfigError, UnsupportedModelError
from ttt_retrofit.inner.discovery import Site, find_sites
from ttt_retrofit.inner.fast_weights import fast_weights
from ttt_retrofit.inner.inner_optimizers import inner_optimizer
from ttt_retrofit.inner.inner_rules import inner_rule
from ttt_retrofit.streaming.kv import layout

from .loading import Choices, is_converted, load_config, load_model, load_tokenizer, written_whole
from .output import Output, facts, megabytes

FULL = 4  # bytes of float32, in which fast weights are kept


def convert(out: Output, base: str, target: Path, choices: Choices) -> None:
    """Write a base as a converted checkpoint, with its tokenizer."""
    if is_converted(load_config(base, choices)):
        raise ConfigError(f"{base} is converted already. Expected a base, as it was published.")
    with written_whole(target) as directory:
        with out.aside.status(f"loading {base}"):
            model, tokenizer = load_model(base, choices, "cpu"), load_tokenizer(base, choices)
        with out.aside.status(f"writing {target}"):
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
    learn = _count([site.site for site in model.sites], model.ttt)
    out.result(
        {"base": base, "saved": str(target), "parameters_that_learn": learn, "ttt": model.ttt.to_dict()},
        f"{target}: {base}, converted. {learn:,} parameters of it learn while it reads.",
    )


def info(out: Output, name: str, choices: Choices) -> None:
    """What a model is and how it would read, from its configuration: no weight is loaded."""
    config = load_config(name, choices)
    converted = is_converted(config)
    ttt = choices.of_converted(name, config.ttt) if converted else choices.config()
    width = torch.empty(0, dtype=config.dtype or torch.float32, device="cpu").element_size()
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UnsupportedModelError(f"{name}: {config.model_type} has no causal language model in transformers.")
    with torch.device("meta"):  # in 16 bits, the one width that every kernel takes without data
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if converted:
        model = model.unwrap()
    text = model.config.get_text_config(decoder=True)
    sites = find_sites(model, ttt)
    inner_rule(ttt).check_model(sites, model.get_input_embeddings())
    learn, by_token = _count(sites, ttt), _bytes_of_a_token(model, width)
    tracks = [track for _, tracks, of in [layout(text, ttt)] for track in (tracks[index] for index in of)]
    unbounded = any(track.capacity is None for track in tracks)
    kept = None if unbounded else sum(size * (track.capacity or 0) for size, track in zip(by_token, tracks))
    fast = (1 + len(inner_optimizer(ttt.inner_optimizer).slots)) * learn * FULL
    parameters = sum(parameter.numel() for parameter in model.parameters())
    document = {
        "model": name,
        "converted": converted,
        "family": text.model_type,
        "layers": text.num_hidden_layers,
        "parameters": parameters,
        "sites": [site.path for site in sites],
        "parameters_that_learn": learn,
        "state_bytes_per_row": {"fast_weights": fast, "keys_and_values": kept},
        "full_attention_bytes_per_token": sum(by_token),
        "ttt": ttt.to_dict(),
    }
    at = ", ".join(str(index) for index in sorted({site.layer for site in sites}))
    shown = facts({
        "model": name,
        "family": f"{text.model_type}, {text.num_hidden_layers} layers, {parameters / 1e6:,.1f} M parameters",
        "converted": "yes" if converted else "no; what follows is how it would read",
        "learns in layers": f"{at} ({', '.join(sorted({site.role for site in sites}))})",
        "parameters that learn": f"{learn:,}",
        "window, sinks, chunk": f"{ttt.sliding_window}, {ttt.sink_tokens}, {ttt.chunk_size} tokens",
        "state of a row": f"{megabytes(fast)} of fast weights and {ttt.inner_optimizer}'s moments, "
        + ("and the keys and values of every token" if kept is None else f"{megabytes(kept)} of keys and values"),
        "full attention keeps": f"{sum(by_token):,} bytes a token",
    })  # fmt: skip
    out.result(document, shown)


def _count(sites: list[Site], ttt: TTTConfig) -> int:
    """Fast weights of one row."""
    kind = fast_weights(ttt)
    return sum(rows * columns for site in sites for rows, columns in kind.shapes(site).values())


def _bytes_of_a_token(model: Any, width: int) -> list[int]:
    """What each layer keeps of one token, at `width` bytes a number: asked of the family's forward, without data."""
    model.config.pad_token_id = None  # else some families look for it among tokens that have no value
    with torch.no_grad():
        kept = model(torch.zeros(1, 1, dtype=torch.long, device="meta"), use_cache=True).past_key_values
    return [
        width * (layer.keys.numel() + layer.values.numel()) if layer.keys is not None else 0 for layer in kept.layers
    ]
