"""Scores of this directory against NVIDIA's kvpress on one real context: python -m benchmarks.systems.against_kvpress

kvpress is no dependency of this project and pins an older transformers; install it into an environment of its own
(`pip install --no-deps kvpress==0.5.5 'cachetools<6' 'fire<0.7' 'pandas<3'`). It expects `cache_position`, which
transformers no longer passes; a hook adds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from kvpress import ExpectedAttentionPress, KVzipPress, ObservedAttentionPress, SnapKVPress, TOVAPress
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from ..models import model_directory
from ..texts import text
from .evict import read
from .expected_attention import expected_attention
from .h2o import h2o
from .kvzip import kvzip_scores
from .snapkv import snapkv
from .tova import tova

TOKENS = 900


@contextmanager
def with_cache_position(model: Any) -> Iterator[None]:
    def add(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        past = kwargs["past_key_values"].get_seq_length(module.layer_idx)
        return args, kwargs | {"cache_position": torch.arange(past, past + kwargs["hidden_states"].shape[1])}

    with ExitStack() as stack:
        for layer in model.model.layers:
            hook = layer.self_attn.register_forward_pre_hook(add, with_kwargs=True)
            stack.callback(hook.remove)
        yield


def scores_of(model: Any, press: Any, ids: Tensor) -> Tensor:
    """(L, G, N) by a press that scores while it reads."""
    found: list[Tensor] = []
    original = type(press).score

    def score(*args: Any, **kwargs: Any) -> Tensor:
        found.append(original(press, *args, **kwargs)[0])
        return found[-1][None]

    press.score = score
    with with_cache_position(model), press(model):
        model.model(ids[None], past_key_values=DynamicCache())
    return torch.stack(found).float()


def kvzip_scores_of(model: Any, press: Any, ids: Tensor) -> Tensor:
    found: list[Tensor] = []
    press.compress_post = lambda model: found.append(press.score_val[:, 0].float().clone())
    with with_cache_position(model), press(model):
        model.model(input_ids=ids[None], past_key_values=DynamicCache())
    return found[0]


def compare(name: str, ours: Tensor, theirs: Tensor, among: slice) -> None:
    """The largest difference of scores, and how many of the best eighth are the same."""
    ours, theirs = ours[..., among], theirs[..., among]
    kept = ours.shape[-1] // 8
    best = [torch.zeros(s.shape).scatter_(-1, s.topk(kept, -1).indices, 1.0) for s in (ours, theirs)]
    same = (best[0] * best[1]).sum() / best[0].sum()
    relative = (ours - theirs).abs().max() / theirs.abs().max()
    print(f"{name}: largest difference {relative:.1e} of the largest score; same among the best eighth: {same:.2%}")


@torch.no_grad()
def main() -> None:
    directory = model_directory("smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    ids = tokenizer(text("persuasion-excerpt"), return_tensors="pt").input_ids[0, :TOKENS]
    expected = expected_attention(model.model.rotary_emb)
    context = read(model, ids, {"snapkv": snapkv, "h2o": h2o, "tova": tova, "expected": expected})
    ratio = {"compression_ratio": 0.5}
    compare("SnapKV", context.scores["snapkv"], scores_of(model, SnapKVPress(**ratio), ids), slice(0, -64))
    compare("TOVA", context.scores["tova"], scores_of(model, TOVAPress(**ratio), ids), slice(0, -1))
    compare(
        "expected attention", context.scores["expected"], scores_of(model, ExpectedAttentionPress(**ratio), ids),
        slice(4, None),
    )  # fmt: skip
    press = KVzipPress(**ratio)
    # kvpress counts what the chat template puts before a context as its prefix, which it neither repeats nor scores.
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "dummy context#"}], add_generation_prompt=True, tokenize=False
    )
    before, ending = (tokenizer(part, add_special_tokens=False).input_ids for part in asked.split("dummy context#"))
    theirs = kvzip_scores_of(model, press, ids)
    ours = kvzip_scores(model, tokenizer, context, ending, first=len(before))
    compare("KVzip", ours, theirs, slice(len(before), None))
    model.set_attn_implementation("eager")
    theirs = scores_of(model, ObservedAttentionPress(**ratio), ids)
    seen = torch.arange(len(ids), 0, -1)
    compare("H2O, as the mean over queries", context.scores["h2o"] / seen, theirs, slice(None))


if __name__ == "__main__":
    main()
