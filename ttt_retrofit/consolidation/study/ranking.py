"""Which of several questions a statement answers best, by the model that is to learn it.

Small writers ask "What is my daughter's name?" for the month that she was born in. To that question, "My daughter was
born in September." is an unlikely reply, and a model can tell so far better than it can write or judge: by the log
probability of the statement after the question, against that after none. Words that the question says do not count.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from ..facts.checks import WORD, caseless, folded, words_of
from .asking import Asking
from .questions import QuestionDraft

NO_QUESTION = "?"
OWN = 6.0  # nats for a question in which the user speaks of themselves, as users do
KEPT = 6  # questions for one part of a statement
WORSE = 10.0  # nats by which one of them may win less than the best


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
    text, spans = _spans(asking.formatter.tokenizer, ids)
    asked = words_of(question)
    repeated = [m.span() for m in WORD.finditer(text) if folded(m[0]) in asked and not caseless(m[0])]
    repeated += [(place, place + 1) for place, c in enumerate(text) if caseless(c) and folded(c) in asked]
    return [n for n, (first, last) in enumerate(spans) if not any(a < last and b > first for a, b in repeated)]


def _spans(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text of tokens, and where each of them stands in it."""
    ends = [len(tokenizer.decode(list(ids[:count]), skip_special_tokens=True)) for count in range(len(ids) + 1)]
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)), list(itertools.pairwise(ends))
