"""Study: the model answers the questions about a context with the context before it, and keeps those answers that give
something the context said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..memory.lessons import Lesson, LessonKind
from ..util.messages import Message
from ..util.prompt_formatter import PromptFormatter
from .aliases import Pair, renamed, without_qualifier
from .asking import BATCH, QuestionDraft, asked_back, details_of, turned, with_reference
from .config import ConsolidationConfig
from .control import Control
from .facts.checks import WORD, folded
from .facts.informative import holds as has_all
from .pieces import Context
from .prompts import Prompts, fill
from .words import content, content_stems, made_up, stem, stems, value, words
from .writer import Answer, Writer

ANSWERED = 0.5  # share of a budget of seconds after which no more questions are answered


@dataclass(frozen=True)
class Question:
    """A question, and what a right answer has to hold."""

    text: str
    value: frozenset[str]  # words, lower case; empty where nothing is known
    answer: Answer
    statement: int
    held_out: bool = False
    spare: bool = False  # whether it may be held out


def answer(
    asked: Sequence[QuestionDraft],
    context: Context,
    teacher: Writer,
    formatter: PromptFormatter,
    prompts: Prompts,
    config: ConsolidationConfig,
    control: Control,
) -> list[Question]:
    """The teacher's answers with the piece in its context; those that give nothing of it are dropped.

    What it cannot find in the piece it is asked once more with the statement alone: small teachers lose the thread.
    """
    found: list[Question] = []
    missed = list(asked)
    told = stems(context.text)
    for narrow in (False, True):
        some, given = missed, dict[int, Answer]()
        # What is asked about one piece is answered together, so that the piece is read once.
        for batch in _batches([0 if narrow else _piece(one, context) for one in some]):
            if given and control.spent() > ANSWERED:
                break
            control.at("answers again" if narrow else "answers", len(given), len(some))
            answers = teacher.answer(
                [with_context(some[number], context, formatter, prompts, narrow) for number in batch],
                config.answer_tokens, BATCH, config.kept_logits, line=not formatter.chat,
            )  # fmt: skip
            given |= dict(zip(batch, answers))
        missed = []
        for one, answered in ((some[number], given[number]) for number in sorted(given)):
            said = teacher.text(answered)
            source = _source(one, context)
            # Small teachers add a name or number of their own ("on March 25th"): it would be remembered as told.
            refused = (
                said.startswith(prompts.refusals)
                or made_up(said, told | stems(one.text))
                or (_as_i(said) and not _as_i(f"{one.text} {source}"))
            )
            gives = set() if refused else value(said, one.text, source)
            wanted = content(one.detail) & gives if one.detail else gives
            if one.verbatim:
                wanted = _in_any_language(one.detail, said)
            if wanted or (narrow and one.by_user):
                found.append(Question(one.text, frozenset(wanted), answered, one.statement, spare=one.spare))
            elif one.statement >= 0:
                missed.append(one)
            elif one.by_user:
                found.append(Question(one.text, frozenset(), answered, -1))
    return found


def _in_any_language(detail: str, said: str) -> set[str]:
    """The words of a detail that an answer has all of; nothing where one is missing."""
    wanted = set(WORD.findall(folded(detail)))
    return wanted if has_all(said, wanted) else set()


def _batches(pieces: Sequence[int]) -> list[list[int]]:
    """The places of a list, in batches of one piece each."""
    by_piece: dict[int, list[int]] = {}
    for place, piece in enumerate(pieces):
        by_piece.setdefault(piece, []).append(place)
    return [places[at : at + BATCH] for places in by_piece.values() for at in range(0, len(places), BATCH)]


def _piece(asked: QuestionDraft, context: Context) -> int:
    """The number of the piece that a question is about; the last where it is about no statement."""
    return context.statements[asked.statement].piece if asked.statement >= 0 else len(context.pieces) - 1


def with_context(
    asked: QuestionDraft, context: Context, formatter: PromptFormatter, prompts: Prompts, narrow: bool = False
) -> list[int]:
    """The prompt by which the teacher answers: the piece that the statement stands in, then the question.

    `narrow` gives it the statement alone to read, with what was said just before if it refers to that.
    """
    piece: Any = context.pieces[_piece(asked, context)]
    if narrow:
        piece = with_reference(context.statements[asked.statement])
    if isinstance(piece, str):
        return with_reading(piece, asked.text, formatter, prompts)
    messages: list[Message] = list(piece)
    return formatter.asked(asked.text, messages)


def with_reading(piece: str, question: str, formatter: PromptFormatter, prompts: Prompts) -> list[int]:
    """The prompt of a question about a piece of a document."""
    if formatter.chat:
        return formatter.asked(fill(prompts.reading, context=piece, question=question))
    return formatter.asked(question, [{"role": "user", "content": piece}])


def quotes(
    context: Context,
    questions: Sequence[Question],
    formatter: PromptFormatter,
    prompts: Prompts,
    config: ConsolidationConfig,
) -> list[Lesson]:
    """Details that no question got an answer for, asked back and answered by the statement itself, word by word. What
    no longer holds is left out.
    """
    given = [(question.statement, stem(word)) for question in questions for word in question.value]
    lessons = []
    for number, detail in details_of(context, config):
        statement = context.statements[number]
        if not statement.holds:
            continue
        if not any((number, stem(word)) in given for word in content(detail)):
            back = asked_back(statement.text, detail)
            back = next(iter(turned(back, prompts)), back)
            lessons.append(certain("text", formatter.asked(back), formatter.said(statement.text)))
    return lessons


def otherwise_named(questions: Sequence[Question], known: Sequence[Pair]) -> list[Question]:
    """The questions, and each again by every other name of what it is about, with the same answer."""
    found = list(questions)
    texts = {question.text for question in questions}
    # Of two trains, neither is "my train".
    briefs = [without_qualifier(question.text) for question in questions]
    told = Counter(brief for brief, _ in {*zip(briefs, (question.statement for question in questions))})
    for question, brief in zip(questions, briefs):
        for text in [*renamed(question.text, known), *([brief] if told[brief] == 1 else [])]:
            if text not in texts and not question.value & content(text):
                texts.add(text)
                found.append(replace(question, text=text))
    return found


def lesson(question: Question, formatter: PromptFormatter) -> Lesson:
    """A question and the teacher's answer to it, without the context."""
    given = question.answer
    prompt = tuple(formatter.asked(question.text))
    return Lesson("fact", prompt, given.ids, given.indices, given.logprobs, question.held_out)


