"""Notes: sentences of a context kept word for word, laid out as tensors so that they are checksummed with the rest.

Weights recall what was studied, in the words of the study; notes hold strings exactly. They are put into a prompt,
and cost its tokens. So are facts that are words alone. The form in which a prompt has them is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..util.messages import Message
from .facts import Fact

OPENING, REPLY = "Notes of what I told you earlier; later ones hold:", "Thank you for telling me."
TOLD = "Notes of what the user told you earlier; later ones hold:"  # where the user does not say it
Place = Literal["turn", "system", "question"]


@dataclass(frozen=True)
class NoteForm:
    """How a prompt has notes and facts in words.

    Attributes
    ----------
    place : "turn", an exchange before the others; "system", in the system prompt; "question", in the user's last
        message, before the rest of it.
    listed : a dash before every line.
    dated : with the day on which a fact was said.
    most : facts. Of more, those that share words with the user's last message come first, then the newest.
    """

    place: Place = "turn"
    listed: bool = False
    dated: bool = False
    most: int = 32


FORM = NoteForm()


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


def line_of(fact: Fact, form: NoteForm = FORM) -> str:
    """A fact as a note has it."""
    day = f"{fact.said_at}: " if form.dated and fact.said_at else ""
    return day + fact.text


def with_lines(messages: Sequence[Message], lines: Iterable[str], form: NoteForm = FORM) -> list[Message]:
    """Chat messages with a note of some lines, oldest first; as they are where there is none."""
    lines, given = list(lines), list(messages)
    if not lines:
        return given
    note = "\n".join(f"- {line}" if form.listed else line for line in lines)
    system = given[:1] if given and given[0]["role"] == "system" else []
    if form.place == "system":
        told = "\n\n".join([*(message["content"] for message in system), f"{TOLD}\n{note}"])
        return [{"role": "system", "content": told}, *given[len(system) :]]
    if form.place == "question" and given and given[-1]["role"] == "user":
        return [*given[:-1], {**given[-1], "content": f"{OPENING}\n{note}\n\n{given[-1]['content']}"}]
    # A turn of its own: templates differ in what they do with a second system prompt.
    turn = [{"role": "user", "content": f"{OPENING}\n{note}"}, {"role": "assistant", "content": REPLY}]
    return [*system, *turn, *given[len(system) :]]
