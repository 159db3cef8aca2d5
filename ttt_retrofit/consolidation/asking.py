"""Asking: the questions about a context that the model writes, and those that its sentences are turned into.

Every detail of every statement is hidden once, and a question is written that asks for it. So each is asked for, names,
numbers and strings verbatim, in every direction: from the name to the thing and from the thing to the name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from ..util.texts import text_ids
from .aliases import resolved
from .config import ConsolidationConfig
from .control import Control
from .pieces import Context, Statement
from .prompts import Prompts, fill
from .words import content, content_stems, details, resemblance, salient, stem, stems, words
from .writer import Writer

ALIKE = 0.85  # questions about one statement that share more of their words than this are one question
QUESTION_TOKENS = 24
KIND_TOKENS = 5
TEMPERATURE = 0.7  # of other wordings than the likeliest
BATCH = 64
WRITTEN = 0.25  # share of a budget of seconds after which no more questions are written
HIDDEN = "____"
GAP = "__"  # of any length: no question has one
MINE = re.compile(r"\b(?:my|our) (?:(?:favou?rite|best|first|last|new|old|own) )?(\w+)", re.IGNORECASE)
ME, ME_BEFORE = {"i", "i'm", "i've", "we", "we're", "we've"}, 4  # words before a verb
REFERRING = {"he", "she", "it", "they", "him", "her", "them", "his", "its", "their"}


@dataclass(frozen=True)
class QuestionDraft:
    """A question that is not answered yet."""

    text: str
    statement: int  # the statement it is about, -1 for none
    detail: str = ""  # what it was written to ask for
    source: str = ""  # where its answer must come from, if not from that statement
    by_user: bool = False
    spare: bool = False  # one more wording, which may be held out from what is trained on
    verbatim: bool = False  # the detail must stand in the answer word for word, in whatever language


def ask(
    context: Context, writer: Writer, prompts: Prompts, config: ConsolidationConfig, control: Control
) -> list[QuestionDraft]:
    """Questions about every detail of every statement, written by the model."""
    hidden = details_of(context, config)
    gaps = [_with_gap(context.statements[number], detail) for number, detail in hidden]
    kinds = _kinds(hidden, gaps, writer, prompts, control)
    template = prompts.conversation if context.conversation else prompts.document
    filled = [fill(template, gap=gap, hidden=detail, kind=kind) for (_, detail), gap, kind in zip(hidden, gaps, kinds)]
    prompts_ids = [text_ids(writer.tokenizer, text, split_special_tokens=True) for text in filled]
    borrowed = _examples(template) - stems(f"{context.text} {' '.join(kinds)}")
    turned_round = [
        _turned_round(_by_name(context.statements[number]), detail, kind, prompts)
        for (number, detail), kind in zip(hidden, kinds)
    ]
    # Sentences turned into questions are well-formed, so they come first: of two alike, the first is kept.
    asked = [QuestionDraft(text, *one) for one, texts in zip(hidden, turned_round) for text in texts]
    total = len(hidden) * config.wordings
    for wording, start in product(range(config.wordings), range(0, len(hidden), BATCH)):
        if wording + start and control.spent() > WRITTEN:
            break
        control.at("questions", wording * len(hidden) + start, total)
        continued = writer.answer(
            prompts_ids[start : start + BATCH], QUESTION_TOKENS, BATCH, kept=1, line=True,
            temperature=TEMPERATURE if wording else 0.0, seed=config.seed + wording,
        )  # fmt: skip
        written = [writer.text(answer).split("?")[0].strip() + "?" for answer in continued]
        for (number, detail), text in zip(hidden[start : start + BATCH], written):
            statement = context.statements[number]
            if not borrowed & named(text) and not mine(text) - stems(f"{statement.before} {statement.text}"):
                asked.append(QuestionDraft(text, number, detail, spare=wording > 0))
    for one, kind, texts in zip(hidden, kinds, turned_round):
        asked += [QuestionDraft(re.sub(r"^What ", f"What {kind} ", text), *one) for text in texts]
    # The sentence itself, asked back ("The code is what?"), makes sure that every detail is asked for.
    asked += [
        QuestionDraft(asked_back(context.statements[number].text, detail), number, detail, spare=True)
        for number, detail in hidden
    ]
    asked = [one for one in asked if _asks(one.text, one.detail)]
    clear = [
        replace(one, text=text)
        for one in asked
        for text in resolved(one.text, context.statements[one.statement].before)
    ]
    return distinct([*clear, *(usual_questions(context, prompts) if context.conversation else [])])


def details_of(context: Context, config: ConsolidationConfig) -> list[tuple[int, str]]:
    """What is asked for: details of the statements, each with its statement's number.

    Of a long context, names and numbers first, and what is named once before what is named again and again.
    """
    found = [
        (number, detail)
        for number, statement in enumerate(context.statements)
        for index, detail in enumerate(details(statement.text))
        if index < config.details or salient(detail)
    ]
    telling = sorted(found, key=lambda one: (not salient(one[1]), context.text.count(one[1])))
    return sorted(telling[: config.most_details], key=lambda one: one[0])


def _by_name(statement: Statement) -> str:
    """The statement, with whom it is about where it begins with a pronoun: "my sister" for "She"."""
    begins = re.match(r"(he|she|his|her)\b", statement.text, re.IGNORECASE)
    return resolved(statement.text, statement.before)[0] if begins else statement.text


def _with_gap(statement: Statement, detail: str) -> str:
    """The statement with the detail hidden."""
    return with_reference(replace(statement, text=statement.text.replace(detail, HIDDEN, 1)))


def with_reference(statement: Statement) -> str:
    """The statement, after what it refers to where it speaks of "her" or "it"."""
    refers = REFERRING & set(words(statement.text))
    return f"{statement.before} {statement.text}".strip() if refers else statement.text


def _kinds(
    hidden: Sequence[tuple[int, str]], gaps: Sequence[str], writer: Writer, prompts: Prompts, control: Control
) -> list[str]:
    """What kind of thing each detail is, in a word or two: "city", "number"."""
    kinds = [kind_by_form(detail, prompts) for _, detail in hidden]
    unclear = [index for index, kind in enumerate(kinds) if not kind]
    for start in range(0, len(unclear), BATCH):
        control.at("kinds", start, len(unclear))
        some = unclear[start : start + BATCH]
        filled = [fill(prompts.kind, gap=gaps[index], hidden=hidden[index][1]) for index in some]
        found = writer.answer(
            [text_ids(writer.tokenizer, text, split_special_tokens=True) for text in filled],
            KIND_TOKENS,
            BATCH,
            kept=1,
            line=True,
        )
        for index, answer in zip(some, found):
            kinds[index] = " ".join(words(writer.text(answer))[:2])
    return kinds


def kind_by_form(detail: str, prompts: Prompts) -> str:
    """The kind of a detail whose form tells it, such as a day of the week; empty for others."""
    return next((kind for pattern, kind in prompts.kinds if re.fullmatch(pattern, detail)), "")


def asked_back(sentence: str, detail: str, by: str = "what") -> str:
    """The sentence with a question word in the place of one detail."""
    return sentence.replace(detail, by, 1).rstrip(".!") + "?"


def _turned_round(sentence: str, detail: str, kind: str, prompts: Prompts) -> list[str]:
    """A sentence turned into questions about a detail; of "number 264", also about the 264 alone, and about a name also
    with "who".
    """
    told = " ".join(word for word in detail.split() if salient(word))
    hidden = [(part, "what") for part in ([detail] if told in ("", detail) else [detail, told])]
    hidden += [(told, "who")] if told and not any(character.isdigit() for character in told) else []
    return [text for part, by in hidden for text in turned(asked_back(sentence, part, by), prompts, kind)]


def turned(question: str, prompts: Prompts, kind: str = "") -> list[str]:
    """A sentence asked back, in the order of a question, by every pattern that is known for it; those that ask for the
    kind of the detail ("On which day") only where it is known.
    """
    fitting = ((match, order) for pattern, order in prompts.turned if (match := re.fullmatch(pattern, question)))
    asked = [fill(match.expand(order), kind=kind) for match, order in fitting if kind or "{kind}" not in order]
    return [re.sub(r"\s+\?", "?", _lower_possessives(text[:1].upper() + text[1:])) for text in asked]


def _lower_possessives(question: str) -> str:
    return re.sub(r"\b(My|Our|The|His|Her|Its|Their)\b", lambda match: match.group().lower(), question)


def usual_questions(context: Context, prompts: Prompts) -> list[QuestionDraft]:
    """The usual questions about whatever a statement mentions.

    What others do is no answer to what "I" do, nor is a related word: "My uncle moved to Cork" says not where I live.
    """
    asked = []
    for text, related in prompts.usual:
        own = content_stems(text)
        wanted = own | stems(related)
        of_speaker = wanted if "I" in text.split() else stems(related)
        numbers = [
            number
            for number, s in enumerate(context.statements)
            if (own - of_speaker and own <= stems(s.text)) or _about_me(s.text, of_speaker)
        ]
        asked += _of_every_piece(text, numbers, context)
    text, pattern = prompts.introduced
    numbers = [number for number, s in enumerate(context.statements) if re.search(pattern, s.text)]
    return asked + _of_every_piece(text, numbers, context)


def _of_every_piece(text: str, numbers: Sequence[int], context: Context) -> list[QuestionDraft]:
    """One question for every piece that has some of the statements, which the answer has to come from."""
    asked = []
    for piece in dict.fromkeys(context.statements[number].piece for number in numbers):
        about = [number for number in numbers if context.statements[number].piece == piece]
        asked.append(QuestionDraft(text, about[0], source=" ".join(context.statements[n].text for n in about)))
    return asked


def _about_me(sentence: str, wanted: set[str]) -> bool:
    """Whether a sentence says one of some words (stems) of the speaker: "my dog", "I have just moved"."""
    said = words(sentence)
    before = (said[max(0, index - ME_BEFORE) : index] for index, word in enumerate(said) if stem(word) in wanted)
    return bool(mine(sentence) & wanted) or any(ME & set(some) for some in before)


def distinct(asked: Sequence[QuestionDraft]) -> list[QuestionDraft]:
    """Without those that repeat another about the same statement."""
    kept: list[QuestionDraft] = []
    for one in asked:
        double = any(other.statement == one.statement and resemblance(other.text, one.text) > ALIKE for other in kept)
        if not double:
            kept.append(one)
    return kept


def _asks(text: str, detail: str) -> bool:
    """A question of some words that does not give the detail away: of "number 264", the 264."""
    telling = content(" ".join(word for word in detail.split() if salient(word))) or content(detail)
    return len(words(text)) >= 3 and GAP not in text and not telling & content(text)


def named(question: str) -> set[str]:
    """Stems of the things that a question names: "my garden", "how many chairs"."""
    return {
        stem(word)
        for word in re.findall(r"\b(?:my|our|the|his|her|its|their|your|an?|many) ([^\W\d]\w*)", question.lower())
    }


def mine(text: str) -> set[str]:
    """Stems of what a text calls mine. Asked "What is my job?", small teachers make a job of my project at work."""
    return {stem(word.lower()) for word in MINE.findall(text)}


def _examples(template: str) -> set[str]:
    """Stems of the example sentences in a template: small models borrow their words for questions of their own."""
    label = next((line.split("{gap}")[0] for line in template.splitlines() if "{gap}" in line), "")
    told = [line.removeprefix(label) for line in template.splitlines() if label and line.startswith(label)]
    return content_stems(" ".join(told).replace("{gap}", ""))
