"""`FactsMixin`: the facts of a model's memory, one by one: deleted, corrected, added."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any, TypedDict, Unpack

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..consolidation.config import Budget, ConsolidationConfig
from ..consolidation.control import Control, Progress
from ..consolidation.facts.turns import day_of
from ..consolidation.forgetting import Forgetting
from ..consolidation.progress_bar import ProgressBar
from ..consolidation.prompts import Prompts
from ..consolidation.study.pieces import added_fact
from ..consolidation.verify.deletion import ForgottenVerification, counted, marked
from ..errors import ConfigError
from ..memory.memory import Memory
from ..memory.report import Report
from ..util.given import check_tokenizer
from ..util.settings import did_you_mean
from .remembering import LOADED, MemoryMixin

logger = logging.get_logger(__name__)


class ForgettingSettings(TypedDict, total=False):
    """What a change of facts takes, as `consolidate` does."""

    tokenizer: PreTrainedTokenizerBase | None
    budget: Budget | float | dict[str, Any] | None
    config: ConsolidationConfig | None
    prompts: str | os.PathLike | Prompts | None
    progress: bool | Callable[[Progress], None]
    earlier: Memory | str | None  # the memory; by default the loaded one


SETTINGS = ForgettingSettings.__annotations__.keys()


class FactsMixin(MemoryMixin):
    """What a memory knows belongs to whoever said it: `memory.facts()` lists it with its ids."""

    def forget_fact(
        self,
        fact: str,
        *others: str,
        load: bool = True,
        **settings: Unpack[ForgettingSettings],
    ) -> Memory:
        """Delete facts: their sentences, what was learned of them, and the keys by which gates open for them.

        Only what depends on them is distilled again. The weights of their entry are trained on, for some steps, to
        decline the questions about them and to answer the others as before. An entry that told nothing else is dropped.
        The memory is then asked for what it must not know, and for the other facts of the entry.

        Parameters
        ----------
        fact, others : ids, as in `memory.facts(None)`.
        load : as of `consolidate`.
        settings : tokenizer, budget, config, prompts, progress, earlier, as of `consolidate`. The memory's own
            `MemoryConfig` holds.

        Returns
        -------
        Memory. `memory.report.accepted` says whether it is now active. If not, the previous memory is still active, and
        the report says why. `report.still_answered` counts questions about the facts that are answered all the same,
        `report.lost` other facts that are not answered any more; these stay as words.

        Raises
        ------
        ConfigError
            When no memory is loaded, no fact has such an id, or its entry was made by an earlier version, which did not
            write what depends on which fact. For a setting of another name.
        """
        work, before = self._forgetting((fact, *others), **settings)
        try:
            made = ForgottenVerification(work).verified(work.distilled())
        except FloatingPointError as error:
            made = _refused(work.memory, f"training diverged ({error}). Try a smaller lr.")
        finally:
            work.control.end()
        return self._accept(made, before, load)

    def correct_fact(
        self,
        fact: str,
        text: str,
        *,
        date: datetime.date | str | None = None,
        load: bool = True,
        **settings: Any,
    ) -> Memory:
        """Put a fact in the place of another one: `forget_fact` and `add_fact`, both or none.

        Of the old fact its id stays, with the status "superseded"; its text and all that it taught go.

        Parameters
        ----------
        fact : its id.
        text : what is right, as a sentence of the user.
        date : since when; today when not given.
        load : as of `consolidate`.
        settings : as of `forget_fact`, the budget for each of the two; and more of `consolidate`, such as writer=.

        Returns
        -------
        Memory, as of `forget_fact`. Its report is that of the new fact, with `still_answered` and `lost`.

        Raises
        ------
        ConfigError
            As `forget_fact`.
        InputError
            When the text says nothing, or the date cannot be read.
        """
        day = datetime.date.today() if date is None else day_of(date, "date")
        added_fact(text, day)  # raises before the work
        shared: Any = {name: settings[name] for name in SETTINGS & settings.keys()}
        work, before = self._forgetting((fact,), text, **shared)
        try:
            left = work.distilled()
        except FloatingPointError as error:
            return self._accept(_refused(work.memory, f"training diverged ({error}). Try a smaller lr."), before, load)
        finally:
            work.control.end()
        with TemporaryDirectory() as directory:  # nothing of the old fact is to be left by a kill
            changed = {"tokenizer": work.tokenizer, "config": work.config, "earlier": left, "work_dir": directory}
            made: Memory = self.consolidate(
                added_fact(text, day, work.asked_before()), load=False, **{**settings, **changed}
            )
        assert made.report is not None
        if not made.report.accepted:
            return self._accept(_refused(work.memory, made.report.reason), before, load)
        verification = ForgottenVerification(work)
        asked = verification.asked(made)
        right, reason = verification.decided(asked)
        report = dataclasses.replace(
            made.report, accepted=right, reason=made.report.reason if right else reason, **counted(work, asked)
        )
        *entries, new = marked(made, asked).entries
        stub = dataclasses.replace(
            work.gone[fact], text="", status="superseded", superseded_by=new.facts[0].id, learned=None
        )
        entries.append(dataclasses.replace(new, facts=(*new.facts, stub)))
        return self._accept(dataclasses.replace(made, entries=tuple(entries), report=report), before, load)

    def add_fact(
        self,
        text: str,
        date: datetime.date | str | None = None,
        *,
        config: ConsolidationConfig | None = None,
        earlier: Memory | str | None = LOADED,
        **settings: Any,
    ) -> Memory:
        """Add a fact that was said in no conversation. It is consolidated by itself, and verified.

        Parameters
        ----------
        text : a sentence of the user, such as "My dog is called Bolt."
        date : since when; today when not given.
        config, earlier, settings : as of `consolidate`. Default: the memory's own `MemoryConfig`.

        Returns
        -------
        Memory, as of `consolidate`. The fact has said_by "user" and provenance "added".

        Raises
        ------
        InputError
            When the text says nothing, or the date cannot be read.
        """
        day = datetime.date.today() if date is None else day_of(date, "date")
        memory = self._earlier(earlier)
        if config is None and memory is not None:
            config = ConsolidationConfig(memory=memory.config)
        made: Any = self.consolidate(added_fact(text, day), config=config, earlier=memory, **settings)
        return made

    def _forgetting(
        self, ids: tuple[str, ...], instead: str = "", **settings: Unpack[ForgettingSettings]
    ) -> tuple[Forgetting, Memory | None]:
        """The work to be done, and the memory that is active before it."""
        unknown = sorted(settings.keys() - SETTINGS)
        if unknown:
            raise ConfigError(f"A change of facts takes no {unknown}{did_you_mean(unknown, [*SETTINGS])}.")
        tokenizer, prompts = settings.get("tokenizer"), settings.get("prompts")
        check_tokenizer(tokenizer)
        memory = self._earlier(settings.get("earlier", LOADED))
        if memory is None:
            raise ConfigError("No memory is loaded, so there is no fact to delete. load_memory() first.")
        bar, progress = ProgressBar(), settings.get("progress")
        shown = bar if progress is True else progress or None
        work = Forgetting(
            model=self,
            tokenizer=tokenizer or self._own_tokenizer(),
            memory=memory,
            ids=ids,
            config=settings.get("config") or ConsolidationConfig(memory=memory.config),
            control=Control(Budget.of(settings.get("budget")), shown, bar.close),
            prompts=prompts if isinstance(prompts, Prompts) else Prompts.load(prompts),
            instead=instead,
        )
        return work, self.memory


def _refused(memory: Memory, reason: str) -> Memory:
    """The memory as it was, with a report that says why."""
    report = Report(False, reason, None, None, 0, None, None, 0.0, 0.0)
    return dataclasses.replace(memory, report=report)
