"""Notes: sentences of a context kept word for word, laid out as tensors so that they are checksummed with the rest.

Weights recall what was studied, in the words of the study; notes hold strings exactly. They are put before a prompt,
and cost its tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..util.messages import Message
from .facts import Fact

# A turn of its own rather than the system's: templates differ in what they do with a second system prompt.
OPENING, REPLY = "Notes of what I told you earlier; later ones hold:", "Thank you for telling me."


@dataclass(frozen=True)
class Note:
    """One sentence."""

    text: str
    worth: float  # of its place, against other notes
    tokens: int


def pack_notes(notes: Sequence[Note]) -> dict[str, Tensor]:
    """The notes as tensors, texts laid end to end in UTF-8; nothing for none."""
    if not notes:
        return {}
    texts = [note.text.encode() for note in notes]
    return {
        "notes|text": torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8),
        "notes|bytes": torch.tensor([len(text) for text in texts], dtype=torch.int32, device="cpu"),
        "notes|worth": torch.tensor([note.worth for note in notes], dtype=torch.float64, device="cpu"),
        "notes|tokens": torch.tensor([note.tokens for note in notes], dtype=torch.int32, device="cpu"),
    }


def unpack_notes(tensors: dict[str, Tensor]) -> tuple[Note, ...]:
    """The inverse of `pack_notes`. Raises `ValueError` where the sizes are not those of the texts."""
    if "notes|text" not in tensors:
        return ()
    whole, texts = bytes(tensors["notes|text"].tolist()), []
    sizes = tensors["notes|bytes"].tolist()
    if min(sizes, default=0) < 0 or sum(sizes) != len(whole):
        raise ValueError(f"its notes are of {sum(sizes)} bytes, {len(whole)} are there")
    for size in sizes:
        texts.append(whole[:size].decode())
        whole = whole[size:]
    rest = zip(texts, tensors["notes|worth"].tolist(), tensors["notes|tokens"].tolist())
    return tuple(Note(text, worth, tokens) for text, worth, tokens in rest)


def as_turn(notes: Iterable[Note], facts: Iterable[Fact] = ()) -> list[Message]:
    """The notes, and facts that are words, as a turn of chat messages; no message where there are none."""
    lines = [*(note.text for note in notes), *(fact.text for fact in facts)]
    if not lines:
        return []
    return [
        {"role": "user", "content": "\n".join([OPENING, *lines])},
        {"role": "assistant", "content": REPLY},
    ]
