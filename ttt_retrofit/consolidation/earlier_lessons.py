"""Lessons of earlier contexts in words: the names in them, and what is learned again by a new name.

"My best man was Tariq" in one context and "Tariq works at the harbour" in another answer a question together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from ..memory.entry import Entry
from ..memory.lessons import Lesson
from ..util.prompt_formatter import PromptFormatter
from .aliases import Pair, by_user, pairs, renamed, unchanged
from .study import Question
from .words import content, content_stems


@dataclass(frozen=True)
class LessonText:
    """A lesson in words, of an earlier context or of an earlier statement of the same one."""

    question: str
    answer: str
    statement: int = -1  # that it is about, of the same context

    @property
    def told(self) -> set[str]:
        return content_stems(f"{self.question} {self.answer}")


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

    def facts(self, entry: Entry) -> list[tuple[Lesson, LessonText]]:
        """The facts that an entry was taught, also in words."""
        return [(lesson, self.in_words(lesson)) for lesson in entry.lessons if lesson.kind == "fact"]

    def told(self) -> str:
        """All that entries were asked and answered: what they know, a new one must not learn to decline."""
        facts = [studied for entry in self.entries for _, studied in self.facts(entry)]
        return " ".join(f"{studied.question} {studied.answer}" for studied in facts)

    def named(self, patterns: Sequence[str], now: Sequence[Pair]) -> dict[str, list[Pair]]:
        """Who is called what, by entry; without relations that go with a name `now`."""
        return {
            entry.name: unchanged(pairs([by_user(studied.answer) for _, studied in self.facts(entry)], patterns), now)
            for entry in self.entries
        }

    def again(self, left: Sequence[Entry], now: Sequence[Pair], asked: Collection[str]) -> list[tuple[str, Lesson]]:
        """Lessons of the entries `left`, by names given `now`, each with its entry; but for what is `asked` already."""
        facts = [(entry.name, lesson, studied) for entry in left for lesson, studied in self.facts(entry)]
        texts = {studied.question for _, _, studied in facts}.union(asked)
        found = {}
        for name, lesson, studied in facts:
            given = content(studied.answer) - content(studied.question)
            for text in renamed(studied.question, now):
                if given and text not in texts and not given & content(text):
                    found[text] = (name, replace(lesson, prompt=tuple(self.formatter.asked(text)), held_out=False))
        return [*found.values()]

    def learned_from(
        self, named: dict[str, list[Pair]], again: Sequence[tuple[str, Lesson]], questions: Sequence[Question]
    ) -> tuple[str, ...]:
        """The entries without which some of the questions, or of the lessons learned `again`, would not be there; and
        those that they were learned from: dropping these alone would not forget what they said.
        """
        texts, by_name = {question.text for question in questions}, {name for name, _ in again}
        found: list[str] = []
        for entry in self.entries:
            known = named[entry.name]
            if entry.name in by_name or any(t in texts for q in questions for t in renamed(q.text, known)):
                found += [entry.name, *entry.learned_from]
        return tuple(dict.fromkeys(found))
