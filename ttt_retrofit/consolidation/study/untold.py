"""Questions about what was told that ask for something else: how old a brother is of whom only the city is known.

They are written by who knows nothing but whom or what they are about. One that a statement answers is left out: a reply
is likelier after a question that it answers than after none, and less likely after another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...util.messages import Message
from ..facts.checks import among
from ..facts.languages import Language, shown
from ..facts.related import terms
from ..facts.writers import ModelWriter
from .answers import Question
from .asking import Asking
from .near_misses import NearMiss
from .questions import QuestionDraft, instruction
from .ranking import gains
from .statements import Statement
from .subjects import Cut, about_nothing, cuts_of

SUBJECTS = 8  # that are asked about
ASKED = 3  # questions about each
LONGEST = 48  # tokens of them
SEEDS = (0, 1)  # the likeliest ones, and others
UNLIKELY = -2.0  # nats that a reply may win by a question that it does not answer


def untold(questions: Sequence[Question], statements: Sequence[Statement], told: str, asking: Asking) -> list[NearMiss]:
    """At most `ASKED` questions about each of `SUBJECTS`.

    told : all that was said.
    """
    subjects = _subjects(questions, statements, asking.language)
    prompts = [asking_about(cut.subject, shown(told)) for cut in subjects]
    writer = asking.writer or ModelWriter("", asking.teacher, asking.formatter)
    known = terms(told) | about_nothing(asking.language)
    drafts: dict[str, Cut] = {}
    for seed in SEEDS if subjects else ():
        for cut, written in zip(subjects, writer.complete(prompts, LONGEST, seed)):
            lines = (line.strip() for line in written.splitlines())
            drafts |= {line: cut for line in lines if line not in drafts and _asks_more(line, cut, known)}
    left = _unanswered(drafts, statements, asking)
    return [miss for cut in subjects for miss in [NearMiss(q, cut.number) for q in left if drafts[q] is cut][:ASKED]]


def _subjects(questions: Sequence[Question], statements: Sequence[Statement], language: Language) -> list[Cut]:
    """One of each statement before the next of any."""
    by_statement: dict[int, dict[str, Cut]] = {}
    for cut in cuts_of(questions, statements, language):
        by_statement.setdefault(questions[cut.number].statement, {}).setdefault(cut.subject, cut)
    turns = [[*some.values()] for some in by_statement.values()]
    longest = max(map(len, turns), default=0)
    found = {cut.subject: cut for turn in reversed(range(longest)) for some in turns for cut in some[turn : turn + 1]}
    return [*reversed(found.values())][:SUBJECTS]


def asking_about(subject: str, languages: Sequence[Language]) -> list[Message]:
    """The prompt for questions about somebody or something; of every language there are examples."""
    messages: list[Message] = [{"role": "system", "content": instruction("instruction_for_untold")}]
    for language in languages:
        for part, questions in _examples(language):
            messages += [{"role": "user", "content": part}, {"role": "assistant", "content": "\n".join(questions)}]
    return [*messages, {"role": "user", "content": subject}]


def _examples(language: Language) -> Iterator[tuple[str, list[str]]]:
    """What several of the example questions name, with them."""
    asked = list(language.part_of)
    for part in dict.fromkeys(language.part_of.values()):
        some = [question for question in asked if part in question]
        if len(some) > 1:
            yield part, some


def _asks_more(question: str, cut: Cut, known: set[str]) -> bool:
    """Whether a question is about the very subject, and has a word that was not told."""
    asked, about = terms(question), terms(cut.word)
    return all(among(term, asked) for term in about) and any(not among(term, known | about) for term in asked)


def _unanswered(drafts: dict[str, Cut], statements: Sequence[Statement], asking: Asking) -> list[str]:
    """Those that no statement about their subject answers."""
    words = [terms(statement.source) for statement in statements]
    pairs = [
        QuestionDraft(question, number)
        for question, cut in drafts.items()
        for number, own in enumerate(words)
        if all(among(term, own) for term in terms(cut.word))
    ]
    said = {draft.statement: asking.formatter.said(statements[draft.statement].text) for draft in pairs}
    gained = gains(pairs, said, asking) if pairs else []
    answered = {draft.text for draft, gain in zip(pairs, gained) if gain > UNLIKELY}
    return [question for question in drafts if question not in answered]
