"""What consolidating a context achieved and cost, in figures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..util.display import Bare, Displayed, Rows, in_percent
from ..util.shown import shown_in_line


@dataclass(frozen=True, repr=False)
class Report(Displayed):
    """The verification of a memory. Rates are shares from 0 to 1; a rate over nothing asked is None."""

    accepted: bool
    reason: str  # why it was accepted or not, in one sentence
    recall_before: float | None  # questions answered without context and without this memory
    recall: float | None  # the same with the memory, relative to answering with the full context
    questions: int  # asked: held out from the study, and some studied ones where those are few
    false_memories: float | None  # unanswerable questions answered with something out of the context
    false_memories_before: float | None  # the base's own share
    drift_kl: float  # KL to the base on unrelated text, nats per token
    drift_loss: float  # relative change of the loss on unrelated text
    steps: int = 0
    lessons: int = 0
    tokens: int = 0  # processed in all: written, answered, trained on, verified
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    stopped: str = ""  # what ended the training: recall, steps, seconds, tokens
    failures: tuple[tuple[str, str, str], ...] = ()  # (question, expected, answered), only with keep_text
    facts: int = 0  # current ones, each of which was asked for
    unlearned: tuple[str, ...] = ()  # ids of those that were not recalled; `Memory.unlearned` has the facts
    dropped: int = 0  # sentences of the writer that failed a check
    superseded: int = 0  # earlier facts that no longer hold
    refused: int = 0  # facts that `policy` or `review` did not let be kept
    chat_changed: float | None = None  # general requests after personal turns answered otherwise than without it
    chat_refused: float | None = None  # general requests after personal turns that were declined
    forgotten: int = 0  # facts that were deleted
    still_answered: int = 0  # questions about them that are answered all the same
    lost: int = 0  # questions about other facts that were answered before, and are not

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Report:
        failures = tuple(tuple(failure) for failure in values.get("failures", ()))
        return cls(**{**values, "failures": failures, "unlearned": tuple(values.get("unlearned", ()))})

    @property
    def _of_facts(self) -> str:
        return f"{self.facts - len(self.unlearned)} of {self.facts}"

    def _rows(self) -> Rows:
        return {
            "accepted": self.accepted,
            "recall": in_percent(self.recall),
            "facts": Bare(self._of_facts) if self.facts else None,
            "before": in_percent(self.recall_before),
            "questions": self.questions,
            "false_memories": in_percent(self.false_memories),
            "drift": Bare(f"{self.drift_loss:+.2%}"),
            "seconds": round(sum(self.seconds.values())),
            "reason": self.reason,
        }

    def __str__(self) -> str:
        def share(value: float | None) -> str:
            return "-" if value is None else f"{value:.0%}"

        lines = [
            f"{'accepted' if self.accepted else 'rejected'}: {shown_in_line(self.reason)}",
            f"recall         {f'{self._of_facts} facts; ' if self.facts else ''}{share(self.recall_before)} -> "
            f"{share(self.recall)} of full context, {self.questions} questions",
        ]
        if self.facts or self.dropped or self.superseded or self.refused:
            refused = f", {self.refused} refused" if self.refused else ""
            lines.append(
                f"facts          {len(self.unlearned)} not learned, {self.dropped} dropped, "
                f"{self.superseded} superseded{refused}"
            )
        if self.forgotten:
            lines.append(
                f"forgotten      {self.forgotten} facts; {self.still_answered} questions about them still answered, "
                f"{self.lost} about others lost"
            )
        lines += [
            f"false memories {share(self.false_memories)} (base {share(self.false_memories_before)})",
            f"drift          {self.drift_loss:+.2%} loss, {self.drift_kl:.4f} nats KL on unrelated text",
        ]
        if self.chat_changed is not None or self.chat_refused is not None:
            lines.append(
                f"in a chat      {share(self.chat_changed)} of general requests changed, "
                f"{share(self.chat_refused)} refused"
            )
        lines.append(f"cost           {sum(self.seconds.values()):.0f} s, {self.tokens:,} tokens, {self.steps} steps")
        return "\n".join(lines)
