"""`MemoryMixin`: the memories of a converted model: consolidating, loading, rolling back, forgetting.

The work is done in `consolidation/`, the data are `memory/`; this is where a model meets them.
B batch rows.
"""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from ..consolidation.config import REMOVED, Budget, ConsolidationConfig
from ..consolidation.consolidate import Consolidation
from ..consolidation.control import Control, Progress
from ..consolidation.facts.turns import day_of
from ..consolidation.facts.writers import FactWriter, writer_of
from ..consolidation.job import ConsolidationJob
from ..consolidation.model_copies import plain_copy
from ..consolidation.progress_bar import ProgressBar
from ..consolidation.prompts import Prompts
from ..consolidation.study.pieces import parse_context
from ..consolidation.study.review import EVERYTHING, Policy, Review, Reviewer
from ..consolidation.work_directory import default_directory
from ..errors import CheckpointError, ConfigError, InputError
from ..inner import hooks
from ..memory.batch import MemoryBatch
from ..memory.batch_cache import BatchCache
from ..memory.bounds import check_bounds
from ..memory.collate import collate
from ..memory.config import MemoryConfig
from ..memory.memory import Memory
from ..util.fingerprint import fingerprint, same_base
from ..util.given import check_tokenizer
from ..util.settings import did_you_mean, field_names

logger = logging.get_logger(__name__)

LOADED = "loaded"  # the memory that is active when `consolidate` is called

if TYPE_CHECKING:
    _Base = PreTrainedModel
else:
    _Base = object


