"""Questions near to what was told that nothing answers: of a brother who lives in Lyon, where a sister does.

They are the studied questions with one word changed, since one word is what a careless memory overlooks. The teacher
finds it: a word that is likely after what comes before it, that was not told, and after which the rest of the question
is likely, too. It must be about something else: a reply about a dog is nearly as likely to "What is my pet called?" as
to "What is my dog called?", and far less to "What is my cat called?".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ...util.texts import text_ids
from ..facts.checks import WORD, among
from ..facts.related import common, terms
from .answers import Question
from .asking import Asking
from .ranking import tokens_of
from .statements import Statement
from .subjects import Cut, about_nothing, cuts_of, known

GAPS = 8  # words of questions that are changed
WORDS = 3  # that one of them is changed for
SHOWN = 3  # questions before one, as a list
LIKELY = 20  # words that may follow
TRIED = 6  # of them, with the rest of the question
UNLIKE = 10.0  # nats by which the changed question may be less likely than the studied one
APART = 8.0  # nats by which the changed word of an answer must be less likely after the changed question


@dataclass(frozen=True)
class NearMiss:
    """A question, and the number of the studied one that it comes near to."""

    text: str
    number: int


def near_misses(questions: Sequence[Question], statements: Sequence[Statement], asking: Asking) -> list[NearMiss]:
    """At most `WORDS` for each of `GAPS` words, of as many statements as possible."""
    told = terms(" ".join([*(statement.source for statement in statements), *(one.text for one in questions)]))
    empty = about_nothing(asking.language)
    confirmed = [number for number, question in enumerate(questions) if _confirms(question, asking)]
    cuts = _spread(questions, [*cuts_of(questions, statements, asking.language, confirmed)])
    lists = [_list(questions, cut) for cut in cuts]
    tokenizer = asking.formatter.tokenizer
    prompts = [text_ids(tokenizer, text, split_special_tokens=True) for text in lists]
    begun = asking.teacher.answer(prompts, 1, kept=LIKELY) if cuts else []
    found: dict[NearMiss, str] = {}  # each with the word that it changes
    for cut, prompt, answer in zip(cuts, prompts, begun):
        some = dict.fromkeys(_word(str(tokenizer.decode([token]))) for token in answer.indices[0].tolist())
        name = cut.word[0].isupper()
        new = [one for one in some if one and one[0].isupper() is name and not known(one, told, empty)]
        best = _likeliest(prompt, cut, new[:TRIED], asking)
        found |= {NearMiss(cut.with_word(word), cut.number): cut.word for word in best}
    return _about_else(found, questions, asking)


def _confirms(question: Question, asking: Asking) -> bool:
    """Whether an answer tells nothing but what its question says: a yes or a no."""
    asked = terms(question.text) | common(asking.language)
    return all(among(term, asked) for term in terms(asking.text(question.answer)))


def _spread(questions: Sequence[Question], cuts: Sequence[Cut]) -> list[Cut]:
    """At most `GAPS`, one about each statement before the next about any; of those around one gap, one."""
    unlike = {cut.around: cut for cut in reversed(cuts)}
    turns: Counter[int] = Counter()
    order: list[tuple[int, int, Cut]] = []
    for cut in reversed(unlike.values()):
        about = questions[cut.number].statement
        turns[about] += 1
        order.append((turns[about], len(order), cut))
    return [cut for *_, cut in sorted(order, key=lambda one: one[:2])[:GAPS]]


def _list(questions: Sequence[Question], cut: Cut) -> str:
    """Questions, the last one up to where it is cut."""
    others = [question.text for number, question in enumerate(questions) if number != cut.number][:SHOWN]
    return "\n".join([*others, cut.before.rstrip()])


def _word(text: str) -> str:
    word = text.strip()
    return word if WORD.fullmatch(word) and not word.isdigit() else ""


def _likeliest(prompt: Sequence[int], cut: Cut, words: Sequence[str], asking: Asking) -> list[str]:
    """The `WORDS` with which the question is likeliest, of those with which it is not much less likely than before."""
    if not words:
        return []
    space = cut.before[len(cut.before.rstrip()) :]
    rests = [f"{space}{word}{cut.after}" for word in (cut.word, *words)]
    tokenizer = asking.formatter.tokenizer
    ids = [text_ids(tokenizer, rest, begins=False, split_special_tokens=True) for rest in rests]
    before, *after = (float(found.sum()) for found in asking.teacher.likelihoods([prompt] * len(ids), ids))
    best = sorted(range(len(words)), key=lambda number: -after[number])[:WORDS]
    return [words[number] for number in best if after[number] >= before - UNLIKE]


def _about_else(found: Mapping[NearMiss, str], questions: Sequence[Question], asking: Asking) -> list[NearMiss]:
    """Those after which the changed word is far less likely, in the answer to the studied question, than after that;
    and those of an answer without it.
    """
    numbers = dict.fromkeys(miss.number for miss in found)
    asked = [*((miss.text, miss.number) for miss in found), *((questions[n].text, n) for n in numbers)]
    prompts = [asking.formatter.asked(text) for text, _ in asked]
    likely = asking.teacher.likelihoods(prompts, [questions[n].answer.ids for _, n in asked]) if found else []
    studied = dict(zip(numbers, likely[len(found) :]))
    kept = []
    for (miss, word), changed in zip(found.items(), likely):
        same = partial(known, told=terms(word))
        named = tokens_of(questions[miss.number].answer.ids, same, asking)
        if not named or float(changed[named].sum()) < float(studied[miss.number][named].sum()) - APART:
            kept.append(miss)
    return kept
