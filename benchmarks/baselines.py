"""Other ways to put a conversation into weights, for comparison with `consolidate`."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from ttt_retrofit import Memory, MemoryConfig
from ttt_retrofit.consolidation.model_copies import plain_copy
from ttt_retrofit.consolidation.train.distill import Leaves, fresh_leaves
from ttt_retrofit.inner.context import ForwardContext, entering
from ttt_retrofit.inner.hooks import bind
from ttt_retrofit.memory import Entry
from ttt_retrofit.memory.batch import MemoryForward, hooks_for
from ttt_retrofit.memory.collate import collate
from ttt_retrofit.memory.entry import GateKeys
from ttt_retrofit.memory.gates import Background
from ttt_retrofit.memory.projections import find_placement
from ttt_retrofit.util.fingerprint import fingerprint

from .harness.prompts import Message

LORA_STEPS = 60  # of next-token training on a whole conversation


def ungated(model: Any, config: MemoryConfig, layer: str, leaves: Leaves) -> Memory:
    """A memory of these weights that is always active."""
    width = model.config.hidden_size
    background = Background(torch.zeros(width), torch.zeros(width, 0), torch.zeros(0))
    entry = Entry("baseline", (), leaves, GateKeys(torch.zeros(1, width), 0.0, 1.0), (), 0.0)
    return Memory(fingerprint(model), model.name_or_path, config, layer, background, (entry,))


def next_token_memory(model: Any, tokenizer: Any, messages: Sequence[Message], steps: int, lr: float = 1e-3) -> Memory:
    """Next-token training on the raw conversation, with the parameters that `consolidate` has, never gated."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    return text_memory(model, ids[0], steps, lr)


def text_memory(model: Any, ids: Tensor, steps: int, lr: float = 1e-3, part: int | None = None) -> Memory:
    """The same on token ids (N,), all of them in every step, or `part` of them from a random place."""
    config = MemoryConfig(gated=False)
    plain = plain_copy(model)
    placement = find_placement(plain, config)
    bind(plain, hooks_for(placement.layer, [projection.path for projection in placement.projections]))
    leaves = fresh_leaves(placement, config, 0, plain.device)
    tensors = [tensor for by_name in leaves.values() for tensor in by_name.values()]
    optimizer = torch.optim.AdamW(tensors, lr=lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for step in track(range(steps), description="next-token LoRA"):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        memories = collate([ungated(model, config, placement.layer, leaves)], plain.device, torch.float32)
        assert memories is not None
        read = _part(ids, part, generator)
        context = ForwardContext(memory=MemoryForward(memories, None, [len(read)]))
        with torch.enable_grad(), entering(context):
            loss = _loss(plain, read)
        for tensor, gradient in zip(tensors, torch.autograd.grad(loss, tensors)):
            tensor.grad = gradient
        optimizer.step()
    stored = {
        path: {name: leaf.detach().to(torch.bfloat16) for name, leaf in by_name.items()}
        for path, by_name in leaves.items()
    }
    return ungated(model, config, placement.layer, stored)


def fine_tuned(model: Any, ids: Tensor, steps: int, lr: float = 1e-4, part: int | None = None) -> Any:
    """A copy of a plain model, all of its weights trained on the next tokens of (N,) ids."""
    copy = deepcopy(model).float().train(False)  # small steps are lost in 16 bits
    optimizer = torch.optim.AdamW(copy.parameters(), lr=lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for step in track(range(steps), description="fine-tuning"):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        with torch.enable_grad():
            _loss(copy, _part(ids, part, generator)).backward()
        optimizer.step()
    return copy.to(model.dtype)


def _part(ids: Tensor, part: int | None, generator: torch.Generator) -> Tensor:
    """From a random place of a ring: of a line, the ends would hardly ever be read."""
    if part is None or part >= len(ids):
        return ids
    return ids.roll(-int(torch.randint(len(ids), (1,), generator=generator)))[:part]


def _loss(model: Any, ids: Tensor) -> Tensor:
    """Mean next-token loss of (N,) ids."""
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, ids[1:])