class MemoryMixin(_Base):
    """Memories of a converted model. Each one it was given stays as a version; the last one is active."""

    _versions: list[Memory]
    _memory_batches: BatchCache

    def attach_memory(self) -> None:
        """Begin without a memory."""
        self._versions, self._memory_batches = [], BatchCache()

    def _own_tokenizer(self) -> PreTrainedTokenizerBase:
        raise NotImplementedError

    # ------------------------------------------------------------------ which memory is active

    @property
    def memory(self) -> Memory | None:
        """The memory that is active in every call without `memories`."""
        return self._versions[-1] if self._versions else None

    def load_memory(self, memory: Memory | str | os.PathLike, *, safe: bool = True) -> Memory:
        """Make a memory active: an object, a directory, or a repository on the Hub. The model is not reloaded.

        Parameters
        ----------
        safe : accept a directory or repository only if it stays within what `consolidate` makes: weights of MLPs, of
            bounded size, behind a gate. False accepts any; use it for authors you trust. Objects are not checked.

        Raises
        ------
        CheckpointError
            When it is damaged, was made for another base, or is not `safe`. The previous memory stays active.
        InputError
            For anything that is neither a memory nor a place of one.
        """
        if not isinstance(memory, (Memory, str, os.PathLike)):
            raise InputError(
                f"load_memory() was given a {type(memory).__name__}; expected a Memory, a directory or a repository."
            )
        loaded = memory if isinstance(memory, Memory) else Memory.load(memory)
        self.check_memory(loaded)
        if not isinstance(memory, Memory):
            if safe:
                check_bounds(loaded, self)
            logger.info("%s: %s", memory, loaded)
        self._versions = [*self._versions, loaded]
        return loaded

    def reset_memory(self) -> None:
        """Forget every loaded memory. The model is then as before the first one. Saved memories are not deleted."""
        self._versions, self._memory_batches = [], BatchCache()

    def rollback_memory(self) -> Memory | None:
        """Return to the previous version, and return the memory that is now active.

        Raises
        ------
        ConfigError
            When no memory is loaded.
        """
        if not self._versions:
            raise ConfigError("rollback_memory(): no memory is loaded, so there is none to go back from.")
        self._versions = self._versions[:-1]
        return self.memory

    def memory_versions(self) -> list[Memory]:
        """The memories loaded and accepted so far, oldest first. The last one is active."""
        return list(self._versions)

    def forget_memory(self, name: str, *others: str) -> Memory:
        """Make and return a new version without the named entries (see `memory.names()`)."""
        if self.memory is None:
            raise ConfigError(f"forget_memory({name!r}): no memory is loaded.")
        return self.load_memory(self.memory.forget(name, *others))

    def merge_memory(self) -> None:
        """Fold the loaded memory into the base's weights, as if its gates were always open.

        Raises
        ------
        ConfigError
            When no memory is loaded, or a projection is not a plain matrix (quantized, adapted, offloaded). Nothing is
            changed then.
        """
        if self.memory is None:
            raise ConfigError("unwrap(merge=True) folds a memory into the weights, but no memory is loaded.")
        added: list[tuple[Tensor, Tensor]] = []
        for entry in self.memory.entries:
            for path, weights in entry.weights.items():
                module: Any = self.get_submodule(path)
                if type(module) not in (nn.Linear, Conv1D) or module.weight.is_meta:
                    raise ConfigError(
                        f"{path} is a {type(module).__name__}, into which a memory cannot be folded; expected a plain "
                        "matrix in memory. Load the base without quantization, adapters or offloading first."
                    )
                change = weights["b"].float() @ weights["a"].float()
                added.append((module.weight, change.mT if isinstance(module, Conv1D) else change))
        with torch.no_grad():
            for weight, change in added:
                weight += change.to(weight.device, weight.dtype)
        self.reset_memory()

    def memory_batch_of(self, memories: Memory | Sequence[Memory | None] | None, rows: int) -> MemoryBatch | None:
        """The memories of the rows of a call, ready for its forwards.

        Parameters
        ----------
        memories : one for each row, None for none; or one for all rows. Not given: the loaded memory for all.

        Raises
        ------
        InputError
            When their number is not that of the rows.
        """
        if memories is None:
            if self.memory is None:
                return None
            memories = self.memory
        chosen: tuple[Memory | None, ...] = (memories,) * rows if isinstance(memories, Memory) else tuple(memories)
        if len(chosen) != rows:
            raise InputError(
                f"{len(chosen)} memories were given for a batch of {rows} rows. Give each row one, or None; for all "
                "rows the same, give it without a list."
            )
        if all(memory is chosen[0] for memory in chosen):
            chosen = chosen[:1]
        where = self.device, self.dtype
        known = self._memory_batches.find(chosen, where)
        if known is not None:
            if known.batch is None or hooks.is_bound(self, known.batch.hooks):
                return known.batch
            self._memory_batches = BatchCache()  # a module was replaced since
        for memory in {id(m): m for m in chosen if m is not None}.values():
            # One that was loaded stays this model's own, also when the model is trained or dequantized afterwards.
            if any(memory is own for own in self._versions):
                memory.check_fits(self)
            else:
                self.check_memory(memory)
        batch = collate(chosen, *where)
        if batch is not None:
            hooks.bind(self, batch.hooks)
        self._memory_batches.put(chosen, where, batch)
        return batch

    def check_memory(self, memory: Memory) -> None:
        """Raise unless `memory` is one of this base, with a place for each of its weights."""
        if not isinstance(memory, Memory):
            raise InputError(
                f"memories holds a {type(memory).__name__}, expected a Memory or None. A directory is loaded first: "
                "Memory.load(directory)."
            )
        here = fingerprint(self)
        if not same_base(memory.base, here):
            raise CheckpointError(
                f"This memory was made for {memory.base_name!r} (fingerprint {memory.base[:12]}), not for "
                f"{self.name_or_path!r} ({here[:12]}). Load that base, or consolidate the context again with this one."
            )
        memory.check_finite()
        memory.check_fits(self)

    # ------------------------------------------------------------------ consolidating

    @overload
    def consolidate(self, context: Any, *, background: Literal[True], **settings: Any) -> ConsolidationJob: ...

    @overload
    def consolidate(
        self,
        context: Any,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        budget: Budget | float | dict[str, Any] | None = None,
        config: ConsolidationConfig | None = None,
        questions: Sequence[str] | None = None,
        writer: tuple[PreTrainedModel, PreTrainedTokenizerBase] | str | FactWriter | None = None,
        date: datetime.date | str | None = None,
        prompts: str | os.PathLike | Prompts | None = None,
        background: Literal[False] = False,
        on_done: Callable[[Memory], None] | None = None,
        progress: bool | Callable[[Progress], None] = False,
        work_dir: str | os.PathLike | None = None,
        earlier: Memory | str | None = LOADED,
        load: bool = True,
        review: Reviewer | None = None,
        policy: Policy | None = None,
        **changes: Any,
    ) -> Memory: ...

    def consolidate(
        self,
        context: Any,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        budget: Budget | float | dict[str, Any] | None = None,
        config: ConsolidationConfig | None = None,
        questions: Sequence[str] | None = None,
        writer: tuple[PreTrainedModel, PreTrainedTokenizerBase] | str | FactWriter | None = None,
        date: datetime.date | str | None = None,
        prompts: str | os.PathLike | Prompts | None = None,
        background: bool = False,
        on_done: Callable[[Memory], None] | None = None,
        progress: bool | Callable[[Progress], None] = False,
        work_dir: str | os.PathLike | None = None,
        earlier: Memory | str | None = LOADED,
        load: bool = True,
        review: Reviewer | None = None,
        policy: Policy | None = None,
        **changes: Any,
    ) -> Memory | ConsolidationJob:
        """Distil a context into a memory, verify that it is recalled, and make it active if it is.

        The model writes questions about the context and answers them with the context in its prompt. A small memory
        learns to give the same answers without the context (`docs/memories.md`). The base does not change.

        Parameters
        ----------
        context : a text, chat messages, token ids (T,), or a `TTTCache` that kept its text.
        tokenizer : default: the tokenizer of the model's name.
        budget : seconds, or {"seconds": ..., "steps": ..., "tokens": ...}. Steps and tokens count training. The study
            takes at most half of the seconds. Verification comes on top, about 15 seconds on two cores.
        config : the recipe. `changes` are applied to it, such as min_recall=0.9 or keep_text=True.
        questions : what will be asked later, in place of questions that the model writes.
        writer : who writes instead of the model: another (plain model, tokenizer); the URL of a server with OpenAI's
            protocol, with the name of its model behind "#" ("http://host:8000/v1#name"), to which the context is sent;
            or an object with `name` and `complete(prompts, longest, seed)`.
        date : when it was said: a date, or ISO 8601. Messages may carry their own under "date" or "timestamp". Today
            when not given.
        prompts : a file in place of the library's `prompts.toml`.
        background : return a `ConsolidationJob` at once. The model keeps answering with its old memory.
        on_done : called with the memory when the consolidation ends, accepted or not.
        progress : True shows one bar with the stage and its time left; a function is called with every `Progress`.
        work_dir : where work in progress is kept, so that it continues after a cancel or a kill.
        earlier : the memory to add to, or None. Default: the loaded one.
        load : False returns the memory without making it active.
        review : is given the facts that were found, a list of `Fact`, before anything is studied. It returns those to
            keep, changed or not. Of a conversation only.
        policy : what is worth keeping and what never, in words for the writer, which are checked fact by fact; or a
            function that tells of a fact whether it may be kept. Of a conversation only.

        Returns
        -------
        Memory, or a job. `memory.report.accepted` says whether it is now active. If not, the previous memory is still
        active, and the report says why.

        Raises
        ------
        InputError
            For an empty context, a context that another process is working on, a string as `questions`, a `writer` of
            another kind, a `date` that cannot be read, or a `review` or `policy` for a document, which has no facts.
        ConfigError
            For arguments that neither this method nor `ConsolidationConfig` has.
        """
        if isinstance(questions, str):
            raise InputError(f"questions={questions!r} is one string, expected a list of questions: [{questions!r}].")
        _check_recipe(config, changes)
        check_tokenizer(tokenizer)
        recipe = dataclasses.replace(config or ConsolidationConfig(), **changes)
        tokenizer = tokenizer or self._own_tokenizer()
        before, added_to = self.memory, self._earlier(earlier)
        said = parse_context(context, tokenizer, recipe.piece_tokens, date)
        reviewed = Review(policy, review)
        if reviewed != EVERYTHING and not said.has_facts:
            raise InputError("review= and policy= decide on facts, and a document has none. Give chat messages.")
        bar = ProgressBar()
        work = Consolidation(
            model=self,
            tokenizer=tokenizer,
            context=said,
            config=recipe,
            control=Control(Budget.of(budget), bar if progress is True else progress or None, bar.close),
            base=fingerprint(self),
            prompts=prompts if isinstance(prompts, Prompts) else Prompts.load(prompts),
            own_questions=tuple(questions or ()),
            writer=unconverted(writer_of(writer)),
            date=None if date is None else day_of(date, "date"),
            earlier=added_to,
            review=reviewed,
        )
        directory = Path(work_dir) if work_dir is not None else default_directory()

        def accept(memory: Memory) -> Memory:
            return self._accept(memory, before, load)

        if background:
            return ConsolidationJob(work, directory, accept, on_done)
        memory = accept(work.run(directory))
        if on_done is not None:
            on_done(memory)
        return memory

    def _earlier(self, earlier: Memory | str | None) -> Memory | None:
        """The memory to start from, checked."""
        if isinstance(earlier, str) and earlier != LOADED:
            raise InputError(
                f"earlier={earlier!r} is a string, expected a memory, None or {LOADED!r}. Load it first: "
                f"Memory.load({earlier!r})."
            )
        memory = self.memory if isinstance(earlier, str) else earlier
        if memory is not None:
            self.check_memory(memory)
        return memory

    def _accept(self, memory: Memory, before: Memory | None, load: bool) -> Memory:
        """Make a verified memory active, unless another one than that `before` it is active by now."""
        assert memory.report is not None
        if not memory.report.accepted:
            logger.warning("The memory was not accepted: %s", memory.report.reason)
            return memory
        if load and self.memory is not before:
            reason = "another memory was loaded meanwhile; consolidate the context again on top of it."
            return dataclasses.replace(memory, report=dataclasses.replace(memory.report, accepted=False, reason=reason))
        return self.load_memory(memory) if load else memory


