"""`Memory`: consolidated fast weights as data.

A memory is a bank of entries, one for each context it was made from. It belongs to the user whose context that was: the
text is kept only when asked for. The facts are kept, which a person reads, and the lessons (questions and answers as
token ids), which later consolidations replay.
R rank, I in features, O out features, K keys, D model width.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import PreTrainedModel

from ..errors import CheckpointError, ConfigError
from ..inner.discovery import decoder_layers
from ..util.display import Displayed, Rows, in_bytes, in_percent
from ..util.files import write_atomically
from ..util.fingerprint import fingerprint
from ..util.hub_ids import hub_id
from ..util.messages import Message
from .alike import check_alike
from .card import memory_card
from .config import MemoryConfig
from .entry import Entry, GateKeys
from .exports import Exports
from .facts import without
from .gates import Background
from .known_facts import KnownFacts
from .lora import read_adapter
from .memory_file import LOCK, background_tensors, read_directory, write_directory
from .notes import FORM, Note, line_of, with_lines
from .projections import projection_at, submodule
from .report import Report


@dataclass(frozen=True, repr=False)
class Memory(KnownFacts, Exports, Displayed):
    """A bank of entries for one base.

    Attributes
    ----------
    base, base_name : fingerprint and name of the model it fits; it refuses another.
    layer : dotted name of the decoder layer whose input the gates depend on.
    background : what that layer sees of texts about nothing in particular.
    entries : one for each context.
    report : figures of the consolidation that made it.
    opener : token ids that a user's turn opens with, at most 8. What its gates depend on begins anew there. Empty where
        the tokenizer has no chat template, and in memories of earlier versions.
    """

    base: str
    base_name: str
    config: MemoryConfig
    layer: str
    background: Background
    entries: tuple[Entry, ...] = ()
    report: Report | None = None
    created: float = field(default_factory=time.time)
    opener: tuple[int, ...] = ()

    @cached_property
    def nbytes(self) -> int:
        """Size of all tensors in bytes, on disk and in use."""
        return sum(entry.nbytes for entry in self.entries) + sum(
            t.nbytes for t in background_tensors(self.background).values()
        )

    def _rows(self) -> Rows:
        report = self.report
        return {
            "entries": len(self.entries),
            "lessons": sum(len(entry.lessons) for entry in self.entries),
            "facts": len(self.facts()) or None,
            "unlearned": len(self.unlearned()) or None,
            "notes": len(self.notes) or None,
            "base": self.base_name,
            "size": in_bytes(self.nbytes),
            "recall": None if report is None else in_percent(report.recall),
            "accepted": None if report is None else report.accepted,
        }

    def __str__(self) -> str:
        """What it may do, by its weights; and its report, which is what the file says of itself."""
        paths = sorted({path for entry in self.entries for path in entry.weights})
        gated = "active where its gates open" if self.config.gated else "always active"
        lines = [
            f"Memory for {self.base_name!r}: {len(self.entries)} entries, {self.nbytes / 1e6:.1f} MB, gates at "
            f"{self.layer!r}; {gated}",
            f"writes to       {len(paths)} projections: {', '.join(map(repr, paths[:3]))}{', …' * (len(paths) > 3)}",
            f"entries         {', '.join(map(repr, self.names()))}",
        ]
        if self.facts():
            lines.append(f"facts           {len(self.facts())}, {len(self.unlearned())} of them not learned")
        if self.report is not None:
            lines.append(f"its report, as the file says:\n{self.report}")
        return "\n".join(lines)

    def __deepcopy__(self, memo: dict[int, Any]) -> Memory:
        return self  # nothing of it ever changes

    def names(self) -> list[str]:
        """The entries' names, oldest first."""
        return [entry.name for entry in self.entries]

    @property
    def notes(self) -> tuple[Note, ...]:
        """Sentences kept word for word, oldest first. Empty unless consolidated with a notepad."""
        return tuple(note for entry in self.entries for note in entry.notes)

    def with_notes(self, messages: Sequence[Message]) -> list[Message]:
        """Chat messages with the notes before them, in a turn of their own after the system prompt.

        The weights act wherever a memory is loaded. Notes are words and must be in the prompt. So are the facts that
        the weights do not hold, of which the newest 32 are put behind the notes.
        """
        return with_lines(messages, [*(n.text for n in self.notes), *map(line_of, self.unlearned()[-FORM.most :])])

    def forget(self, name: str, *others: str) -> Memory:
        """A memory without the named entries. What only those contexts said is gone.

        A fact that one of theirs superseded is current again, in words (see `with_notes`). Nothing else changes.

        Raises
        ------
        ConfigError
            When there is no such entry, an entry holds several contexts distilled into one, or a remaining entry was
            taught with what one of them said.
        """
        names = (name, *others)
        unknown = [name for name in names if name not in self.names()]
        if unknown:
            raise ConfigError(f"No entry is named {', '.join(map(repr, unknown))}. Entries are {self.names()}.")
        for entry in self.entries:
            if entry.name in names and len(entry.sources) > 1:
                raise ConfigError(
                    f"Entry {entry.name!r} holds {len(entry.sources)} contexts, distilled into one, which cannot be "
                    "told apart. Reset the memory and consolidate those that are to stay, one by one."
                )
        left = tuple(e for e in self.entries if e.name not in names)
        later = [e.name for e in left if not set(names).isdisjoint(e.learned_from)]
        if later:
            together = ", ".join(map(repr, [*names, *later]))
            raise ConfigError(
                f"Entries {later} were taught with what {', '.join(map(repr, names))} said (who is called what) and "
                f"would still answer by it. Forget them together: forget({together}); what is to stay can be "
                "consolidated again afterwards."
            )
        kept = {fact.id for entry in left for fact in entry.facts}
        gone = {f.id: f for entry in self.entries if entry.name in names for f in entry.facts if f.id not in kept}
        left = tuple(dataclasses.replace(entry, facts=without(entry.facts, gone)) for entry in left)
        return dataclasses.replace(self, entries=left, report=None, created=time.time())

    @cached_property
    def not_finite(self) -> str | None:
        """Names what holds NaN or infinity of all that is added to a forward; None where nothing does."""
        named = {f"the background's {name}": part for name, part in background_tensors(self.background).items()}
        for entry in self.entries:
            parts = entry.named_weights() | {"keys": entry.gate.keys}
            named |= {f"{name} of entry {entry.name!r}": part for name, part in parts.items()}
            bounds = torch.tensor([entry.gate.closed, entry.gate.opened])
            named[f"the gate of entry {entry.name!r}"] = bounds
        return next((name for name, part in named.items() if not bool(part.isfinite().all())), None)

    def check_finite(self) -> None:
        """Raise `CheckpointError` where it holds a value that is no number, which would make answers none."""
        if self.not_finite is not None:
            raise CheckpointError(
                f"{self.not_finite} holds values that are not finite: the memory is damaged. Use an earlier version, "
                "or consolidate the context again."
            )

    def check_fits(self, model: PreTrainedModel) -> None:
        """Raise unless `model` has the places that this memory names, with the shapes of its weights. Reads no tensor.

        The fingerprint (`base`) tells whether it is the very base that the memory was made for.

        Raises
        ------
        CheckpointError
            When the layer or a projection is missing, or weights or gates are of another shape.
        """
        if submodule(model, self.layer) is None:
            raise CheckpointError(
                f"This memory has its gates at {self.layer}, which {type(model).__name__} does not have. It was made "
                f"for another model ({self.base_name!r}): load that one."
            )
        text = model.config.get_text_config(decoder=True)
        width = text.hidden_size
        for entry in self.entries:
            ids = [token for lesson in entry.lessons for token in (*lesson.prompt, *lesson.answer)]
            ids += [int(lesson.indices.max()) for lesson in entry.lessons if lesson.indices.numel()]
            if max(ids, default=0) >= text.vocab_size:
                raise CheckpointError(
                    f"Entry {entry.name!r} was taught with token {max(ids)}, and {type(model).__name__} has "
                    f"{text.vocab_size}. It was made for another model: load that one."
                )
            widths = (entry.gate.keys.shape[-1], self.background.centre.shape[-1], self.background.directions.shape[0])
            if set(widths) != {width}:
                raise CheckpointError(
                    f"The gate of entry {entry.name!r} is for hidden states of widths {widths}, those of "
                    f"{type(model).__name__} have {width}. It was made for another model: load that one."
                )
            for path, weights in entry.weights.items():
                place = projection_at(model, path)
                if place is not None and place.takes(weights):
                    continue
                shape = None if place is None else (place.out_features, place.in_features)
                raise CheckpointError(
                    f"Entry {entry.name!r} holds weights of {[tuple(t.shape) for t in weights.values()]} for {path}, "
                    f"which in {type(model).__name__} is {'no projection' if shape is None else shape}. It was made "
                    "for another model: load that one."
                )

    @classmethod
    def combine(cls, memories: Sequence[Memory], weights: Sequence[float] | None = None) -> Memory:
        """One memory with the entries of all, their terms multiplied by `weights` (default 1).

        A memory of weight 0 is left out: it would add nothing, and its gate would still suppress others.

        Raises
        ------
        ConfigError
            For no list of memories or an empty one, a wrong number of weights, weights that are all 0, memories of
            different bases or places, and a mix of memories with and without gates.
        """
        if not isinstance(memories, Sequence) or not all(isinstance(memory, Memory) for memory in memories):
            raise ConfigError("Memory.combine() takes a list of memories: Memory.combine([first, second]).")
        if not memories:
            raise ConfigError("Memory.combine() was given no memory; expected at least one.")
        weights = [1.0] * len(memories) if weights is None else list(weights)
        if len(weights) != len(memories):
            raise ConfigError(f"{len(weights)} weights were given for {len(memories)} memories. Give one for each.")
        if not any(weights):
            raise ConfigError("All weights are 0: nothing would be remembered. Use None for no memory.")
        first = memories[0]
        check_alike(memories)
        entries: dict[str, Entry] = {}
        for memory, weight in zip(memories, weights):
            names: dict[str, str] = {}  # as this memory's entries are called in the new one
            for name in memory.names():
                names[name] = free_name(name, {*entries, *names.values()})
            for entry in memory.entries if weight else ():
                learned = tuple(names.get(other, other) for other in entry.learned_from)
                named = dataclasses.replace(entry.scaled(weight), name=names[entry.name], learned_from=learned)
                entries[named.name] = named
        return dataclasses.replace(first, entries=tuple(entries.values()), report=None, created=time.time())

    @classmethod
    def from_lora(cls, directory: str | os.PathLike[str], model: PreTrainedModel) -> Memory:
        """Read a PEFT LoRA adapter as a memory of `model` without a gate.

        Raises
        ------
        CheckpointError
            When files are missing or damaged, the adapter is not a plain LoRA, or it fits another model.
        """
        weights = read_adapter(directory)
        prefix, layers = decoder_layers(model)
        modules = dict(model.named_modules())
        inside = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        numbers = [int(match.group(1)) for match in map(inside.match, weights) if match]
        if not weights or len(numbers) < len(weights) or any(name not in modules for name in weights):
            raise CheckpointError(
                f"{directory} adapts {sorted(weights)[:3]}, which are not all projections in the {len(layers)} layers "
                f"of {type(model).__name__}. It was made for another model."
            )
        width = model.config.get_text_config(decoder=True).hidden_size
        entry = Entry(
            Path(directory).name, (), weights, GateKeys(torch.zeros(1, width, device="cpu"), 0.0, 1.0), (), time.time()
        )
        config = MemoryConfig(
            rank=max(by_name["a"].shape[0] for by_name in weights.values()),
            target_modules=tuple(sorted({name.rpartition(".")[2] for name in weights})),
            gated=False,
        )
        background = Background(
            torch.zeros(width, device="cpu"), torch.zeros(width, 0, device="cpu"), torch.zeros(0, device="cpu")
        )
        layer = f"{prefix}.{min(numbers)}"
        memory = cls(fingerprint(model), model.name_or_path or "", config, layer, background, (entry,))
        memory.check_fits(model)
        return memory

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload to the Hub with a card; returns the address of the commit. Private unless told otherwise.

        What a user said can be extracted from a memory. Push one only with the user's consent.

        Raises
        ------
        ConfigError
            When the repository exists and is public, unless private=False. Nothing is uploaded then.
        """
        api = HfApi(token=token)
        local = hub_id(self.base_name) is None
        # Where this machine, or the one that made the memory, keeps the base is nobody's business.
        public = dataclasses.replace(self, base_name=Path(self.base_name).name) if local else self
        # With the owner in front, which may be left out for one's own.
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        # A repository that was there before stays as public as it was, whatever is asked.
        if private and not api.repo_info(repo_id).private:
            raise ConfigError(
                f"{repo_id} is an existing public repository, but this memory is to be private. Make it "
                "private in its settings on the Hub, push to another name, or pass private=False if its user agrees."
            )
        with tempfile.TemporaryDirectory() as directory:
            contexts = sum(max(1, len(entry.sources)) for entry in self.entries)  # an adapter names no source
            card = memory_card(repo_id, public.base_name, local, contexts, len(self.facts()), self.nbytes, self.report)
            write_atomically(public.save(directory) / "README.md", card.encode())
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=directory, delete_patterns="memory-*.safetensors",
                commit_message="Upload memory", ignore_patterns=[LOCK],
            )  # fmt: skip
        return str(commit.commit_url)

    # ------------------------------------------------------------------ disk

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write `memory.json` and its tensors. The JSON is replaced last, so that a kill leaves what was there.

        Raises
        ------
        OSError
            When the disk is full or not writable. What was there before still loads.
        """
        return write_directory(
            Path(directory), {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], **hub_kwargs: Any) -> Memory:
        """Read a directory that `save` wrote, or a repository on the Hub.

        Raises
        ------
        CheckpointError
            When it is missing, incomplete, altered, of another format, or holds values that are not finite.
        """
        memory = cls(**read_directory(path, hub_kwargs))
        memory.check_finite()
        return memory


def free_name(name: str, taken: Collection[str]) -> str:
    """A name for an entry that no other has: itself, or with a number behind."""
    free, copy = name, 1
    while free in taken:
        copy += 1
        free = f"{name}-{copy}"
    return free
