"""Texts and token ids of any origin, cut into the sequences that the outer loop reads.

A sequence never holds two documents. Fast weights, keys and the window start anew with each sequence anyway, so a
document is cut where a sequence ends, and what remains of it is a shorter sequence of its own. Packing several into one
row would need all three reset in the middle of it, and rows of a batch that learn at different times; padding behind
the few rows that end early is simpler, and the loss does not see it. Sequences are whole chunks, at least two; what is
left over is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..errors import InputError

logger = logging.get_logger(__name__)

TEXT_COLUMNS = ("text", "content")
Row = dict[str, list[int]]


def sequences(
    data: Any,
    length: int,
    chunk: int,
    vocabulary: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str = "train_dataset",
) -> Dataset:
    """The sequences of a data set, each a row {"input_ids": [...]} of whole chunks, at most `length` tokens.

    Parameters
    ----------
    data : documents, each a text, token ids, or a mapping with "text" or "input_ids": a list, a `datasets.Dataset`, or
        anything that can only be iterated over (a streaming data set), which is cut while it is read.
    vocabulary : of the model; ids from there on are refused.
    tokenizer : for texts.
    name : what to call it in errors.

    Raises
    ------
    InputError
        For no documents, documents of another form, or none that is long enough; while streaming, when that is found.
    """
    if isinstance(data, str) or not isinstance(data, Iterable):
        raise InputError(
            f"{name} is a {type(data).__name__}; expected documents: a list of texts or of token ids, or a data set "
            "with a column 'text' or 'input_ids'."
        )
    splitter = DocumentSplitter(length, chunk, vocabulary, tokenizer, name)
    return SequenceDataset(splitter.rows(data)) if isinstance(data, Sized) else SequenceStream(data, splitter)


class DocumentSplitter:
    """Splits documents into sequences, and warns at the end of those that were too short."""

    def __init__(
        self, length: int, chunk: int, vocabulary: int, tokenizer: PreTrainedTokenizerBase | None, name: str
    ) -> None:
        self.length, self.chunk, self.vocabulary = length, chunk, vocabulary
        self.tokenizer, self.name = tokenizer, name

    def rows(self, documents: Iterable[Any]) -> Iterator[Row]:
        seen = used = 0
        for document in documents:
            seen += 1
            pieces = list(self._cut(self._ids(document)))
            used += bool(pieces)
            yield from pieces
        if not used:
            raise InputError(
                f"{self.name} holds {seen} documents, none of at least two chunks ({2 * self.chunk} tokens). "
                + ("Give longer documents, or a smaller chunk_size." if seen else "Check where it was read from.")
            )
        if used < seen:
            logger.warning(
                "%s: %d of %d documents are shorter than two chunks and were left out.", self.name, seen - used, seen
            )

    def _cut(self, ids: Sequence[int]) -> Iterator[Row]:
        for start in range(0, len(ids), self.length):
            piece = ids[start : start + self.length]
            whole = len(piece) // self.chunk * self.chunk
            if whole >= 2 * self.chunk:
                yield {"input_ids": list(piece[:whole])}

    def _ids(self, document: Any) -> Sequence[int]:
        if isinstance(document, dict):
            present = [column for column in ("input_ids", *TEXT_COLUMNS) if column in document]
            if not present:
                raise InputError(
                    f"A document of {self.name} has the columns {sorted(document)}; expected 'input_ids' or 'text'."
                )
            document = document[present[0]]
        if isinstance(document, str):
            if self.tokenizer is None:
                raise InputError(f"{self.name} holds texts. Pass processing_class=, the tokenizer of the model.")
            document = self.tokenizer(document, verbose=False)["input_ids"]
        if isinstance(document, (Tensor, np.ndarray)):
            document = document.tolist()
        if not isinstance(document, (list, tuple)) or not all(type(token) is int for token in document):
            raise InputError(
                f"A document of {self.name} is a {type(document).__name__}; expected a text or a flat list of token "
                "ids."
            )
        if document and not 0 <= min(document) <= max(document) < self.vocabulary:
            raise InputError(
                f"{self.name} holds the token ids {min(document)} to {max(document)}, and the vocabulary has 0 to "
                f"{self.vocabulary - 1}. Check that tokenizer and model belong together."
            )
        return document


class SequenceDataset(Dataset):
    """Sequences in memory."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


class SequenceStream(IterableDataset):
    """Sequences of a streaming data set, split as its documents arrive."""

    def __init__(self, documents: Iterable[Any], splitter: DocumentSplitter) -> None:
        self.documents, self.splitter = documents, splitter

    def __iter__(self) -> Iterator[Row]:
        return self.splitter.rows(self.documents)


def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows of unequal length as one batch (B, T), zeros and a mask behind those that end early."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long, device="cpu")
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        count = len(row["input_ids"])
        ids[index, :count], mask[index, :count] = torch.tensor(row["input_ids"], device="cpu"), 1
    return {"input_ids": ids, "attention_mask": mask}
