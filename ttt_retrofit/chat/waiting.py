"""Facts that wait: told in messages that are not memory yet, and known as words until they are.

Of a message that the writer has read, they are what it listed; before, the user's own sentences as they stand. What was
read belongs to its message by a digest, so that it goes with the message, whoever drops it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..consolidation.facts.related import Related
from ..consolidation.facts.turns import ASKS, Turn, turns_of
from ..consolidation.study.statements import Statement, of_conversation
from ..memory.checks import is_fact
from ..memory.facts import Fact
from ..memory.notes import NoteForm, line_of
from ..util.files import read_list
from ..util.messages import Message
from .directory import FACTS, stored_messages

NEWEST = 128  # messages whose facts are held ready; with more, the oldest wait to become memory
BEFORE = 2  # messages before the first that was not read, one of which it may reply to
READ = 24  # messages, the newest, that the writer reads before they become memory


class AsSaid(Turn):
    """A message whose relative days stay as they were said: no answer waits for the tenths of a second to find them."""

    @property
    def dated(self) -> str:
        return self.text


@dataclass(frozen=True)
class ReadMessage:
    """What the writer found in one message.

    Attributes
    ----------
    message, before : digests of the message and of the one before it, "" where there was none.
    facts : what it tells; of that nothing may be left.
    ends : ids of earlier facts, waiting ones or a memory's, that no longer hold.
    """

    message: str
    before: str
    facts: tuple[Fact, ...]
    ends: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON values."""
        return dataclasses.asdict(self) | {"facts": [fact.to_dict() for fact in self.facts], "ends": list(self.ends)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ReadMessage:
        """Of what `is_read` accepts."""
        facts = tuple(map(Fact.from_dict, values["facts"]))
        return cls(values["message"], values["before"], facts, tuple(values["ends"]))


def is_read(found: Any) -> bool:
    """Whether it is what `to_dict` writes."""
    return (
        isinstance(found, dict)
        and set(found) == {"message", "before", "facts", "ends"}
        and all(isinstance(found[name], str) for name in ("message", "before"))
        and all(isinstance(found[name], list) for name in ("facts", "ends"))
        and all(map(is_fact, found["facts"]))
        and all(isinstance(name, str) for name in found["ends"])
    )


def digest(message: Message) -> str:
    """Tells a message from others."""
    said = [message["role"], message["content"], message.get("date", "")]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def digests(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Of each message its own, and that of the one before it."""
    own = [digest(message) for message in messages]
    return list(zip(own, ["", *own]))


@dataclass(frozen=True)
class Waiting:
    """The messages of a session that are not memory yet, and what was read of them."""

    messages: Sequence[Message]
    read: Sequence[ReadMessage] = ()

    @classmethod
    def stored(cls, directory: Path) -> Waiting:
        """What waits in a user's directory.

        Raises
        ------
        CheckpointError
            When a file is damaged.
        """
        read = read_list(directory / FACTS, "facts", is_read, "Move it away; the turns are then read again.")
        return cls(stored_messages(directory), tuple(map(ReadMessage.from_dict, read)))

    def turns(self) -> list[Turn]:
        """The newest messages that say something."""
        first = max(0, len(self.messages) - NEWEST)
        return [dataclasses.replace(t, place=t.place + first) for t in turns_of(self.messages[first:])]

    def by_place(self) -> dict[int, ReadMessage]:
        """What was read, by the place of its message. The first message may have lost the one before it."""
        known = {(one.message, one.before): one for one in self.read}
        alone = {one.message: one for one in self.read}
        found = {n: known.get(pair) for n, pair in enumerate(digests(self.messages))}
        if found and found[0] is None:
            found[0] = alone.get(digest(self.messages[0]))
        return {place: one for place, one in found.items() if one is not None}

    def unread(self) -> list[int]:
        """Places of the newest messages that say something and were not read."""
        read = self.by_place()
        return [turn.place for turn in self.turns()[-READ:] if turn.place not in read]

    def facts(self, may: Callable[[Fact], bool] | None) -> list[Fact]:
        """What waits, oldest first; with the status "superseded", what a later fact ends. What was said twice is there
        once, where it was said last.

        may : whether a sentence of a message that was not read may be used as it stands; None where none may.
        """
        read, turns = self.by_place(), self.turns()
        found: dict[int, list[Fact]] = {place: list(one.facts) for place, one in read.items()}
        first = next((number for number, turn in enumerate(turns) if turn.place not in read), len(turns))
        if may is not None and first < len(turns):
            some = turns[max(0, first - BEFORE) :]
            said = [AsSaid(turn.place, turn.said_by, turn.text, turn.date) for turn in some]
            for statement in of_conversation(said, None):
                message = self.messages[statement.message]
                if statement.message not in read and message["role"] == "user":
                    fact = as_fact(statement, message)
                    if may(fact):
                        found.setdefault(statement.message, []).append(fact)
        ended, last = self._ended(found), dict[str, Fact]()
        for place in sorted(found):
            for fact in found[place]:
                before = last.pop(fact.id, None)
                places = (place,) if before is None else (*before.messages, place)
                last[fact.id] = dataclasses.replace(
                    fact,
                    messages=places,
                    status="superseded" if fact.id in ended else "current",
                    superseded_by=ended.get(fact.id),
                )
        return list(last.values())

    def ended(self) -> dict[str, str]:
        """Of facts that no longer hold, of a memory's too, the id of the one that says so."""
        return self._ended({place: one.facts for place, one in self.by_place().items()})

    def _ended(self, told: Mapping[int, Sequence[Fact]]) -> dict[str, str]:
        read, ended = self.by_place(), dict[str, str]()
        for place in sorted(told):
            own = [fact.id for fact in told[place]]
            for name in own:
                ended.pop(name, None)  # what is said again holds again
            if own and place in read:
                ended |= {name: own[-1] for name in read[place].ends if name not in own}
        return ended


def as_fact(statement: Statement, message: Message) -> Fact:
    """A statement of a message as a fact; a reply after the question that it answers."""
    asked = [what for _, what in statement.before[-1:] if what.rstrip().endswith(ASKS)]
    text = " – ".join([*asked, statement.text])
    # By the sentence and the day, so that it has the same id when the rest of its message is changed.
    return Fact.of(text, statement.said_by.lower(), statement.said_at, [], digest({**message, "content": text}))


def note_of(facts: Sequence[Fact], question: str, tokens: int, size: Callable[[str], int], form: NoteForm) -> list[str]:
    """The lines of a note, oldest first: of few facts the newest, of many those about the question before them.

    Parameters
    ----------
    facts : oldest first.
    question : what the user said last.
    tokens : of all lines together, at most. The first fact that does not fit ends the note.
    size : tokens of a line.
    """
    lines = [line_of(fact, form) for fact in facts]
    order = list(range(len(lines)))[::-1]
    if len(lines) > form.most:
        about = Related(lines).to(question, form.most)[::-1]
        order = [*about, *(number for number in order if number not in about)][: form.most]
    kept = []
    for number in order:
        tokens -= size(lines[number])
        if tokens < 0:
            break
        kept.append(number)
    return [lines[number] for number in sorted(kept)]
