"""Is what was told a moment ago known in a new conversation, before anything was consolidated? In which form of a note?

python -m benchmarks.known_at_once conversations.json
python -m benchmarks.known_at_once conversations.json --model qwen2.5-1.5b --talks 20
python -m benchmarks.known_at_once conversations.json --read --only "facts, turn"

Each conversation is told in a `ChatSession`. Its questions are then asked, each in a new conversation of that session:
without a note, with the words of the user as they stand in every form of a note, and with `--read` with the facts that
the model lists. The last row asks at the end of the conversation itself. The file is as `small_talk` takes it, and
answers are judged as there. It is not part of the project, and neither are its answers: `results/` gets shares alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ttt_retrofit import ChatSession
from ttt_retrofit.chat.days import with_days, without_days
from ttt_retrofit.memory.notes import FORM, NoteForm
from ttt_retrofit.util.messages import Message

from .harness.loading import carrier, tokenizer_of
from .harness.options import command_line, stored_as
from .harness.prompts import Recollector
from .harness.store import Store
from .harness.tables import markdown_table
from .small_talk import ANSWER_TOKENS, SHARES, Talk, judged, summed

NAME = "known_at_once"
NONE, FULL = "no note", "at the end of the conversation itself"
WORDS, FACTS = "words", "facts"
FORMS = {
    "turn": NoteForm("turn"),
    "turn, listed": NoteForm("turn", listed=True),
    "turn, dated": NoteForm("turn", dated=True),
    "turn, three": NoteForm("turn", most=3),
    "system": NoteForm("system"),
    "system, listed": NoteForm("system", listed=True),
    "question": NoteForm("question"),
    "question, listed": NoteForm("question", listed=True),
    "question, three": NoteForm("question", most=3),
}
OWN = next(name for name, form in FORMS.items() if form == FORM)  # the library's


@dataclass
class Rows:
    """What is measured, conversation by conversation: a run that was cut off goes on with the next one."""

    talks: Sequence[Talk]
    model: str
    read: bool  # by the model itself
    only: Sequence[str] | None

    def of_all(self) -> dict[str, Callable[[], Any]]:
        """By the name of the row and the number of the conversation."""
        measures: dict[str, Callable[[Talk], Any]] = {NONE: partial(self._asked, form=None)}
        measures |= {f"{WORDS}, {name}": partial(self._asked, form=form) for name, form in FORMS.items()}
        if self.read:
            measures |= {f"{FACTS}, {name}": partial(self._asked, form=form, read=True) for name, form in FORMS.items()}
        measures[FULL] = self._at_the_end
        chosen = {row: measure for row, measure in measures.items() if self.only is None or row in self.only}
        return {
            f"{row} {number}": partial(measure, talk)
            for row, measure in chosen.items()
            for number, talk in enumerate(self.talks)
        }

    @cached_property
    def _base(self) -> Recollector:
        return Recollector(carrier(self.model), tokenizer_of(self.model))

    @cached_property
    def _read_before(self) -> dict[str, tuple[bytes, float]]:
        """What the writer has read of a conversation, as a session keeps it, and the seconds that it took."""
        return {}

    def _asked(self, talk: Talk, form: NoteForm | None, read: bool = False) -> dict[str, Any]:
        with TemporaryDirectory() as directory:
            chat = self._told(talk, Path(directory))
            seconds = self._reads(talk, chat) if read else 0.0
            known = chat.waiting_facts()

            def noted(question: str) -> list[Message]:
                asked = [{"role": "user", "content": question}]
                return asked if form is None else chat.with_notes(asked, form=form)

            turns = sum(message["role"] == "user" for message in talk.messages)
            return self._judged(talk, noted) | {
                "name": self.talks.index(talk), "turns": turns, "facts": len(known), "seconds": seconds,
            }  # fmt: skip

    def _told(self, talk: Talk, directory: Path) -> ChatSession:
        chat = ChatSession(self._base.writer.model, self._base.writer.tokenizer, directory)
        chat.note(*({"date": talk.date, **message} for message in talk.messages))
        chat.new_conversation()
        return chat

    def _reads(self, talk: Talk, chat: ChatSession) -> float:
        """Turn by turn, as in a chat with a pause after each turn; seconds of all. Read once for all forms."""
        file = chat.directory / "facts.json"
        if talk.name not in self._read_before:
            began, messages = time.perf_counter(), chat.messages
            for count in range(1, len(messages) + 1):
                if count == len(messages) or messages[count]["role"] == "user":
                    chat.messages = messages[:count]
                    while chat.read_facts():
                        assert chat._reading is not None
                        chat._reading.wait()
                        chat.settle()
            self._read_before[talk.name] = file.read_bytes(), time.perf_counter() - began
        found, seconds = self._read_before[talk.name]
        file.write_bytes(found)
        chat._open_facts()
        return seconds

    def _at_the_end(self, talk: Talk) -> dict[str, Any]:
        said = without_days(with_days([{"date": talk.date, **message} for message in talk.messages]))
        return self._judged(talk, lambda question: [*said, {"role": "user", "content": question}])

    def _judged(self, talk: Talk, noted: Callable[[str], list[Message]]) -> dict[str, Any]:
        tokens: list[int] = []

        def answers(questions: Sequence[str]) -> list[str]:
            asked = [noted(question) for question in questions]
            formatter = self._base.formatter
            tokens.extend(len(formatter.asked(one[-1]["content"], one[:-1])) for one in asked)
            return self._base.answers([(one[:-1], one[-1]["content"]) for one in asked], ANSWER_TOKENS)

        return judged(talk, answers) | {"tokens": statistics.fmean(tokens)}


def page(report: dict[str, Any]) -> list[str]:
    settings, by_row = report["settings"], {}
    for name, row in report["rows"].items():
        by_row.setdefault(name.rpartition(" ")[0], []).append(row)
    body = []
    for name, found in by_row.items():
        counts = summed(found)
        shares = [f"{counts[key]} of {counts[of]}" for key, of in SHARES]
        title = f"{name}{' (the default)' * (name.partition(', ')[2] == OWN)}"
        body.append([title, str(len(found)), *shares, f"{statistics.fmean(row['tokens'] for row in found):.0f}"])
    lines = [f"{settings['model']}, at most {settings['talks']} conversations, nothing consolidated."]
    table = markdown_table(["row", "conversations", *(name for name, _ in SHARES), "prompt tokens"], body)
    read = {row["name"]: row["seconds"] / row["turns"] for row in report["rows"].values() if row.get("seconds")}
    if read:
        lines.append(f"The model reads a turn in {statistics.median(read.values()):.0f} seconds, the median.")
    return [*lines, "", *table, ""]


def main(arguments: list[str] | None = None) -> None:
    parser = command_line(__doc__, model="qwen2.5-0.5b")
    parser.add_argument("file", type=Path)
    parser.add_argument("--talks", type=int, default=20, help="conversations, the first of the file")
    parser.add_argument("--read", action="store_true", help="let the model list facts, too")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="measure these rows")
    options: argparse.Namespace = parser.parse_args(arguments)
    talks = Talk.read(options.file)[: options.talks]
    store = Store.of_machine(
        stored_as(NAME, options.model, quick=False), {"model": options.model, "talks": len(talks)}, page
    )
    store.fill(Rows(talks, options.model, options.read, options.only).of_all())
    store.show()


if __name__ == "__main__":
    main()
