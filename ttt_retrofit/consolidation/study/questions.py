"""The questions about statements that a model writes: each is written for one part of what was told, its answer.

A writer takes a part word for word and then asks for it. Writing the answer first makes small models ask well, in any
language, and tells what a right answer has to hold.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from ...util.messages import Message
from ..facts.checks import WORD, caseless, folded, missing, verbatim
from ..facts.languages import Language, nearest
from ..facts.related import APOSTROPHE, of_others
from ..facts.writers import FactWriter
from ..statements import TEXT, Statement

LONGEST = 64  # tokens of the questions about one statement
MOST = 200  # characters of a question
ALIKE = 0.85  # questions about one statement that share more of their words than this are one question
PART = "|"
NOT_TOLD = "…"


@dataclass(frozen=True)
class QuestionDraft:
    """A question that is not answered yet."""

    text: str
    statement: int  # the statement it is about, -1 for none
    part: str = ""  # of the statement, that its answer holds; empty where nobody knows
    by_user: bool = False
    held_out: bool = False  # for verification


def ask(
    statements: Sequence[Statement],
    writer: FactWriter,
    languages: Sequence[Language],
    wordings: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[QuestionDraft]:
    """Questions about every statement, in several wordings; then about names and numbers that none asked for."""
    prompts = [prompt(statement, languages) for statement in statements]
    sources = [statement.source for statement in statements]
    found: list[QuestionDraft] = []
    for wording in range(max(wordings, 1)):
        progress(wording, max(wordings, 1) + 1)
        found += _written(writer.complete(prompts, LONGEST, seed=wording), statements, found, sources)
    left = [(number, word) for number, word in _unasked(statements, found)]
    if left:
        progress(max(wordings, 1), max(wordings, 1) + 1)
        parts = [asking_for(word, statements[number], languages) for number, word in left]
        for (number, word), text in zip(left, writer.complete(parts, LONGEST // 2, seed=0)):
            question = next(iter(text.strip().splitlines()), "")
            found += _written([f"{word} {PART} {question}"], [statements[number]], found, sources, number)
    return found


def ask_again(
    statements: Sequence[Statement],
    parts: Sequence[tuple[int, str]],
    writer: FactWriter,
    languages: Sequence[Language],
    seed: int,
) -> list[QuestionDraft]:
    """One question for each of the parts (statement, part), by another prompt than `ask`: for verification."""
    asked = [asking_for(part, statements[number], languages) for number, part in parts]
    texts = writer.complete(asked, LONGEST // 2, seed=seed)
    found = []
    for (number, part), text in zip(parts, texts):
        question = next(iter(text.strip().splitlines()), "").strip()
        draft = QuestionDraft(question, number, part, held_out=True)
        if is_sound(draft, statements[number], [statement.source for statement in statements]):
            found.append(draft)
    return found


def prompt(statement: Statement, languages: Sequence[Language]) -> list[Message]:
    """What the writer is asked about one statement."""
    messages = [{"role": "system", "content": _asked()["instruction"].strip()}]
    for language in languages:
        for said, asked in [language.document] if statement.said_by == TEXT else language.questions:
            messages += [{"role": "user", "content": said}, {"role": "assistant", "content": asked}]
    return [*messages, {"role": "user", "content": statement.told}]


def asking_for(part: str, statement: Statement, languages: Sequence[Language]) -> list[Message]:
    """The prompt for one question whose answer is a given part."""
    asked = _asked()
    messages = [{"role": "system", "content": asked["instruction_for_one"].strip()}]
    for language in languages:
        for said, lines in [language.document] if statement.said_by == TEXT else language.questions:
            for line in lines.splitlines()[:2]:
                one, _, question = line.partition(PART)
                messages += [_one(said, one.strip()), {"role": "assistant", "content": question.strip()}]
    return [*messages, _one(statement.told, part)]


def _one(told: str, part: str) -> Message:
    return {"role": "user", "content": f"{told}\n→ {part}"}


@cache
def _asked() -> dict[str, str]:
    return tomllib.loads((resources.files(__package__) / "questions.toml").read_text("utf-8"))


def _written(
    answers: Sequence[str],
    statements: Sequence[Statement],
    known: Sequence[QuestionDraft],
    sources: Sequence[str],
    first: int = 0,
) -> list[QuestionDraft]:
    """The sound questions of the answers that are not known yet; answer n is about statement `first` + n."""
    found: list[QuestionDraft] = []
    asked = {(draft.statement, folded(draft.text)) for draft in known}
    for number, (answer, statement) in enumerate(zip(answers, statements), first):
        for draft in drafts_of(answer, number):
            key = (number, folded(draft.text))
            if key not in asked and is_sound(draft, statement, sources):
                asked.add(key)
                found.append(draft)
    return found


def drafts_of(answer: str, statement: int) -> Iterator[QuestionDraft]:
    """The lines of an answer that are a part, a bar and a question."""
    for line in answer.splitlines():
        part, bar, question = line.partition(PART)
        if bar and part.strip() and question.strip():
            yield QuestionDraft(question.strip(), statement, part.strip(" \"'“”«»"))


def is_sound(draft: QuestionDraft, statement: Statement, sources: Sequence[str] = ()) -> bool:
    """Whether a question asks for a part of its statement, does not give it away, and is about nothing else.

    sources : of all statements, by which it is told that a question speaks of somebody else's.
    """
    source, asked, part = folded(statement.source), folded(draft.text), folded(draft.part)
    told = part in source and bool(WORD.search(part))
    return (
        told
        and not gives(asked, part)
        and len(draft.text) <= MOST
        and len(WORD.findall(draft.text)) + len(caseless(draft.text)) > 1
        and not _unsaid(draft.text, statement.source)
        and not of_others(draft.text, statement.source, sources)
    )


def _unsaid(question: str, source: str) -> list[str]:
    """The names and numbers of a question that nobody told; of German, whose nouns look like names, the numbers."""
    unsaid = missing(question, [source])
    return unsaid if nearest(f"{source} {question}").names else [word for word in unsaid if not word.isalpha()]


def gives(asked: str, part: str) -> bool:
    """Whether a question names all of the part that it asks for. Both are `folded`."""
    if caseless(part):
        return part in asked
    words = {stem for word in WORD.findall(asked) for stem in (word, APOSTROPHE.split(word)[0])}
    return all(word in words for word in WORD.findall(part))


def _unasked(statements: Sequence[Statement], found: Sequence[QuestionDraft]) -> Iterator[tuple[int, str]]:
    """The names, numbers and codes of statements that no question asks for."""
    for number, statement in enumerate(statements):
        parts = " ".join(folded(draft.part) for draft in found if draft.statement == number)
        for word in dict.fromkeys(verbatim(statement.text)):
            if folded(word) not in parts:
                yield number, word


def distinct(drafts: Sequence[QuestionDraft]) -> list[QuestionDraft]:
    """Of questions about one statement that are alike, the first."""
    kept: list[QuestionDraft] = []
    for draft in drafts:
        same = (other for other in kept if other.statement == draft.statement and other.part == draft.part)
        if all(resemblance(draft.text, other.text) <= ALIKE for other in same):
            kept.append(draft)
    return kept


def resemblance(one: str, other: str) -> float:
    """Share of words, or of characters of a script without spaces, that two questions have in common (Jaccard)."""
    a, b = ({*caseless(text), *(w for w in WORD.findall(folded(text)) if not caseless(w))} for text in (one, other))
    return len(a & b) / len(a | b) if a | b else float(one.strip() == other.strip())
