"""Lessons of earlier contexts in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..memory.entry import Entry
from ..memory.lessons import Lesson
from ..util.prompt_formatter import PromptFormatter


@dataclass(frozen=True)
class LessonText:
    """A lesson in words."""

    question: str
    answer: str


@dataclass
class EarlierLessons:
    """Lessons of earlier entries. Each is decoded once."""

    formatter: PromptFormatter
    entries: Sequence[Entry] = ()
    words: dict[tuple[tuple[int, ...], tuple[int, ...]], LessonText] = field(default_factory=dict)

    def in_words(self, lesson: Lesson) -> LessonText:
        key = (lesson.prompt, lesson.answer)
        if key not in self.words:
            answer = self.formatter.tokenizer.decode(list(lesson.answer), skip_special_tokens=True)
            self.words[key] = LessonText(self.formatter.question_of(lesson.prompt), str(answer).strip())
        return self.words[key]

    def told(self) -> str:
        """All that entries were asked and answered: what they know, a new one must not learn to decline."""
        facts = [self.in_words(x) for entry in self.entries for x in entry.lessons if x.kind == "fact"]
        return " ".join(f"{studied.question} {studied.answer}" for studied in facts)
