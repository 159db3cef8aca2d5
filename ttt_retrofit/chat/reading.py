"""The writer reads new messages while nobody waits for an answer: they wait as facts then, and no more as sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..consolidation.facts.listing import Listed, facts_of
from ..consolidation.facts.related import said_again, said_anew
from ..consolidation.facts.turns import USER
from ..consolidation.facts.verdicts import Judge
from ..consolidation.facts.writers import FactWriter, ModelWriter
from ..consolidation.model_copies import plain_copy
from ..consolidation.prompts import Prompts
from ..consolidation.study.review import EVERYTHING, Review
from ..consolidation.study.statements import of_conversation
from ..consolidation.writer import Writer
from ..memory.facts import Fact
from ..memory.memory import Memory
from ..model.remembering import unconverted
from ..util.prompt_formatter import PromptFormatter
from .waiting import ReadMessage, Waiting, as_fact, digests


def writer_for(model: Any, tokenizer: PreTrainedTokenizerBase, writer: Any, check: Callable[[], None]) -> FactWriter:
    """Who reads: the model itself, another one with its tokenizer, or a writer. check : called at every token."""
    if writer is not None and not isinstance(writer, tuple):
        return writer  # type: ignore[no-any-return]  # `writer_of` made it
    base, words = (plain_copy(model), tokenizer) if writer is None else unconverted(writer)
    formatter = PromptFormatter(words, Prompts.load().plain)
    return ModelWriter("", Writer(base, words, check), formatter)


def read_messages(
    waiting: Waiting, memory: Memory | None, writer: FactWriter, judge: Judge, review: Review
) -> list[ReadMessage]:
    """What the newest messages tell that were not read, and which earlier facts no longer hold.

    Raises
    ------
    WriterError
        When the writer is a server and does not answer.
    """
    places, turns = waiting.unread(), waiting.turns()
    if not places:
        return []
    since = next(number for number, turn in enumerate(turns) if turn.place == places[0])
    listed = Listed((), ())
    if judge.trusted("supports"):  # who misreads a fact lists none
        listed = facts_of(turns, review.instructed(writer), judge=judge, since=since)
    written = {fact.text for fact in listed.facts}
    statements = tuple(
        statement
        for statement in of_conversation(turns, listed)
        if statement.message in places
        # Of the assistant what was listed: its own sentences may be general knowledge, or invented.
        and (waiting.messages[statement.message]["role"] == "user" or statement.text in written)
    )
    if review != EVERYTHING:
        statements, _ = review.kept(statements, turns, "", writer)
    found: dict[int, list[Fact]] = {place: [] for place in places}
    for statement in statements:
        found[statement.message].append(as_fact(statement, waiting.messages[statement.message]))
    ends = _ended(waiting, memory, found, judge)
    pairs = digests(waiting.messages)
    return [ReadMessage(*pairs[place], tuple(facts), tuple(ends[place])) for place, facts in found.items()]


def _ended(waiting: Waiting, memory: Memory | None, found: dict[int, list[Fact]], judge: Judge) -> dict[int, list[str]]:
    """Ids of the facts that no longer hold, by the place of the message that says so."""
    earlier = [(-1, fact) for fact in ([] if memory is None else memory.facts())]
    earlier += [(fact.messages[0], fact) for fact in waiting.facts(None) if fact.status == "current"]
    told = [*earlier, *((place, fact) for place in sorted(found) for fact in found[place])]
    named = [(place, USER if fact.said_by == USER.lower() else fact.said_by, fact.text) for place, fact in told]
    ends: dict[int, list[str]] = {place: [] for place in found}
    changed, since = judge.changed(named, since=len(earlier)), len(earlier)
    by_words = said_again(named, since) | said_anew(named, since)
    if by_words and not judge.trusted("changes"):
        changed = by_words
    for old, new in changed.items():
        ends[told[new][0]].append(told[old][1].id)
    return ends
