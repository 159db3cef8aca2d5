"""BM25, what the field retrieves with."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s


class BM25:
    """Texts, ranked by a question."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.index = bm25s.BM25()
        self.index.index(_tokens(self.texts), show_progress=False)

    def ranked(self, question: str, count: int | None = None) -> list[tuple[int, float]]:
        """The numbers of the best texts with their scores, best first; of all where no count is given."""
        found, scores = self.index.retrieve(_tokens([question]), k=count or len(self.texts), show_progress=False)
        return [(int(number), float(score)) for number, score in zip(found[0], scores[0])]

    def best(self, question: str, count: int) -> str:
        """The best texts, one a line."""
        return "\n".join(self.texts[number] for number, _ in self.ranked(question, count))


def _tokens(texts: list[str]) -> object:
    return bm25s.tokenize(texts, stopwords="en", show_progress=False)
