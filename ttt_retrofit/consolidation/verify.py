"""Verification: is it recalled with the context gone, did anything else change, does it invent?

Recall and inventions are judged by what is generated, through the very path that users take: the converted model with
the memory loaded. T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..memory.batch import MemoryBatch
from ..memory.report import Report
from ..util.prompt_formatter import PromptFormatter
from .config import ConsolidationConfig
from .control import Control
from .student import Student
from .study import Question
from .words import content, holds
from .writer import Writer

PARTS = 3  # of its progress: the base asked, the memory asked, unrelated texts read
ASKED_AT_MOST = 48  # questions
ASKED_AT_LEAST = 16  # of six odd ones, a good memory gets less than half right by chance


@dataclass(frozen=True)
class Drift:
    """How far a memory moves the base on text that has nothing to do with it."""

    loss: float  # relative change of the next-token loss
    kl: float  # KL(base ‖ base + memory), nats per token


def chosen(held_out: Sequence[Question], studied: Sequence[Question]) -> list[Question]:
    """The questions that decide: those held out, and where they are few some that were studied."""
    missing = max(ASKED_AT_LEAST - len(held_out), 0)
    return [*_spread(held_out, ASKED_AT_MOST), *_spread(studied, missing)]


def _spread(questions: Sequence[Question], most: int) -> list[Question]:
    """At most so many of the questions, from all parts of the list."""
    count = min(len(questions), most)
    return [questions[number * len(questions) // count] for number in range(count)]


def answered(writer: Writer, prompts: Sequence[Sequence[int]], longest: int, line: bool) -> list[str]:
    return [writer.text(answer) for answer in writer.answer(prompts, longest, kept=1, line=line)]


def recall(answers: Sequence[str], questions: Sequence[Question]) -> float | None:
    """Share of the questions that were answered."""
    if not questions:
        return None
    return sum(holds(answer, question.value) for answer, question in zip(answers, questions)) / len(questions)


def inventions(answers: Sequence[str], questions: Sequence[str], remembered: set[str]) -> float | None:
    """Share of unanswerable questions that were answered with something remembered."""
    if not questions:
        return None
    invented = [bool(content(answer) & remembered - content(asked)) for answer, asked in zip(answers, questions)]
    return sum(invented) / len(questions)


@torch.no_grad()
def drift(
    student: Student, texts: Sequence[Sequence[int]], below: Sequence[torch.Tensor], memories: MemoryBatch
) -> Drift:
    """Loss and KL over unrelated texts. Where no gate opens the two are the same forward, which is made once."""
    loss_base = loss_memory = kl = 0.0
    count = 0
    for ids, hidden in zip(texts, below):
        positions = range(len(ids) - 1)
        base = student.logits([hidden], [ids], [positions], None).float().log_softmax(-1)
        targets = torch.tensor(ids[1:], device=base.device)[:, None]
        with_memory = base
        if student.opens(hidden, ids, memories):
            with_memory = student.logits([hidden], [ids], [positions], memories).float().log_softmax(-1)
            kl += (base.exp() * (base - with_memory)).sum().item()
        loss_base -= base.gather(-1, targets).sum().item()
        loss_memory -= with_memory.gather(-1, targets).sum().item()
        count += len(positions)
    return Drift(loss_memory / loss_base - 1, kl / max(count, 1))


def acceptance(recall: float | None, questions: int, moved: Drift, config: ConsolidationConfig) -> tuple[bool, str]:
    """Whether a candidate is accepted, and why."""
    if recall is None:
        return False, "no question has an answer out of the context, so nothing could be verified."
    if recall < config.min_recall:
        return False, f"recall {recall:.0%} of {questions} questions is below min_recall {config.min_recall:.0%}."
    if abs(moved.loss) > config.max_drift:
        return (
            False,
            f"the loss on unrelated text moved by {moved.loss:+.2%}, more than max_drift {config.max_drift:.2%}.",
        )
    return True, f"recall {recall:.0%} of {questions} questions, loss on unrelated text {moved.loss:+.2%}."


def verification_report(
    teacher: Writer,
    remembering: Writer,
    formatter: PromptFormatter,
    questions: Sequence[Question],
    unknown: Sequence[str],
    moved: Callable[[], Drift],
    config: ConsolidationConfig,
    control: Control,
) -> Report:
    """What a candidate knows that the base alone does not, and whether it is accepted.

    Parameters
    ----------
    teacher, remembering : the base alone, and with the candidate.
    unknown : questions that nothing was told about.
    moved : measures the candidate's drift.
    """
    prompts = [formatter.asked(text) for text in (*(question.text for question in questions), *unknown)]
    remembered = {word for question in questions for word in question.value}

    def asked(writer: Writer) -> tuple[list[str], float | None, float | None]:
        """Answers to the questions, the share that is right, and the share of inventions on the unknown."""
        given = answered(writer, prompts, config.answer_tokens, line=not formatter.chat)
        answers, declined = given[: len(questions)], given[len(questions) :]
        return answers, recall(answers, questions), inventions(declined, unknown, remembered)

    _, before, false_before = asked(teacher)
    control.at("verify", 1, PARTS)
    answers, after, false = asked(remembering)
    control.at("verify", 2, PARTS)
    drifted = moved()
    accepted, reason = acceptance(after, len(questions), drifted, config)
    failures = tuple(
        (q.text, " ".join(sorted(q.value)), a) for q, a in zip(questions, answers) if not holds(a, q.value)
    )
    return Report(
        accepted=accepted,
        reason=reason,
        recall_before=before,
        recall=after,
        questions=len(questions),
        false_memories=false,
        false_memories_before=false_before,
        drift_kl=drifted.kl,
        drift_loss=drifted.loss,
        failures=failures if config.keep_text else (),
    )