def _check_recipe(config: Any, changes: dict[str, Any]) -> None:
    """Raise `ConfigError` for a configuration of another kind, or arguments that neither it nor `consolidate` has."""
    if not isinstance(config, ConsolidationConfig | None):
        raise ConfigError(
            f"config is a {type(config).__name__}, expected a ConsolidationConfig. It holds the others, such as "
            "ConsolidationConfig(memory=MemoryConfig(rank=16))."
        )
    unknown = sorted(set(changes) - set(field_names(ConsolidationConfig)) - REMOVED.keys())
    of_memory = sorted(set(unknown) & set(field_names(MemoryConfig)))
    if of_memory:
        given = ", ".join(f"{name}={changes[name]!r}" for name in of_memory)
        raise ConfigError(
            f"{of_memory} belong to MemoryConfig: consolidate(..., memory=MemoryConfig({given})). "
            "How the model reads is set by wrap() and configure_ttt()."
        )
    if unknown:
        arguments = [*inspect.signature(MemoryMixin.consolidate).parameters, *field_names(ConsolidationConfig)]
        raise ConfigError(
            f"consolidate() takes no {unknown}{did_you_mean(unknown, arguments)}. Beside its own arguments it takes "
            "the fields of ConsolidationConfig."
        )


def unconverted(writer: Any) -> Any:
    """A converted model would carry what it reads from one prompt to the next, so its base writes."""
    if isinstance(writer, tuple) and isinstance(writer[0], MemoryMixin):
        return plain_copy(writer[0]), writer[1]
    return writer
