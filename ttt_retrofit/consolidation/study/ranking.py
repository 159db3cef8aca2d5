"""Which of several questions a statement answers best, by the model that is to learn it.

Small writers ask "What is my daughter's name?" for the month that she was born in. To that question, "My daughter was
born in September." is an unlikely reply, and a model can tell so far better than it can write or judge: by the log
probability of the statement after the question, against that after none. Words that the question says do not count.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from ..facts.checks import WORD, among, caseless, folded, words_of
from ..facts.related import TELLING, terms
from .answers import Question
from .apart import apart
from .asking import Asking
from .questions import QuestionDraft
from .statements import Statement
from .subjects import about_nothing

NO_QUESTION = "?"
OWN = 6.0  # nats for a question in which the user speaks of themselves, as users do
KEPT = 6  # questions for one part of a statement
WORSE = 10.0  # nats by which one of them may win less than the best
CLEAR = 2.0  # nats that another statement must win by a question that it answers, too


def best(drafts: Sequence[QuestionDraft], replies: Mapping[int, Sequence[int]], asking: Asking) -> list[QuestionDraft]:
    """Of the questions for each part of a statement, those that it answers best, the best first.

    replies : the tokens of every statement, as the answer to a question tells it.
    """
    own = asking.language.speaks
    gained = {
        draft: gain + (OWN if own(draft.text) else 0.0) for draft, gain in zip(drafts, gains(drafts, replies, asking))
    }
    kept: dict[tuple[int, str], list[QuestionDraft]] = {}
    for draft in sorted(drafts, key=lambda one: -gained[one]):
        some = kept.setdefault((draft.statement, folded(draft.part)), [])
        if len(some) < KEPT and (not some or gained[draft] >= gained[some[0]] - WORSE):
            some.append(draft)
    chosen = [draft for some in kept.values() for draft in some]
    return sorted(chosen, key=lambda one: (one.statement, -gained[one]))


def gains(drafts: Sequence[QuestionDraft], replies: Mapping[int, Sequence[int]], asking: Asking) -> list[float]:
    """For each question, the log probability (nats) that its statement wins by it, over the words that the question
    does not say itself.
    """
    said = {draft.statement: replies[draft.statement] for draft in drafts}
    prompts = [asking.formatter.asked(text) for text in [*(draft.text for draft in drafts), *[NO_QUESTION] * len(said)]]
    given = [*(said[draft.statement] for draft in drafts), *said.values()]
    likelihoods = asking.teacher.likelihoods(prompts, given)
    plain = dict(zip(said, likelihoods[len(drafts) :]))
    return [
        float((likelihoods[n] - plain[draft.statement])[own_tokens(said[draft.statement], draft.text, asking)].sum())
        for n, draft in enumerate(drafts)
    ]


def own_tokens(ids: Sequence[int], question: str, asking: Asking) -> list[int]:
    """The tokens of a reply that belong to words which its question does not say."""
    asked = words_of(question)
    repeated = {*tokens_of(ids, lambda word: folded(word) in asked, asking)}
    return [number for number in range(len(ids)) if number not in repeated]


def tokens_of(ids: Sequence[int], which: Callable[[str], bool], asking: Asking) -> list[int]:
    """The tokens of a text that belong to such words, or characters of scripts without spaces."""
    text, places = _spans(asking.formatter.tokenizer, ids)
    words = [match.span() for match in WORD.finditer(text) if not caseless(match[0])]
    words += [(place, place + 1) for place, character in enumerate(text) if caseless(character)]
    found = [(a, b) for a, b in words if which(text[a:b])]
    return [n for n, (first, last) in enumerate(places) if any(a < last and b > first for a, b in found)]


def _spans(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text of tokens, and where each of them stands in it."""
    ends = [len(tokenizer.decode(list(ids[:count]), skip_special_tokens=True)) for count in range(len(ids) + 1)]
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)), list(itertools.pairwise(ends))


def answered_by_others(
    questions: Sequence[Question], statements: Sequence[Statement], outdated: Collection[int], asking: Asking
) -> dict[int, list[int]]:
    """Of those that more than one statement answers, the others: "Where does Alex live?" of two people.

    Another one has all the words by which the question is about its own, and is about as likely a reply; of somebody
    else (`apart`), it has two words that tell something, or is a reply that the question makes likelier. What no longer
    holds answers nothing.
    """
    words = [terms(statement.source) for statement in statements]
    holding = [n for n in range(len(statements)) if n not in outdated]
    empty = about_nothing(asking.language)
    found: dict[int, list[int]] = {}
    pairs: list[tuple[int, int, bool]] = []  # a question, another statement than its own, and whether they are apart
    for number, question in enumerate(questions):
        own = question.statement
        about = [term for term in terms(question.text) if own >= 0 and among(term, words[own])]
        for n in holding:
            alike = n != own and statements[n].said_by == statements[own].said_by
            if not alike or not about or not all(among(term, words[n]) for term in about):
                continue
            somebody_else = apart(own, question.value, n, statements)
            if somebody_else and len({*about} - empty) >= TELLING:
                found.setdefault(number, []).append(n)
            elif question.value.isdisjoint(words_of(statements[n].source)):
                pairs.append((number, n, somebody_else))
    said = {
        n: asking.formatter.said(statements[n].text) for q, other, _ in pairs for n in (questions[q].statement, other)
    }
    drafts = [QuestionDraft(questions[q].text, n) for q, other, _ in pairs for n in (questions[q].statement, other)]
    gained = gains(drafts, said, asking) if drafts else []
    for (number, n, somebody_else), own_gain, other in zip(pairs, gained[::2], gained[1::2]):
        if other >= (0.0 if somebody_else else max(CLEAR, own_gain / 3)):
            found.setdefault(number, []).append(n)
    return found
