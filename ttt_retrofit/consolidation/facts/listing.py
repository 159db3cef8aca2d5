"""Facts of a conversation: written, checked, and those that fail left out and counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...memory.facts import Fact
from .checks import WORD, among, caseless, folded, missing, unlike, verbatim
from .extraction import BEFORE, Written, written_facts
from .related import of_others, terms
from .turns import Turn
from .verdicts import Judge
from .writers import FactWriter

SHORTEST = 3  # words of a fact that names nothing
ELLIPTIC = 5  # words of a message that may not be understood alone
SAID = 0.5  # share of words that must stand in the source: a fact is in its speaker's own words
UNLIKE = 0.5  # share of characters that the source does not hold, in scripts without capitals


@dataclass(frozen=True)
class Listed:
    """What a conversation told, and what a writer made up."""

    facts: tuple[Fact, ...]
    dropped: tuple[tuple[str, str], ...]  # (sentence, why)


def facts_of(
    turns: Sequence[Turn],
    writer: FactWriter,
    progress: Callable[[int, int], None] = lambda done, total: None,
    judge: Judge | None = None,
    since: int = 0,
) -> Listed:
    """The facts that messages tell, in their order. Nothing is listed that names what was not said.

    judge : of what is in other words than its message; the writer, if not given.
    since : the first turn whose facts are listed.

    Raises
    ------
    WriterError
        When the writer is a server and does not answer.
    """
    source = hashlib.sha256(json.dumps([[t.said_by, t.text] for t in turns], ensure_ascii=False).encode()).hexdigest()
    written = written_facts(turns, writer, progress, since=since)
    faults = {one: fault_of(one, turns) for one in written}
    reworded = [one for one in written if faults[one] is None and not _quotes(one)]
    verdicts = (judge or Judge(writer)).told([(_said(one, turns), one.text) for one in reworded])
    faults |= {one: "it was not told" for one, yes in zip(reworded, verdicts) if not yes}
    kept: dict[str, Fact] = {}
    for one in written:
        if faults[one] is None:
            fact = Fact.of(one.text, one.turn.speaker, one.turn.date.isoformat(), [one.turn.place], source)
            kept.setdefault(folded(one.text), fact)
    dropped = {folded(one.text): (one.text, fault) for one, fault in faults.items() if fault is not None}
    facts = without_parts([*kept.values()])
    return Listed(tuple(facts), tuple(one for text, one in dropped.items() if text not in kept))


def without_parts(facts: Sequence[Fact]) -> list[Fact]:
    """The facts without those that another one of the same message says, too, with more: "Alex lives in Lyon." beside
    "My brother Alex lives in Lyon."
    """
    words = [terms(fact.text) for fact in facts]

    def in_another(number: int) -> bool:
        return any(
            len(more) > len(words[number])
            and not caseless(facts[number].text)  # whose characters are in too many others
            and facts[n].messages == facts[number].messages
            and all(among(term, more) for term in words[number])
            for n, more in enumerate(words)
        )

    return [fact for number, fact in enumerate(facts) if not in_another(number)]


def _quotes(written: Written) -> bool:
    """Whether a sentence stands in its message word for word."""
    return " ".join(WORD.findall(folded(written.text))) in " ".join(WORD.findall(folded(written.turn.dated)))


def _said(written: Written, turns: Sequence[Turn]) -> str:
    """Its message, with the question that it may reply to."""
    at = turns.index(written.turn)
    before = [turn for turn in turns[max(0, at - 1) : at] if turn.asks]
    return "\n".join(f"{turn.said_by}: {turn.dated}" for turn in [*before, written.turn])


def fault_of(written: Written, turns: Sequence[Turn]) -> str | None:
    """Why a sentence is not kept, None where it is.

    Its names, numbers and codes have to stand in its message, or in one of the few before, which it may refer to.
    """
    at = turns.index(written.turn)
    around = turns[max(0, at - BEFORE) : at + 1]
    sources = [f"{turn.said_by} {turn.dated}" for turn in around]
    unsaid = missing(written.text, sources, allowed=(*written.turn.date.isoformat().split("-"),))
    if unsaid:
        return f"{', '.join(unsaid)} was not said"
    if len(terms(written.text)) < SHORTEST and not verbatim(written.text) and not caseless(written.text):
        return "it says too little"
    if unlike(written.text, sources) > UNLIKE or terms_said(written.text, sources) <= SAID:
        return "its words were not said"
    if lent := borrowed(written, turns):
        return f"{', '.join(sorted(lent))} was said of something else"
    return None


def borrowed(written: Written, turns: Sequence[Turn]) -> set[str]:
    """Words of a fact that its message does not have, but others have: of two brothers, the city of the other one.

    A message of a few words, or the reply to a question, takes what it is about from the messages before it.
    """
    turn = written.turn
    at = turns.index(turn)
    own = f"{turn.said_by} {turn.dated}"
    if len(terms(own)) <= ELLIPTIC:
        return set()
    if at and turns[at - 1].asks:
        own += f" {turns[at - 1].dated}"
    return of_others(written.text, own, [other.dated for other in turns])


def terms_said(text: str, sources: Sequence[str]) -> float:
    """The share of a sentence's words that its sources have; 1 for one without words."""
    own, said = terms(text), terms("\n".join(sources))
    return len(own & said) / len(own) if own else 1.0
