"""Long conversations of several sessions: small talk between people, facts planted in it, and questions about them.

Question types are LongMemEval's (Wu et al. 2024, arXiv 2410.10813): single-session by the user and by the assistant,
multi-session, temporal, knowledge update, abstention. Facts are nonce ones (`conversations.py`); the small talk is
real, from the package `chitchat-dataset` (MIT), without dialogues that touch on what is asked.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import locomo_talks
from .conversations import CITIES, DISHES, INSTRUMENTS, PETS, RELATIONS, REPLIES, UNSAID, correct, facts
from .harness.english import content_stems, stems
from .harness.prompts import Message
from .lifelong import HALVES, PEOPLE
from .texts import chitchat

SESSIONS, TALK = 6, 3  # exchanges of small talk in a session
SINGLE, CHANGED, TOGETHER, DATED, UNKNOWN = 8, 4, 3, 3, 4
LONGEST = 40  # words of a message of small talk
OPENING = "Today is the {day} of March."

# What the user asks, what the assistant says, what the user asks later.
ADVICE: tuple[tuple[str, str, str, Sequence[str]], ...] = (
    (
        "Can you think of a name for my sourdough starter?",
        "You could call it {v}.",
        "Which name did you suggest for my sourdough starter?",
        PETS,
    ),
    (
        "Where could I spend a long weekend?",
        "I would go to {v}, it is lovely at this time of the year.",
        "Where did you tell me to spend a long weekend?",
        CITIES,
    ),
    (
        "What could one cook for eight guests?",
        "A big pot of {v} feeds eight without trouble.",
        "What did you tell me to cook for eight guests?",
        DISHES,
    ),
    (
        "Which instrument suits a beginner of my age?",
        "The {v} suits beginners well, I would say.",
        "Which instrument did you say suits a beginner of my age?",
        INSTRUMENTS,
    ),
)


@dataclass(frozen=True)
class Asked:
    """A question after the last session."""

    kind: str
    question: str
    answers: tuple[str, ...]  # any of which is right; none where nothing was said
    session: int  # that the answer is in, from 0
    stale: str | None = None  # what was right before


@dataclass(frozen=True)
class Sessions:
    messages: tuple[Message, ...]
    asked: tuple[Asked, ...]
    sessions: int
    dates: tuple[str, ...] = ()  # of each message, in the words that its session began with

    @property
    def exchanges(self) -> list[list[Message]]:
        """What the user says and the reply to it, each with its date: what retrieval finds without the rest."""
        found: list[list[Message]] = []
        for number, message in enumerate(self.messages):
            if found and message["role"] == "assistant":
                found[-1].append(message)
                continue
            date, text = self.dates[number] if self.dates else "", message["content"]
            found.append([{**message, "content": text if text.startswith(date) else f"{date} {text}"}])
        return found

    @property
    def digest(self) -> str:
        """Of all that is said and asked: answers to other questions are not to be compared."""
        return hashlib.sha256(repr((self.messages, self.asked)).encode()).hexdigest()[:16]


class Values:
    """Values that are said once. What was planted is in no other sentence, so that no answer is right by accident."""

    def __init__(self) -> None:
        # "May" is in no sentence, but in many an answer.
        templates = [OPENING, "May", *REPLIES, *(said for said, *_ in RELATIONS)]
        templates += [text for wish, advice, *_ in ADVICE for text in (wish, advice)]
        templates += [text for named, told, *_ in HALVES for text in (named, told)]
        self.taken, self.drawn = stems(" ".join(templates)), set[str]()

    def take(self, value: str) -> bool:
        """Whether it is still free; it is not any longer."""
        if stems(value) & (self.taken | self.drawn):
            return False
        self.drawn |= stems(value)
        return True

    def of(self, kind: Sequence[str], generator: random.Random) -> str:
        return next(value for value in generator.sample(kind, len(kind)) if self.take(value))


def draw(seed: int) -> Sessions:
    """A conversation and its questions."""
    generator, values = random.Random(f"sessions {seed}"), Values()
    said: list[list[tuple[str, str]]] = [[] for _ in range(SESSIONS)]  # (user, assistant) by session
    days = [f"{day}th" for day in sorted(generator.sample(range(11, 21), SESSIONS))]
    for day in days:  # first, for they may be given as "13th" and as "13"
        values.take(f"{day} {day.removesuffix('th')}")
    planted = facts(SINGLE + CHANGED, generator, allowed=values.take)
    asked = []
    reply = iter([reply for _ in range(9) for reply in generator.sample(REPLIES, len(REPLIES))])

    def tell(session: int, text: str) -> None:
        said[session].append((text, next(reply)))

    for number, fact in enumerate(planted[:SINGLE]):
        session = number * SESSIONS // SINGLE
        tell(session, fact.said)
        asked.append(Asked("single-session, user", fact.question, (fact.answer,), session))
    for number in range(0, SINGLE, -(-SINGLE // DATED)):  # of early sessions and of late ones
        session, fact = number * SESSIONS // SINGLE, planted[number]
        question = f"On which day of March did I tell you this: {fact.said}"
        asked.append(Asked("temporal", question, (days[session], days[session].removesuffix("th")), session))
    for number, fact in enumerate(planted[SINGLE:]):
        before, after = number % 2, SESSIONS - 1 - number % 3
        changed = correct(fact, generator, values.take)
        tell(before, fact.said)
        tell(after, changed.said)
        asked.append(Asked("knowledge update", fact.question, (changed.answer,), after, fact.answer))
    people = generator.sample(PEOPLE, TOGETHER)
    for number, (named, told, question, kind) in enumerate(generator.sample(HALVES, TOGETHER)):
        person, value = people[number], values.of(kind, generator)
        tell(number, named.format(p=person))
        tell(number + TOGETHER, told.format(p=person, v=value))
        asked.append(Asked("multi-session", question, (value,), number + TOGETHER))
    for number, (wish, advice, question, kind) in enumerate(generator.sample(ADVICE, 2)):
        session, value = 1 + 3 * number, values.of(kind, generator)
        said[session].append((wish, advice.format(v=value)))
        asked.append(Asked("single-session, assistant", question, (value,), session))
    asked += [Asked("abstention", question, (), -1) for question in generator.sample(UNSAID, UNKNOWN)]

    about = {stem for a in asked for stem in content_stems(a.question)}
    talk = _small_talk(SESSIONS * TALK, about, values.drawn, generator)
    messages: list[Message] = []
    dates: list[str] = []
    for session in range(SESSIONS):
        exchanges = said[session] + [talk.pop() for _ in range(TALK)]
        generator.shuffle(exchanges)
        opening = OPENING.format(day=days[session])
        for number, (user, assistant) in enumerate(exchanges):
            messages.append({"role": "user", "content": f"{opening} {user}" if number == 0 else user})
            messages.append({"role": "assistant", "content": assistant})
            dates += [opening] * 2
    return Sessions(tuple(messages), tuple(asked), SESSIONS, tuple(dates))


def _small_talk(
    count: int, asked_about: set[str], planted: set[str], generator: random.Random
) -> list[tuple[str, str]]:
    """Exchanges between two people that touch on nothing that will be asked, and hold no value that was planted."""
    found: list[tuple[str, str]] = []
    pool = dialogues()
    while len(found) < count:
        turns = generator.choice(pool)
        first = generator.randrange(len(turns) - 1)
        pair = turns[first], turns[first + 1]
        if not any(content_stems(text) & asked_about or stems(text) & planted for text in pair):
            found.append(pair)
    return found


@cache
def dialogues() -> list[list[str]]:
    """The turns of each dialogue, those of a readable length."""
    found = []
    for dialogue in chitchat():
        turns = [turn for turn in dialogue if 4 <= len(turn.split()) <= LONGEST]
        if len(turns) >= 4:
            found.append(turns)
    return found


def locomo(path: Path, questions: int, seed: int = 0) -> list[Sessions]:
    """The conversations of LoCoMo, at most so many questions of each, whether their evidence is known or not."""
    generator = random.Random(seed)
    return [_locomo_talk(talk, questions, generator) for talk in locomo_talks.read(path)]


def _locomo_talk(talk: locomo_talks.Talk, questions: int, generator: random.Random) -> Sessions:
    messages: list[Message] = []
    dates: list[str] = []
    for session in talk.sessions:
        date = opening = f"({session.day})"
        for said in session.messages:
            text = f"{opening} {said['name']}: {said['content']}".strip()
            opening = ""
            if messages and messages[-1]["role"] == said["role"]:  # a chat template may insist on turns
                messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n{text}"}
            else:
                messages.append({"role": said["role"], "content": text})
                dates.append(date)
    asked = [
        Asked("abstention" if one.kind == locomo_talks.ADVERSARIAL else one.kind, one.question, one.answers,
              max(one.evidence, default=-1))
        for one in generator.sample(talk.asked, min(questions, len(talk.asked)))
    ]  # fmt: skip
    return Sessions(tuple(messages), tuple(asked), len(talk.sessions), tuple(dates))
