"""The overview: what a memory answers to "What do you know about me?", several facts at once.

A conversation is retold word by word, since small models drop and mix what they are told to sum up. Of a document, the
teacher sums up each piece in a sentence.
"""

from __future__ import annotations

from ...memory.lessons import Lesson
from ...util.prompt_formatter import PromptFormatter
from ..control import Control
from ..facts.checks import missing, verbatim
from ..prompts import fill
from .asking import Asking
from .lessons import certain
from .pieces import Context
from .studied import Studied

MOST_TOKENS = 128  # of what is retold
SUMMARY_TOKENS = 40  # of each piece's


def overview(context: Context, studied: Studied, asking: Asking, control: Control) -> list[Lesson]:
    """One lesson for each way to ask for all of a context, all with the same answer."""
    formatter, prompts = asking.formatter, asking.prompts
    if context.has_facts:
        told = [studied.statements[number].text for number in retold(studied, formatter)]
    else:
        told = _summed_up(context, asking, control)
    if not told:
        return []
    asked, reply = prompts.overview_document, prompts.overviewed_document
    if context.has_facts:
        asked, reply = prompts.overview, prompts.overviewed
    answer = formatter.said(fill(reply, told=" ".join(told)))
    return [certain("overview", formatter.asked(question), answer) for question in asked]


def retold(studied: Studied, formatter: PromptFormatter) -> list[int]:
    """Numbers of the statements that hold and that something could be asked about, in order; those with names and
    numbers have precedence.
    """
    asked = {question.statement for question in studied.asked if question.statement >= 0}
    numbers = sorted(asked.difference(studied.outdated))
    chosen: list[int] = []
    left = MOST_TOKENS
    for number in sorted(numbers, key=lambda n: not verbatim(studied.statements[n].text)):
        size = len(formatter.tokenizer(studied.statements[number].text, add_special_tokens=False).input_ids)
        if size <= left:
            chosen.append(number)
            left -= size
    return sorted(chosen)


def _summed_up(context: Context, asking: Asking, control: Control) -> list[str]:
    """A sentence about each of the first pieces; one that names what its piece does not is left out."""
    pieces = list(context.pieces[: MOST_TOKENS // SUMMARY_TOKENS])
    control.at("overview", 0, len(pieces))
    written = [asking.text(a) for a in asking.answers([asking.reading(p, asking.prompts.summarise) for p in pieces])]
    return [said for piece, said in zip(pieces, written) if verbatim(said) and not missing(said, [piece])]
