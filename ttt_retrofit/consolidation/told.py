"""What a writer of facts makes of a context: its facts in place of its sentences, and the questions about them.

A document's sentences stay as they are. A message of which the writer lists no fact stays as its sentences, too.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from .asking import QuestionDraft
from .config import ConsolidationConfig
from .control import Control
from .facts.languages import shown
from .facts.listing import facts_of
from .facts.questions import ask, distinct
from .facts.writers import FactWriter
from .pieces import Context, Statement

SHOWN = 4000  # characters that tell the language of a context


def by_facts(context: Context, writer: FactWriter, control: Control) -> tuple[Context, int]:
    """The context with its facts as statements, and how many sentences of the writer failed a check.

    Raises
    ------
    WriterError
        When the writer is a server that does not answer.
    """
    if not context.conversation:
        return context, 0
    listed = facts_of(context.turns, writer, partial(control.at, "facts"))
    pieces = {statement.message: statement.piece for statement in context.statements}
    said_by = {turn.place: turn.said_by for turn in context.turns}
    found = [
        Statement(
            fact.text,
            "",
            pieces.get(fact.messages[0], len(context.pieces) - 1),
            said_by=said_by[fact.messages[0]],
            message=fact.messages[0],
            said_at=fact.said_at,
        )
        for fact in listed.facts
    ]
    told = {statement.message for statement in found}
    found += [statement for statement in context.statements if statement.message not in told]
    statements = tuple(sorted(found, key=lambda statement: statement.message))
    return replace(context, statements=statements), len(listed.dropped)


def ask_by_writer(
    context: Context, writer: FactWriter, config: ConsolidationConfig, control: Control
) -> list[QuestionDraft]:
    """What the writer asks about the statements of a context, in its language. Raises as `by_facts` does."""
    said = "\n".join(turn.text for turn in context.turns) if context.conversation else context.text
    drafts = ask(context.statements, writer, shown(said[:SHOWN]), config.wordings, partial(control.at, "questions"))
    return [QuestionDraft(d.text, d.statement, d.part, verbatim=True) for d in distinct(drafts)]
