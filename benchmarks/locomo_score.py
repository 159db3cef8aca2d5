"""What an answer to a question of LoCoMo is worth.

Token F1 is the published score: words without punctuation and articles, stemmed (Porter); of multi-hop questions the
mean over the parts of the right answer, between commas, each against the best part of the answer. Two things are our
own. Facts have ISO dates where the file has "8 May 2023", so ISO dates are written out before. And remarks in brackets
are no part of a right answer; a day in brackets is another wording of it.

"Right" is strict: every content word of the right answer is in the answer, in any form and order, and the answer does
not say that it is not known. A question about what was never said is answered rightly where it is declined; as token F1
of these, too, 1 stands for declined.
"""

from __future__ import annotations

import datetime
import re
import string
from collections import Counter
from statistics import fmean
from typing import NamedTuple

from bm25s.stopwords import STOPWORDS_EN
from nltk.stem.porter import PorterStemmer

from .locomo_talks import ADVERSARIAL, Asked, in_words
from .turns_rows import declines

ISO = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
ARTICLES = re.compile(r"\b(a|an|the|and)\b")
UNMARKED = str.maketrans("", "", string.punctuation)
EMPTY = frozenset(STOPWORDS_EN) - {"no", "not"} | {"approximately"}  # words that no right answer needs
stemmer = PorterStemmer()


class Score(NamedTuple):
    f1: float
    right: bool
    declined: bool


def score(asked: Asked, answer: str) -> Score:
    declined = declines(answer)
    if asked.kind == ADVERSARIAL:
        return Score(float(declined), declined, declined)
    told = ISO.sub(_written_out, answer)
    of_kind = f1_of_parts if asked.kind == "multi-hop" else f1
    return Score(
        max(of_kind(told, right) for right in asked.answers),
        not declined and any(holds(told, right) for right in asked.answers),
        declined,
    )


def f1(answer: str, right: str) -> float:
    """The harmonic mean of precision and recall over stems."""
    given, wanted = (Counter(map(stemmer.stem, normalized(text))) for text in (answer, right))
    common = (given & wanted).total()
    return 2 * common / (given.total() + wanted.total()) if common else 0.0


def f1_of_parts(answer: str, right: str) -> float:
    return fmean(max(f1(part, wanted) for part in answer.split(",")) for wanted in right.split(","))


def holds(answer: str, right: str) -> bool:
    """Whether every content word of the right answer is in the answer."""
    words = normalized(right)
    content = [word for word in words if word not in EMPTY] or words
    return {stemmer.stem(word) for word in content} <= set(map(stemmer.stem, normalized(answer)))


def normalized(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation and articles."""
    return ARTICLES.sub(" ", text.lower().translate(UNMARKED)).split()


def _written_out(match: re.Match[str]) -> str:
    try:
        return in_words(datetime.date.fromisoformat(match[0]))
    except ValueError:  # a number of that form
        return match[0]
