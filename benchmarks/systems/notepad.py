"""Notepads beside the window: whole sentences of what was read, chosen without knowing the question.

Two ways to choose, by rarity of their words and by reconstruction, as KVzip does it for single keys; two ways to keep,
as keys and values or as text that is read again. N tokens of the context, L layers, G key-value heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ttt_retrofit import InputError
from ttt_retrofit.consolidation.note_selection import rarity, select_notes
from ttt_retrofit.memory.notes import Note

from ..harness.english import sentences
from .evict import Context, Kept, keep_tokens, read, whole


@dataclass(frozen=True)
class Sentence:
    text: str
    tokens: tuple[int, ...]  # where in the context they stand


def sentences_of(context: str, tokenizer: PreTrainedTokenizerBase) -> list[Sentence]:
    """The sentences of a context, with the tokens they are made of."""
    offsets = tokenizer(context, return_offsets_mapping=True)["offset_mapping"]
    found, end, token = [], 0, 0
    for text in sentences(context):
        start = context.find(text, end)
        if start < 0:  # a wrapped line was joined
            continue
        end = start + len(text)
        while token < len(offsets) and offsets[token][1] <= start:
            token += 1
        last = token
        while last < len(offsets) and offsets[last][0] < end:
            last += 1
        found.append(Sentence(text, tuple(range(token, last))))
        token = last
    return found


def by_rarity(parts: Sequence[Sentence]) -> list[float]:
    return [rarity(part.text, len(part.tokens)) for part in parts]


def by_reconstruction(parts: Sequence[Sentence], scores: Tensor) -> list[float]:
    """The mean over a sentence's tokens, and all heads, of KVzip's scores (L, G, N)."""
    by_token = scores.mean((0, 1))
    return [by_token[list(part.tokens)].mean().item() if part.tokens else 0.0 for part in parts]


def as_keys(
    context: Context, parts: Sequence[Sentence], scores: Sequence[float], budget: int, window: int, sinks: int
) -> Kept:
    """The keys and values of the sinks, of the best sentences, and of the window."""
    tokens = len(context.ids)
    written = [index for n in best(parts, scores, budget) for index in parts[n].tokens]
    kept = {*range(sinks), *written, *range(tokens - window, tokens)}
    return keep_tokens(context, torch.tensor(sorted(kept), device=context.ids.device))


def as_text(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    ids: Tensor,
    parts: Sequence[Sentence],
    scores: Sequence[float],
    budget: int,
    window: int,
) -> Kept:
    """The best sentences and the last tokens, read on their own: nothing else of the context is left."""
    notes = " ".join(parts[n].text for n in best(parts, scores, budget))
    written = torch.tensor(tokenizer(notes + "\n").input_ids, device=ids.device)
    return whole(read(model, torch.cat([written, ids[-window:]])))


def best(parts: Sequence[Sentence], scores: Sequence[float], budget: int) -> list[int]:
    """Numbers of the sentences that are kept, in the order of the text.

    Raises
    ------
    InputError
        When not one of them fits.
    """
    notes = [Note(part.text, score, len(part.tokens)) for part, score in zip(parts, scores)]
    kept = select_notes(notes, budget)
    if not kept:
        shortest = min((note.tokens for note in notes), default=0)
        raise InputError(
            f"None of {len(notes)} sentences fits into {budget} tokens; the shortest has {shortest}. "
            "Use a larger window."
        )
    return kept
