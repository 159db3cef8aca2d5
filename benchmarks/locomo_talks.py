"""LoCoMo's conversations (Maharana et al. 2024, arXiv 2402.17753): sessions of two people, and questions about them.

The first speaker is the user and the second the assistant, each with a name. Of a photograph there is the caption. Only
questions whose evidence lies in the sessions that are read are asked.
"""

from __future__ import annotations

import datetime
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# The file's categories by number.
KINDS = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
ADVERSARIAL = KINDS[5]  # was never said
DATED = "%I:%M %p on %d %B, %Y"  # of a session: "1:56 pm on 8 May, 2023"
REMARK = re.compile(r"\s*\(([^)]*)\)")
SESSION, EVIDENCE = re.compile(r"session_(\d+)"), re.compile(r"D(\d+):\d+")  # an entry may name several turns, or none


@dataclass(frozen=True)
class Session:
    """What was said on one day."""

    date: datetime.datetime
    messages: tuple[dict[str, str], ...]  # with "role", "name", "content" and "date"

    @property
    def day(self) -> str:
        return in_words(self.date)

    @property
    def lines(self) -> list[str]:
        """Each message with its day and who said it."""
        return [f"{self.day}, {message['name']}: {message['content']}" for message in self.messages]


@dataclass(frozen=True)
class Asked:
    kind: str
    question: str
    answers: tuple[str, ...]  # of which any is right; none where nothing was said
    evidence: tuple[int, ...]  # sessions that it is in, from 0


@dataclass(frozen=True)
class Talk:
    """A conversation and its questions, which are asked after the last session."""

    name: str
    sessions: tuple[Session, ...]
    asked: tuple[Asked, ...]

    @property
    def questions(self) -> list[str]:
        return [asked.question for asked in self.asked]

    @property
    def lines(self) -> list[str]:
        return [line for session in self.sessions for line in session.lines]

    def ago(self, asked: Asked) -> int:
        """How many sessions ago the last of the evidence was said."""
        return len(self.sessions) - 1 - max(asked.evidence)

    def first(self, sessions: int | None) -> Talk:
        """The first sessions, all where None, and the questions whose evidence lies in them."""
        read = self.sessions[:sessions]
        asked = [one for one in self.asked if one.evidence and max(one.evidence) < len(read)]
        return replace(self, sessions=read, asked=tuple(asked))

    def sample(self, questions: int) -> Talk:
        """At most so many questions, evenly by kind, always the same ones; in the order of the file."""
        generator = random.Random(f"locomo {self.name}")
        of_kinds = [[one for one in self.asked if one.kind == kind] for kind in KINDS.values()]
        left = [generator.sample(of_kind, len(of_kind)) for of_kind in of_kinds]
        chosen: list[Asked] = []
        while any(left) and len(chosen) < questions:
            chosen += [of_kind.pop() for of_kind in left if of_kind][: questions - len(chosen)]
        return replace(self, asked=tuple(one for one in self.asked if one in chosen))


def read(path: Path) -> list[Talk]:
    """The conversations of a file in the form of `locomo10.json`."""
    return [_talk(sample) for sample in json.loads(path.read_text(encoding="utf-8"))]


def in_words(day: datetime.date) -> str:
    """As the answers of the file name a day: "8 May 2023"."""
    return f"{day.day} {day:%B %Y}"


def _talk(sample: dict[str, Any]) -> Talk:
    talk = sample["conversation"]
    # Numbers may have gaps, and a date may stand without its session.
    numbers = sorted(int(match[1]) for match in map(SESSION.fullmatch, talk) if match)
    places = {number: place for place, number in enumerate(numbers)}
    sessions = [_session(talk, number) for number in numbers]
    return Talk(sample["sample_id"], tuple(sessions), tuple(_asked(one, places) for one in sample["qa"]))


def _session(talk: dict[str, Any], number: int) -> Session:
    date = datetime.datetime.strptime(talk[f"session_{number}_date_time"], DATED)
    return Session(date, tuple(_message(turn, talk["speaker_a"], date) for turn in talk[f"session_{number}"]))


def _message(turn: dict[str, Any], user: str, date: datetime.datetime) -> dict[str, str]:
    photograph = f" (shows {turn['blip_caption']})" if "blip_caption" in turn else ""
    return {
        "role": "user" if turn["speaker"] == user else "assistant",
        "name": turn["speaker"],
        "content": turn["text"] + photograph,
        "date": date.isoformat(),
    }


def _asked(one: dict[str, Any], places: dict[int, int]) -> Asked:
    kind = KINDS[one["category"]]
    answers = () if kind == ADVERSARIAL else _wordings(kind, str(one["answer"]))
    return Asked(kind, one["question"], answers, _sessions(one.get("evidence", ()), places))


def _wordings(kind: str, answer: str) -> tuple[str, ...]:
    """Without remarks, in brackets or after an open-domain answer's semicolon; a day in brackets is another wording."""
    if kind == "open-domain":
        answer = answer.partition(";")[0]
    said = REMARK.sub("", answer).strip() or answer
    return (said, *(REMARK.findall(answer) if kind == "temporal" else ()))


def _sessions(evidence: Sequence[str], places: dict[int, int]) -> tuple[int, ...]:
    found = {int(number) for number in EVIDENCE.findall(" ".join(evidence))}
    return tuple(sorted(places[number] for number in found if number in places))
