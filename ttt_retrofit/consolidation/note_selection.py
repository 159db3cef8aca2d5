"""Selects the sentences of a context that are kept word for word: those that weights recall worst.

Numbers, codes and rare names are what fast weights and studied answers lose, and what a tokenizer has no words for.
So the worth of a sentence is its tokens per word. That needs no forward pass and no question.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from ..memory.entry import Entry
from ..memory.notes import Note
from .facts.checks import WORD

WORD_OR_MARK = re.compile(rf"{WORD.pattern}|[^\w\s]")
FEWEST = 3  # words that a sentence counts as having: one strange word alone says nothing


def rarity(sentence: str, tokens: int) -> float:
    """Tokens for each word and mark of a sentence that takes so many tokens."""
    return tokens / max(len(WORD_OR_MARK.findall(sentence)), FEWEST)


def scored_notes(sentences: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[Note]:
    """Every sentence as a note, with its worth."""
    sizes = ((text, len(tokenizer(text, add_special_tokens=False).input_ids)) for text in sentences)
    return [Note(text, rarity(text, tokens), tokens) for text, tokens in sizes]


def select_notes(notes: Sequence[Note], budget: int) -> list[int]:
    """Numbers of the notes of most worth that fit into so many tokens together, in their order.

    What was said twice is kept once, where it was said last.
    """
    last = {" ".join(note.text.split()): number for number, note in enumerate(notes)}
    kept = []
    for number in sorted(last.values(), key=lambda n: -notes[n].worth):
        if notes[number].tokens <= budget:
            kept.append(number)
            budget -= notes[number].tokens
    return sorted(kept)


def within_budget(entries: Sequence[Entry], budget: int) -> tuple[Entry, ...]:
    """The entries with the notes of most worth among all of them, so that notes do not grow with the memory."""
    owners = [(index, note) for index, entry in enumerate(entries) for note in entry.notes]
    kept = [owners[number] for number in select_notes([note for _, note in owners], budget)]
    return tuple(
        dataclasses.replace(entry, notes=tuple(note for owner, note in kept if owner == index))
        for index, entry in enumerate(entries)
    )
