"""How a context is consolidated: budget, training, and what a memory must show to be accepted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import check_flag, is_integer, is_number
from ..errors import ConfigError
from ..memory.config import MemoryConfig
from ..util.settings import settings


@settings()
@dataclass(frozen=True, repr=False)
class Budget:
    """What a consolidation may cost; None is no limit. The first limit that is reached ends training."""

    seconds: float | None = field(
        default=None, metadata={"help": "of the study and the training; verification follows them"}
    )
    steps: int | None = field(default=None, metadata={"help": "of the training"})
    tokens: int | None = field(default=None, metadata={"help": "of the training"})

    def __post_init__(self) -> None:
        for name in ("seconds", "steps", "tokens"):
            value, kind = getattr(self, name), "number" if name == "seconds" else "integer"
            right = is_number(value) if name == "seconds" else is_integer(value)
            if value is not None and not (right and value > 0):  # nan is not
                raise ConfigError(f"budget: {name}={value!r}, expected a positive {kind} or None.")

    @classmethod
    def of(cls, budget: Budget | float | Mapping[str, Any] | None) -> Budget:
        """A budget from a number of seconds, a mapping such as {"steps": 60}, or None for the defaults."""
        if budget is None:
            return cls()
        if isinstance(budget, Budget):
            return budget
        if isinstance(budget, Mapping):
            return cls(**budget)
        if is_number(budget):
            return cls(seconds=budget)
        raise ConfigError(f"budget={budget!r}: expected seconds, a mapping such as {{'steps': 60}}, or a Budget.")


# Fields of earlier versions, and what to do instead.
REMOVED = {
    "strategy": "Every context gets an entry of its own: leave the field out. For one memory of several contexts, "
    "consolidate them together.",
    "distill": "The teacher's logits are always matched: leave the field out.",
    "details": "Every part of a statement is asked for: leave the field out.",
    "most_details": "Whole statements are counted: set most_statements=N.",
    "text_weight": "The questions carry the text: leave the field out. For its sentences word for word, set notepad=N.",
}


@settings(removed=REMOVED)
@dataclass(frozen=True, repr=False)
class ConsolidationConfig:
    """How a context is consolidated (`docs/research-log/` has the measurements behind the defaults).

    Raises
    ------
    ConfigError
        For a value of another type, or outside its range.
    """

    memory: MemoryConfig = field(
        default_factory=MemoryConfig, metadata={"help": "where the memory is written and how large it is"}
    )
    piece_tokens: int = field(default=512, metadata={"help": "the context is studied in pieces of this many tokens"})
    answer_tokens: int = field(default=32, metadata={"help": "longest answer that is studied"})
    most_statements: int = field(
        default=200, metadata={"help": "statements that are studied, those with names and numbers first"}
    )
    wordings: int = field(default=4, metadata={"help": "times that questions are written about every statement"})
    kept_logits: int = field(default=20, metadata={"help": "logits of the teacher kept for each answer token"})
    lr: float | None = field(
        default=None,
        metadata={"help": "learning rate of AdamW, warmed up and decayed linearly; None sets it by the model's width"},
    )
    batch_size: int = field(default=8, metadata={"help": "lessons in each step"})
    epochs: float = field(default=10.0, metadata={"help": "passes over the lessons, at most"})
    least_steps: int = field(default=100, metadata={"help": "steps taken at least, unless everything is known before"})
    negatives: float = field(default=0.15, metadata={"help": "share of a step for questions without an answer"})
    replay: float = field(default=0.25, metadata={"help": "share of a step for lessons of earlier contexts"})
    enough_recall: float = field(
        default=0.98, metadata={"help": "train until this share of tokens is right, in held-out answers and refusals"}
    )
    # Held-out questions are odder than a user's (docs/research-log/study.md), and what is not recalled stays in words.
    min_recall: float = field(
        default=0.25, metadata={"help": "share of verification questions to answer, to be accepted"}
    )
    max_drift: float = field(
        default=0.01, metadata={"help": "largest relative change of the loss on unrelated text, to be accepted"}
    )
    max_changed: float = field(
        default=0.15, metadata={"help": "share of general requests in a chat answered otherwise, to be accepted"}
    )
    notepad: int = field(
        default=0, metadata={"help": "tokens of sentences kept word for word in the whole memory; see `with_notes`"}
    )
    keep_text: bool = field(default=False, metadata={"help": "keep the source text beside the memory"})
    seed: int = field(default=0, metadata={"help": "of the order of lessons and of sampled questions"})

    def __post_init__(self) -> None:
        if not isinstance(self.memory, MemoryConfig):
            raise ConfigError(f"memory={self.memory!r}: expected a MemoryConfig, such as MemoryConfig(rank=16).")
        check_flag("keep_text", self.keep_text)
        positive = ("piece_tokens", "answer_tokens", "kept_logits", "batch_size", "wordings")
        for name in (*positive, "most_statements", "least_steps", "notepad"):
            value, least = getattr(self, name), int(name in positive)
            if not is_integer(value) or value < least:
                raise ConfigError(f"{name}={value!r}: expected an integer of at least {least}.")
        if not is_integer(self.seed):
            raise ConfigError(f"seed={self.seed!r}: expected an integer.")
        for name in ("epochs", "lr"):
            value = getattr(self, name)
            if (name, value) != ("lr", None) and not (is_number(value) and 0 < value < float("inf")):
                raise ConfigError(f"{name}={value!r}: expected a positive number{' or None' * (name == 'lr')}.")
        for name in ("negatives", "replay", "min_recall", "max_changed", "enough_recall"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= 1:
                raise ConfigError(f"{name}={value!r}: expected a share from 0 to 1.")
        if not is_number(self.max_drift) or not self.max_drift >= 0:
            raise ConfigError(f"max_drift={self.max_drift!r}: expected a number of at least 0.")