def certain(kind: LessonKind, prompt: list[int], ids: list[int]) -> Lesson:
    """A lesson whose every token is sure."""
    indices = torch.tensor(ids, dtype=torch.int32, device="cpu")[:, None]
    return Lesson(kind, tuple(prompt), tuple(ids), indices, torch.zeros(len(ids), 1, dtype=torch.float16, device="cpu"))


def hold_out(questions: Sequence[Question], share: float = 0.08) -> list[Question]:
    """All questions, a share of which are never trained on: spare ones whose answer three earlier ones give too. So
    nothing that was said goes untaught, and what people are likeliest to ask is taught.
    """
    held: set[int] = set()
    for i, question in enumerate(questions):
        earlier = [j for j, q in enumerate(questions[:i]) if j not in held and question.value <= q.value]
        if question.spare and question.value and len(earlier) >= 3 and len(held) < share * len(questions):
            held.add(i)
    return [replace(question, held_out=i in held) for i, question in enumerate(questions)]


def unanswered(prompts: Prompts, told: str) -> list[str]:
    """Stock questions of which not a word was told, but for what many things share: after a favourite dish, the
    favourite film is still to be declined.
    """
    known, common = content_stems(told), {stem(word) for word in prompts.common}
    asked = {question: content_stems(question) for question in prompts.unknown}
    return [question for question, about in asked.items() if not (about - common or about) & known]


def _as_i(text: str) -> bool:
    """Whether somebody speaks of himself. Asked "Who is my teacher?", small teachers say "I am Ines"."""
    return bool({"i", "i'm", "i've"} & set(words(text)))


def _source(asked: QuestionDraft, context: Context) -> str:
    if asked.source:
        return asked.source
    about = context.statements if asked.statement < 0 else [context.statements[asked.statement]]
    return " ".join(statement.text for statement in about)
