"""What is written down word for word beside a memory: the sentences of a context that weights recall worst.

Numbers, codes and rare names are what fast weights and studied answers lose, and what a tokenizer has no words for.
So a sentence is worth its place by how many tokens its words take. That needs no forward pass and no question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

WORDS = re.compile(r"\w+(?:[-'.:/@]\w+)*|[^\w\s]")  # a code, a time of day or a hyphenated word is one
FEWEST = 3  # words that a sentence counts as having: one strange word alone says nothing


def rarity(sentence: str, tokenizer: PreTrainedTokenizerBase) -> float:
    """Tokens for each word and mark."""
    tokens = len(tokenizer(sentence, add_special_tokens=False).input_ids)
    return tokens / max(len(WORDS.findall(sentence)), FEWEST)


def chosen(sentences: Sequence[str], sizes: Sequence[int], scores: Sequence[float], budget: int) -> list[int]:
    """Numbers of the sentences with the best scores whose sizes fit into the budget, in the order of the text.

    What was said twice is kept once, where it was said last.
    """
    last = {" ".join(text.split()): number for number, text in enumerate(sentences)}
    kept = []
    for number in sorted(last.values(), key=lambda n: -scores[n]):
        if sizes[number] <= budget:
            kept.append(number)
            budget -= sizes[number]
    return sorted(kept)
