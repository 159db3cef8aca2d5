"""The reference set: texts and questions unrelated to the context, and the answers of the base alone.

The gate of an entry stays shut on them, also where they come after questions about the very context. All entries of a
memory share one background, which is measured on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...memory.entry import GateKeys
from ...memory.gates import Background
from ...memory.memory import Memory
from ...util.messages import exchanges
from ...util.prompt_formatter import PromptFormatter
from ..prompts import Prompts
from ..writer import Answer, Writer
from .distill import EncodedLesson
from .gate_calibration import TextMeans, find_background, find_gate, highest
from .student import Student

BEGINNING = 8  # tokens of a general answer: whether a memory disturbs it shows in these
AFTER_PERSONAL = 3  # every so manieth general question is asked after personal turns, too: one, two, …, so many


@dataclass(frozen=True)
class ReferenceSet:
    """Token ids of texts and prompts, and what their gates depend on."""

    texts: list[list[int]]
    below_texts: list[Tensor]  # what enters the gates' layer, (T, D) each
    prompts: list[list[int]]
    means_of_texts: list[TextMeans]
    means_of_prompts: list[TextMeans]  # each with the beginning of the base's own answer
    background: Background  # of all of them
    opener: tuple[int, ...]  # of a user's turn
    told: dict[tuple[int, ...], tuple[int, ...]]  # prompts after turns about the context: the numbers of these

    def gate_of(self, studied: Sequence[EncodedLesson]) -> GateKeys:
        """A gate for these lessons that stays shut on them."""
        ends = [(TextMeans.of(p.below, p.ids, self.opener), len(p.lesson.prompt)) for p in studied]
        return find_gate(ends, self.means_of_texts, self.means_of_prompts, self.background)

    def opens(self, gate: GateKeys, ids: Sequence[int], below: Tensor) -> bool:
        """Whether a gate opens anywhere in the last turn of a text."""
        return self._opens(gate, TextMeans.of(below, ids, self.opener))

    def opened(self, gate: GateKeys) -> list[list[int]]:
        """Those of the prompts for which a gate opens nevertheless."""
        return [ids for ids, means in zip(self.prompts, self.means_of_prompts) if self._opens(gate, means)]

    def _opens(self, gate: GateKeys, means: TextMeans) -> bool:
        return highest(means, gate.keys, self.background) > gate.closed


def build_reference_set(
    student: Student,
    teacher: Writer,
    formatter: PromptFormatter,
    prompts: Prompts,
    said: Sequence[tuple[str, str]],
    earlier: Memory | None,
) -> ReferenceSet:
    """The reference set of a student.

    Parameters
    ----------
    said : questions about the context, with their answers in words.
    earlier : the memory that is added to. Its background and its opener are kept.
    """
    opener = tuple(student.opener)
    texts = [formatter.tokenizer(text, add_special_tokens=False).input_ids for text in prompts.unrelated]
    alone = [formatter.asked(question) for question in prompts.general]
    begun = [list(answer.ids) for answer in beginnings(teacher, formatter, alone, kept=1)]
    # Every other one after one more and a reply, too. There an answer begins alike; it is not written again.
    some = prompts.general[::2]
    before = (*some[-1:], *some[:-1])
    in_a_chat = [formatter.asked_after(one, prompts.replied, question) for one, question in zip(before, some)]
    # Without an opener, one gate is open for what is personal and for what comes after it. After questions that nothing
    # was told about, for the background, which must be that of any other context; and after those of this one.
    untold = [(question, prompts.abstention) for question in prompts.unknown]
    after = [
        _after_personal(formatter, prompts.general[::AFTER_PERSONAL], turns)
        for turns in ((untold, said) if opener else ())
    ]
    personal = [prompt for some in after for prompt, _ in some]
    told = {tuple(prompt): numbers for prompt, numbers in (after[-1] if after else ())}
    asked = [*alone, *in_a_chat, *personal]
    answers = [*begun, *begun[::2], *begun[::AFTER_PERSONAL], *begun[::AFTER_PERSONAL]]
    below_texts = student.below(texts)
    answered = [prompt + answer for prompt, answer in zip(asked, answers)]
    of_texts, of_asked = (
        [TextMeans.of(hidden, ids, opener) for hidden, ids in zip(below, read)]
        for below, read in ((below_texts, texts), (student.below(answered), answered))
    )
    if earlier is None:
        background = find_background([*of_texts, *of_asked[: len(asked) - len(personal) // 2]])
    else:
        background = earlier.background.to(student.model.device)
    return ReferenceSet(texts, below_texts, asked, of_texts, of_asked, background, opener, told)


def _after_personal(
    formatter: PromptFormatter, general: Sequence[str], said: Sequence[tuple[str, str]]
) -> list[tuple[list[int], tuple[int, ...]]]:
    """General questions after one to `AFTER_PERSONAL` turns of those that are said, with the numbers of these."""
    found, place = [], 0
    for number, question in enumerate(general):
        turns = [(place + turn) % len(said) for turn in range(1 + number % AFTER_PERSONAL)]
        place += len(turns)
        found.append((formatter.asked(question, exchanges(said[turn] for turn in turns)), tuple(turns)))
    return found


def beginnings(teacher: Writer, formatter: PromptFormatter, prompts: Sequence[list[int]], kept: int) -> list[Answer]:
    """How the base's own answers begin, with so many logits of every token."""
    return teacher.answer(prompts, BEGINNING, 64, kept, line=not formatter.chat)
