"""What is studied: one sentence after the other, with who said it, when, and what was said before it."""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...memory.facts import Fact
from ...util.messages import Message
from ..facts.checks import WORD, caseless, folded, verbatim
from ..facts.languages import Language, nearest
from ..facts.listing import ELLIPTIC, Listed
from ..facts.turns import ASKS, USER, Turn
from .sentences import sentences

TEXT = "Text"  # who says what stands in a document
FILLER = re.compile(r"(?=.*[,:，：،])(?:[^\s\d]+\s*){1,5}")  # a few words, without a number and with a comma
EXCLAIMS = ("!", "！")
SHORTEST = 2  # words of a message, or characters of a script without spaces, that may tell something


@dataclass(frozen=True)
class Statement:
    """A sentence that may hold facts."""

    text: str
    said_by: str = TEXT  # "User", "Assistant", "Tool", the name of a speaker, or `TEXT`
    before: tuple[tuple[str, str], ...] = ()  # who said what before, where it is not understood alone
    piece: int = 0  # of a document, that it stands in
    message: int = 0  # of the conversation
    said_at: str | None = None  # ISO 8601

    @property
    def told(self) -> str:
        """With what was said before it, a line each, as a writer reads it."""
        return "\n".join(f"{who}: {what}" for who, what in (*self.before, (self.said_by, self.text)))

    @property
    def understood(self) -> str:
        """With the message before it, where it is not understood alone."""
        return " – ".join([*(what for _, what in self.before[-1:]), self.text])

    @property
    def source(self) -> str:
        """All the words that questions and answers about it may take from it."""
        return " ".join([*(what for _, what in self.before), self.text, self.said_by])

    @property
    def messages(self) -> list[Message]:
        """As a chat tells it."""
        return [{"role": _role(who), "content": what} for who, what in (*self.before, (self.said_by, self.text))]

    def to_list(self) -> list[Any]:
        """JSON values."""
        return [self.text, self.said_by, [list(pair) for pair in self.before], self.piece, self.message, self.said_at]

    @classmethod
    def from_list(cls, values: list[Any]) -> Statement:
        text, said_by, before, piece, message, said_at = values
        return cls(text, said_by, tuple((who, what) for who, what in before), piece, message, said_at)

    def fact(self, source: str) -> Fact:
        """As a person sees it. source: sha256 of the context."""
        return Fact.of(self.understood, self.said_by.lower(), self.said_at, [self.message], source)


def _role(said_by: str) -> str:
    return "assistant" if said_by == "Assistant" else "user"


def of_conversation(turns: Sequence[Turn], listed: Listed | None) -> tuple[Statement, ...]:
    """The statements of a conversation: its facts as they were listed, and messages that left none as they stand."""
    facts = () if listed is None else listed.facts
    found = [
        Statement(fact.text, turn.said_by, message=turn.place, said_at=fact.said_at)
        for fact in facts
        for turn in turns
        if turn.place == fact.messages[0]
    ]
    known = {word for statement in found for word in _words(statement.text)}
    standing: list[Statement] = []
    for number, turn in enumerate(turns):
        told = " ".join(statement.text for statement in found if statement.message == turn.place)
        sentences_left = _as_it_stands(number, turns, known)
        # Of a message that was listed, what names something that none of its facts does.
        standing += [s for s in sentences_left if not told] or [
            replace(s, before=()) for s in sentences_left if _names(s.text, turn) - _words(told)
        ]
        known |= _words(turn.text)
    found += _without_fillers(standing, nearest(" ".join(turn.text for turn in turns)))
    return tuple(sorted(found, key=lambda statement: statement.message))


def _words(text: str) -> set[str]:
    return {folded(word) for word in WORD.findall(text)}


def _names(text: str, turn: Turn) -> set[str]:
    """Names, numbers and codes; of German, whose nouns look like names, the numbers."""
    apart = nearest(turn.text).names
    return {folded(word) for word in verbatim(text) if apart or not word.isalpha()}


def _as_it_stands(number: int, turns: Sequence[Turn], known: set[str]) -> list[Statement]:
    """A message without a listed fact. An assistant that names nothing new, and who only asks, tells nothing."""
    turn, before = turns[number], turns[number - 1] if number else None
    language = nearest(turn.text)
    replies = before is not None and before.asks
    found, earlier = [], () if before is None else ((before.said_by, sentences(before.dated)[-1]),)
    for sentence in sentences(turn.dated):
        new = bool(_names(sentence, turn) - known) or bool(caseless(sentence))
        greets = sentence.endswith(EXCLAIMS) and not language.speaks(sentence)
        silent = (turn.said_by == "Assistant" or sentence.endswith(ASKS) or greets) and not new
        if not silent and _size(sentence) >= (1 if replies else SHORTEST):
            # "My sister lives in Oslo." is understood alone; "She has two dogs." needs what was said before it.
            alone = turn.said_by == USER and language.speaks(sentence) and not (replies and _size(sentence) <= ELLIPTIC)
            shown = () if alone else earlier
            found.append(Statement(sentence, turn.said_by, shown, 0, turn.place, turn.date.isoformat()))
        replies, earlier = False, ((turn.said_by, sentence),)
    return found


def _without_fillers(statements: Sequence[Statement], language: Language) -> list[Statement]:
    """Sentences without what they begin with several times, or in the examples of their language: "By the way, my dog
    limps." It is a few words and a comma, before the speaker is spoken of.
    """
    openings = [language.before_speaker(statement.text) for statement in statements]
    often = Counter(map(folded, filter(None, openings)))
    found = []
    for statement, opening in zip(statements, openings):
        if FILLER.fullmatch(opening) and (often[folded(opening)] > 1 or opening.strip() in language.talk):
            rest = statement.text[len(opening) :]
            found.append(replace(statement, text=f"{rest[:1].upper()}{rest[1:]}"))
        else:
            found.append(statement)
    return found


def _size(sentence: str) -> int:
    return len(caseless(sentence)) or len(WORD.findall(sentence))


def of_document(pieces: Sequence[Sequence[str]], said: datetime.date | None = None) -> tuple[Statement, ...]:
    """The sentences of a document, by pieces."""
    day = None if said is None else said.isoformat()
    return tuple(
        Statement(sentence, piece=number, said_at=day)
        for number, piece in enumerate(pieces)
        for sentence in piece
        if _size(sentence) >= SHORTEST
    )


def as_json(turns: Sequence[Turn]) -> str:
    """What was said, by which one conversation is told from another."""
    said = [
        {"role": {"Assistant": "assistant", "Tool": "tool"}.get(t.said_by, "user"), "content": t.text} for t in turns
    ]
    return json.dumps(said, ensure_ascii=False)


def superseded(fact: Fact, by: Fact | None) -> Fact:
    """The fact where a later one changes it; where nobody knows which, it was taken back."""
    if by is None:
        return replace(fact, status="retracted")
    return replace(fact, status="superseded", superseded_by=by.id)
