"""Collects the data of pictures from a model. It draws nothing.

T tokens, S sites, N chunks, Q questions, L layers, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import evaluation as measure
from ..consolidation.prompts import Prompts, fill
from ..errors import InputError, UnsupportedModelError
from ..evaluation import FULL, SINKS, TTT, Advance, Reading
from ..inner.discovery import decoder_layers
from ..inner.learning import displacements
from ..memory.memory import Memory
from ..util.prompt_formatter import PromptFormatter
from .data import MemoryEffect, TextRead

Context = str | list[dict[str, Any]]


def text_read(
    model: Any, tokenizer: PreTrainedTokenizerBase, ids: Tensor, bars: dict[str, Advance] | None = None
) -> TextRead:
    """Read a text twice with a converted model, without updates and with.

    Parameters
    ----------
    ids : (1, T) token ids.
    bars : what is told of the tokens read, by name of the system (`measure.SINKS`, `measure.TTT`).
    """
    told, config = bars or {}, model.ttt
    measure.configure(model, config, SINKS)
    without = measure.streaming(model, ids, told.get(SINKS))
    measure.configure(model, config, TTT)
    cache, moved = model.new_cache(), list[Tensor]()

    def advance(read: int) -> None:
        if read == config.chunk_size:  # whole chunks only: after less, nothing has moved
            moved.append(displacements(model, cache.fast).cpu())
        if TTT in told:
            told[TTT](read)

    updated = measure.streaming(model, ids, advance, cache)
    return TextRead(
        tokens=[str(tokenizer.decode([token])) for token in ids[0].tolist()],
        without=without.losses,
        updated=updated.losses,
        sites=[f"{site.site.layer} {site.site.role}" for site in model.sites],
        moved=torch.stack(moved, 1) if moved else torch.zeros(len(model.sites), 0, device="cpu"),
        chunk=config.chunk_size,
        window=config.sliding_window,
        state={SINKS: list(without.state_by_call), TTT: list(updated.state_by_call)},
    )


def with_full_attention(read: TextRead, full: Reading) -> TextRead:
    """The same, with what `measure.full_attention` of the plain model gave."""
    return replace(read, full=full.losses, state={FULL: list(full.state_by_call), **read.state})


@torch.no_grad()
def memory_effect(
    model: Any, tokenizer: PreTrainedTokenizerBase, memory: Memory, context: Context, questions: Sequence[str]
) -> MemoryEffect:
    """The hidden states before the answer to each question: with the context, without it, and with the memory instead.

    Parameters
    ----------
    model : a converted model; it does not learn while it is asked.
    context : the text or the chat messages that the memory was made of.

    Raises
    ------
    InputError
        For no question.
    UnsupportedModelError
        When no norm is found beside the layers, or a token has more than one hidden state.
    """
    if not questions:
        raise InputError("memory_effect() was given no question. Give at least one that the context answers.")
    prompts = Prompts.load(None)
    formatter = PromptFormatter(tokenizer, prompts.plain)
    states, lens, answers = [], [], []
    for question in questions:
        alone = formatter.asked(question)
        full = _last_states(model, _in_context(formatter, prompts, context, question), None)
        found = [full, _last_states(model, alone, None), _last_states(model, alone, memory)]
        scores = torch.stack([_lens(model, state) for state in found])  # (3, L + 1, V)
        answer = int(scores[0, -1].argmax())
        states.append(torch.stack(found))
        lens.append(scores[..., answer])
        answers.append(str(tokenizer.decode([answer])))
    return MemoryEffect(list(questions), answers, torch.stack(states, 1).cpu(), torch.stack(lens, 1).cpu())


def _in_context(formatter: PromptFormatter, prompts: Prompts, context: Context, question: str) -> list[int]:
    if not isinstance(context, str):
        return formatter.asked(question, context)
    if formatter.chat:
        return formatter.asked(fill(prompts.reading, context=context, question=question))
    return formatter.asked(question, [{"role": "user", "content": context}])


def _last_states(model: Any, ids: list[int], memory: Memory | None) -> Tensor:
    """(L + 1, D) the hidden states of the last token, float32."""
    given = torch.tensor([ids], device=model.device)
    output = model(given, memories=[memory], learn_from="none", output_hidden_states=True, logits_to_keep=1)
    shapes = {tuple(state.shape) for state in output.hidden_states}
    if any(len(shape) != 3 for shape in shapes):
        raise UnsupportedModelError(
            f"{type(model).__name__} has hidden states of shapes {sorted(shapes)}; expected (batch, tokens, width), a "
            "state for each token. What a memory changes cannot be drawn for it."
        )
    return torch.stack([state[0, -1].float() for state in output.hidden_states])


def _lens(model: Any, states: Tensor) -> Tensor:
    """(L + 1, V) log-probabilities that the model's own last norm and head read off each state.

    The last state has passed the norm already: transformers gives it so.
    """
    norm, head = final_norm(model), model.get_output_embeddings()
    normed = torch.cat([norm(states[:-1].to(model.dtype)), states[-1:].to(model.dtype)])
    logits: Tensor = head(normed)
    return logits.float().log_softmax(-1)


def final_norm(model: PreTrainedModel) -> torch.nn.Module:
    """The norm that a decoder applies after its layers: the first that stands behind the list of them, or else before.

    Raises
    ------
    UnsupportedModelError
        When there is none beside the layers. The message names the modules that were seen.
    """
    prefix, _ = decoder_layers(model)
    owner, _, name = prefix.rpartition(".")
    children = list(model.get_submodule(owner).named_children())
    at = [child for child, _ in children].index(name)
    for _, module in [*children[at:], *reversed(children[:at])]:
        if "norm" in type(module).__name__.lower():
            return module
    raise UnsupportedModelError(
        f"{owner} has no norm beside its layers; its modules are {[type(module).__name__ for _, module in children]}. "
        "The logit lens cannot be drawn for it."
    )
