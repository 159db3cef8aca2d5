"""The questions about statements that a model writes: each is written for one part of what was told, its answer.

A writer takes a part word for word and then asks for it. Writing the answer first makes small models ask well, in any
language, and tells what a right answer has to hold.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from ...util.messages import Message
from ..facts.checks import WORD, caseless, folded, missing, names_in, words_of
from ..facts.languages import Language, nearest
from ..facts.related import APOSTROPHE, of_others, shared
from ..facts.turns import USER
from ..facts.writers import FactWriter, complete_without, first_line
from .parts import parts_of, telling, trimmed, without, without_opening, words_telling
from .statements import TEXT, Statement

LONGEST = 64  # tokens of the questions about one statement
MOST = 200  # characters of a question
ALIKE = 0.85  # questions about one statement that share more of their words than this are one question
PART = "|"


@dataclass(frozen=True)
class QuestionDraft:
    """A question that is not answered yet."""

    text: str
    statement: int  # the statement it is about, -1 for none
    part: str = ""  # of the statement, that its answer holds; empty where nobody knows
    by_user: bool = False
    still: bool = False  # asks whether something is as before, which it is not
    held_out: bool = False  # may be asked in verification, and not studied
    cut: bool = False  # a statement without the part


def ask(
    statements: Sequence[Statement],
    writer: FactWriter,
    languages: Sequence[Language],
    wordings: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    sampled: bool = False,
) -> list[QuestionDraft]:
    """Questions about every statement: freely written ones, which may be held out, and those for each of its parts.

    sampled : beside the likeliest wordings, as many others.
    """
    progress(0, wordings + 1)
    free = ask_freely(statements, writer, languages, 0)
    parts = _parts(statements, free)
    told = [statements[number].told for number, _ in parts]
    never = giving = [_giving(part, statements[number], languages[-1]) for number, part in parts]
    found: list[QuestionDraft] = []
    for wording in range(wordings):
        progress(wording + 1, wordings + 1)
        if wording and wording == wordings - 1:  # "Where does my wife work?", of a wife who was told of by her name
            told = [_nameless(statements[number], part) for number, part in parts]
        prompts = [asking_for(part, text, statements[number], languages) for (number, part), text in zip(parts, told)]
        written = _for_parts(parts, prompts, writer, never)
        # The next one begins otherwise: that makes another question, where sampling mostly makes the same.
        never = [{*words, opening(draft.text)} for words, draft in zip(never, written)]
        found += [*written, *(_for_parts(parts, prompts, writer, giving, seed=wording + 1) if sampled else ())]
    found = distinct(_sound(found, statements, languages[-1]))
    return [*free, *found, *_told_apart([*free, *found], statements, writer, languages)]


def _giving(part: str, statement: Statement, language: Language) -> set[str]:
    """The words that make a question unsound: those of the part, of whom the examples are about, and "your"."""
    shown = names_in(line.partition("] ")[2] for line in language.facts.splitlines()) if language.names else ()
    user = language.second_person if statement.said_by == USER else ()
    return {*words_telling(part), *user, *(name for name in shown if name not in words_of(statement.source))}


def _nameless(statement: Statement, part: str) -> str:
    """A statement without its names but for a part; of German, whose nouns look like names, as it is."""
    others = [name for name in parts_of(statement.text) if part not in name]
    return without(statement.told, others if nearest(statement.source).names else [])


def _for_parts(
    parts: Sequence[tuple[int, str]],
    prompts: Sequence[Sequence[Message]],
    writer: FactWriter,
    never: Sequence[Collection[str]],
    seed: int = 0,
) -> list[QuestionDraft]:
    """A question for each part, as far as possible without the words that it must not have."""
    texts = complete_without(writer, prompts, LONGEST // 2, seed, never) if prompts else []
    return [QuestionDraft(first_line(text), number, part) for (number, part), text in zip(parts, texts)]


def _sound(drafts: Sequence[QuestionDraft], statements: Sequence[Statement], language: Language) -> list[QuestionDraft]:
    sources = [statement.source for statement in statements]
    shown = {*language.part_of}  # small writers repeat an example
    return [d for d in drafts if d.text not in shown and is_sound(d, statements[d.statement], sources)]


def opening(question: str) -> str:
    """The first word, or two characters of a script that writes words together."""
    first = next(iter(WORD.findall(question)), "")
    return first[:2] if caseless(first) else first


def _told_apart(
    drafts: Sequence[QuestionDraft],
    statements: Sequence[Statement],
    writer: FactWriter,
    languages: Sequence[Language],
) -> list[QuestionDraft]:
    """More questions where two statements were asked for different parts in the very same words: of two people of one
    name, say. Whoever writes them reads the statement without the names that both have.
    """
    same: dict[str, dict[int, str]] = {}
    for draft in drafts:
        same.setdefault(folded(draft.text), {}).setdefault(draft.statement, draft.part)
    found: dict[tuple[int, str], list[Message]] = {}
    for asked in same.values():
        for number, part in asked.items():
            others = [n for n, other in asked.items() if n != number and folded(other) != folded(part)]
            shared = [name for name in parts_of(statements[number].text) for n in others if name in statements[n].text]
            if shared:
                told = without(statements[number].told, shared)
                found[number, part] = asking_for(part, told, statements[number], languages)
    never = [_giving(part, statements[number], languages[-1]) for number, part in found]
    more = [draft for seed in (0, 1) for draft in _for_parts([*found], [*found.values()], writer, never, seed)]
    more = _sound(more, statements, languages[-1])
    return distinct([draft for draft in more if draft.statement not in same.get(folded(draft.text), {})])


def ask_freely(
    statements: Sequence[Statement], writer: FactWriter, languages: Sequence[Language], seed: int
) -> list[QuestionDraft]:
    """Questions about every statement, each for a part that the writer chooses, by a prompt of its own."""
    sources = [statement.source for statement in statements]
    answers = writer.complete([prompt(statement, languages) for statement in statements], LONGEST, seed=seed)
    found: dict[tuple[int, str], QuestionDraft] = {}
    for number, (answer, statement) in enumerate(zip(answers, statements)):
        for written in drafts_of(answer, number):
            draft = replace(written, part=trimmed(written.part))
            if draft.part and is_sound(draft, statement, sources):
                found.setdefault((number, folded(draft.text)), draft)
    return distinct([*found.values()])


def _parts(statements: Sequence[Statement], free: Sequence[QuestionDraft]) -> list[tuple[int, str]]:
    """What is asked for of each statement: its names and numbers, and what was freely asked for; of one without either,
    the words that say what it is about.
    """
    names = names_in([statement.text for statement in statements])
    found: list[tuple[int, str]] = []
    for number, statement in enumerate(statements):
        parts = parts_of(statement.text, names)
        known = {folded(part) for part in parts}
        asked_for = (draft.part for draft in free if draft.statement == number)
        parts += [p for p in asked_for if not any(folded(p) in one or one in folded(p) for one in known)]
        parts = parts or [*telling(statement.text)][-2:]
        found += [(number, part) for part in dict.fromkeys(parts)]
    return found


def cut(numbers: Iterable[int], statements: Sequence[Statement], language: Language) -> list[QuestionDraft]:
    """Statements as questions, by no writer: each without a part, and up to it. "My uncle moved to?" """
    mark = language.still[1].strip()[-1]
    found = []
    for number in numbers:
        text = without_opening(statements[number].text).rstrip(".!。！ ")
        names = parts_of(text)
        for part in dict.fromkeys([*names, *telling(text)]):
            for left in (text.partition(part)[0], *([without(text, [part])] if part in names else [])):
                question = left.strip(" ,;:(，、；：（")
                draft = QuestionDraft(f"{question[:1].upper()}{question[1:]}{mark}", number, part, cut=True)
                if {*telling(question)} and is_sound(draft, statements[number]):
                    found.append(draft)
    return distinct(found)


def ask_whether_still(
    numbers: Sequence[int], statements: Sequence[Statement], writer: FactWriter, languages: Sequence[Language]
) -> list[QuestionDraft]:
    """Whether what a statement ends is still so."""
    prompts = [whether_still(statements[number], languages) for number in numbers]
    texts = writer.complete(prompts, LONGEST // 2) if prompts else []
    drafts = [QuestionDraft(first_line(text), number, still=True) for number, text in zip(numbers, texts)]
    return [d for d in drafts if d.text and not missing(d.text, [statements[d.statement].source])]


def whether_still(statement: Statement, languages: Sequence[Language]) -> list[Message]:
    """The prompt for it; of every language there is one example."""
    messages: list[Message] = [{"role": "system", "content": instruction("instruction_for_still")}]
    for language in languages:
        said, question = language.still
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": question}]
    return [*messages, {"role": "user", "content": statement.told}]


def prompt(statement: Statement, languages: Sequence[Language]) -> list[Message]:
    """What the writer is asked about one statement."""
    messages = [{"role": "system", "content": instruction("instruction")}]
    for language in languages:
        for said, asked in [language.document] if statement.said_by == TEXT else language.questions:
            messages += [{"role": "user", "content": said}, {"role": "assistant", "content": asked}]
    return [*messages, {"role": "user", "content": statement.told}]


def asking_for(part: str, told: str, statement: Statement, languages: Sequence[Language]) -> list[Message]:
    """The prompt for one question whose answer is a given part of a statement, after all that is told."""
    messages = [{"role": "system", "content": instruction("instruction_for_one")}]
    for language in languages:
        for said, lines in [language.document] if statement.said_by == TEXT else language.questions:
            for line in lines.splitlines()[:2]:
                one, _, question = line.partition(PART)
                messages += [_one(said, one.strip()), {"role": "assistant", "content": question.strip()}]
    return [*messages, _one(told, part)]


def _one(told: str, part: str) -> Message:
    return {"role": "user", "content": f"{told}\n→ {part}"}


def instruction(name: str) -> str:
    """What a writer is told."""
    return _asked()[name].strip()


@cache
def _asked() -> dict[str, str]:
    return tomllib.loads((resources.files(__package__) / "questions.toml").read_text("utf-8"))


def drafts_of(answer: str, statement: int) -> Iterator[QuestionDraft]:
    """The lines of an answer that are a part, a bar and a question."""
    for line in answer.splitlines():
        part, bar, question = line.partition(PART)
        if bar and part.strip() and question.strip():
            yield QuestionDraft(question.strip(), statement, part.strip(" \"'“”«»"), held_out=True)


def is_sound(draft: QuestionDraft, statement: Statement, sources: Sequence[str] = ()) -> bool:
    """Whether a question asks for a part of its statement, does not give it away, and is about nothing else.

    sources : of all statements, by which it is told that a question speaks of somebody else's.
    """
    source, asked, part = folded(statement.source), folded(draft.text), folded(draft.part)
    language = nearest(f"{statement.source} {draft.text}")
    told = part in source and not language.first_person.issuperset(WORD.findall(part))
    return (
        told
        and not gives(asked, part)
        and len(draft.text) <= MOST
        and len(WORD.findall(draft.text)) + len(caseless(draft.text)) > 1
        and shared(draft.text, statement.source) > 0  # "What does he do?" is about anybody
        and not unsaid(draft.text, statement.source, language)
        and not of_others(draft.text, statement.source, sources)
        # Who is to ask it does not speak to the user.
        and not (statement.said_by == USER and language.addresses(asked))
    )


def unsaid(question: str, source: str, language: Language) -> list[str]:
    """The names and numbers of a question that nobody told; of German, whose nouns look like names, the numbers."""
    return [word for word in missing(question, [source]) if language.names or not word.isalpha()]


def gives(asked: str, part: str) -> bool:
    """Whether a question names all of the part that it asks for. Both are `folded`."""
    if caseless(part):
        return part in asked
    words = {stem for word in WORD.findall(asked) for stem in (word, APOSTROPHE.split(word)[0])}
    return all(word in words for word in WORD.findall(part))


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
