"""Verification: is it recalled with the context gone, did anything else change, does it invent?

Recall and inventions are judged by what is generated, through the very path that users take: the converted model with
the memory loaded. T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ...memory.batch import MemoryBatch
from ...memory.report import Report
from ...util.messages import exchanges
from ...util.prompt_formatter import PromptFormatter
from ..config import ConsolidationConfig
from ..control import Control
from ..facts.checks import WORD, folded, holds
from ..study.answers import Question
from ..study.statements import TEXT
from ..study.studied import Studied
from ..train.student import Student
from ..writer import Writer

PARTS = 4  # of its progress: the base asked, the memory asked, a chat gone on with, unrelated texts read
ASKED_AT_MOST = 48  # questions about a document; of a conversation every fact is asked for
TURNS = 3  # personal ones before a general request, at most
BEGINNING = 12  # tokens of an answer to a general request that are compared


@dataclass(frozen=True)
class Drift:
    """How far a memory moves the base on text that has nothing to do with it."""

    loss: float  # relative change of the next-token loss
    kl: float  # KL(base ‖ base + memory), nats per token


def chosen(studied: Studied, held_out: Sequence[Question]) -> list[Question]:
    """The questions that decide: those held out; and one that was studied for each statement that has none."""
    covered = {question.statement for question in held_out}
    rest = {q.statement: q for q in reversed(studied.asked) if q.value and q.statement not in covered}
    own = [q for q in studied.asked if q.value and q.statement < 0]
    found = [*held_out, *(rest[number] for number in sorted(rest) if number >= 0), *own]
    if studied.statements and all(statement.said_by == TEXT for statement in studied.statements):
        return _spread(found, ASKED_AT_MOST)
    return found


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


def inventions(answers: Sequence[str], asked: Sequence[str], known: Sequence[frozenset[str]]) -> float | None:
    """Share of unanswerable questions that were answered with something remembered: a value that names something."""
    if not asked:
        return None
    told = [value for value in known if any(any(c.isdigit() for c in word) or len(word) > 3 for word in value)]
    invented = [
        any(holds(answer, value) and not value <= set(WORD.findall(folded(question))) for value in told)
        for answer, question in zip(answers, asked)
    ]
    return sum(invented) / len(asked)


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


@dataclass(frozen=True)
class InChat:
    """How general requests are answered after personal turns."""

    changed: float  # share answered otherwise than by the base, after the very same messages
    refused: float  # share answered as what was never told


def acceptance(
    recall: float | None, questions: int, moved: Drift, chat: InChat | None, config: ConsolidationConfig
) -> tuple[bool, str]:
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
    if chat is not None and chat.changed > config.max_changed:
        return (
            False,
            f"{chat.changed:.0%} of general requests in a chat are answered otherwise than without the memory, more "
            f"than max_changed {config.max_changed:.0%}.",
        )
    return True, f"recall {recall:.0%} of {questions} questions, loss on unrelated text {moved.loss:+.2%}."


@dataclass(frozen=True)
class Verification:
    """What a candidate is asked.

    Attributes
    ----------
    base, remembering : the converted model without the candidate and with it. Both compute alike: in bfloat16, the base
        as it came would decide otherwise where two tokens are about as likely.
    unknown : questions that nothing was told about, which are answered by `abstention`.
    said : questions about the context with their answers, as turns before `general` requests.
    moved : measures the candidate's drift.
    """

    base: Writer
    remembering: Writer
    formatter: PromptFormatter
    questions: Sequence[Question]
    unknown: Sequence[str]
    said: Sequence[tuple[str, str]]
    general: Sequence[str]
    abstention: str
    moved: Callable[[], Drift]

    def report(self, config: ConsolidationConfig, control: Control) -> tuple[Report, dict[int, bool]]:
        """What the candidate knows that the base alone does not, whether it is accepted; and by statement whether all
        that was asked about it was right.
        """
        _, before, false_before = self._asked(self.base, config)
        control.at("verify", 1, PARTS)
        answers, after, false = self._asked(self.remembering, config)
        control.at("verify", 2, PARTS)
        chat = self.in_chat()
        control.at("verify", 3, PARTS)
        drifted = self.moved()
        accepted, reason = acceptance(after, len(self.questions), drifted, chat, config)
        right = [holds(answer, question.value) for question, answer in zip(self.questions, answers)]
        known: dict[int, bool] = {}
        for question, one in zip(self.questions, right):
            known[question.statement] = known.get(question.statement, True) and one
        failures = tuple(
            (q.text, " ".join(sorted(q.value)), a) for q, a, one in zip(self.questions, answers, right) if not one
        )
        report = Report(
            accepted=accepted,
            reason=reason,
            recall_before=before,
            recall=after,
            questions=len(self.questions),
            false_memories=false,
            false_memories_before=false_before,
            drift_kl=drifted.kl,
            drift_loss=drifted.loss,
            failures=failures if config.keep_text else (),
            chat_changed=None if chat is None else chat.changed,
            chat_refused=None if chat is None else chat.refused,
        )
        return report, known

    def _asked(self, writer: Writer, config: ConsolidationConfig) -> tuple[list[str], float | None, float | None]:
        """Answers to the questions, the share that is right, and the share of inventions on the unknown."""
        prompts = [self.formatter.asked(text) for text in (*(q.text for q in self.questions), *self.unknown)]
        given = answered(writer, prompts, config.answer_tokens, line=not self.formatter.chat)
        answers, declined = given[: len(self.questions)], given[len(self.questions) :]
        values = [question.value for question in self.questions]
        return answers, recall(answers, self.questions), inventions(declined, self.unknown, values)

    def in_chat(self) -> InChat | None:
        """General requests after one to `TURNS` personal turns. Without a chat template there are no turns."""
        if not self.formatter.chat or not self.general or not self.said:
            return None
        prompts = []
        for number, request in enumerate(self.general):
            turns = [self.said[(number + turn) % len(self.said)] for turn in range(1 + number % TURNS)]
            prompts.append(self.formatter.asked(request, exchanges(turns)))
        without, with_it = (answered(one, prompts, BEGINNING, line=False) for one in (self.base, self.remembering))
        begins = folded(self.abstention)[:BEGINNING]
        changed = [b for a, b in zip(without, with_it) if a != b]
        refused = [b for b in changed if folded(b).startswith(begins)]
        return InChat(len(changed) / len(prompts), len(refused) / len(prompts))
