"""`FactsMixin`: the facts of a model's memory, one by one: deleted, corrected, added."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

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
from .remembering import LOADED, MemoryMixin

logger = logging.get_logger(__name__)


class FactsMixin(MemoryMixin):
    """What a memory knows belongs to whoever said it: `memory.facts()` lists it with its ids."""

    def forget_fact(
        self,
        fact: str,
        *others: str,
        tokenizer: PreTrainedTokenizerBase | None = None,
        budget: Budget | float | dict[str, Any] | None = None,
        config: ConsolidationConfig | None = None,
        prompts: str | os.PathLike | Prompts | None = None,
        progress: bool | Callable[[Progress], None] = False,
        earlier: Memory | str | None = LOADED,
        load: bool = True,
    ) -> Memory:
        """Delete facts: their sentences, what was learned of them, and the keys by which gates open for them.

        Only what depends on them is distilled again. The weights of their entry are trained on, for some steps, to
        decline the questions about them and to answer the others as before. An entry that told nothing else is dropped.
        The memory is then asked for what it must not know, and for the other facts of the entry.

        Parameters
        ----------
        fact, others : ids, as in `memory.facts(None)`.
        tokenizer, budget, config, prompts, progress, load : as of `consolidate`. The memory's own `MemoryConfig` holds.
        earlier : the memory. Default: the loaded one.

        Returns
        -------
        Memory. `memory.report.accepted` says whether it is now active. If not, the previous memory is still active, and
        the report says why. `report.still_answered` counts questions about the facts that are answered all the same,
        `report.lost` other facts that are not answered any more; these stay as words.

        Raises
        ------
        ConfigError
            When no memory is loaded, no fact has such an id, or its entry was made by an earlier version, which did not
            write what depends on which fact.
        """
        work, before = self._forgetting((fact, *others), earlier, tokenizer, budget, config, prompts, progress)
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
        tokenizer: PreTrainedTokenizerBase | None = None,
        budget: Budget | float | dict[str, Any] | None = None,
        config: ConsolidationConfig | None = None,
        prompts: str | os.PathLike | Prompts | None = None,
        progress: bool | Callable[[Progress], None] = False,
        earlier: Memory | str | None = LOADED,
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
        budget : of each of the two.
        settings : more of `consolidate`, such as writer=.

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
        work, before = self._forgetting((fact,), earlier, tokenizer, budget, config, prompts, progress, text)
        try:
            left = work.distilled()
        except FloatingPointError as error:
            return self._accept(_refused(work.memory, f"training diverged ({error}). Try a smaller lr."), before, load)
        finally:
            work.control.end()
        with TemporaryDirectory() as directory:  # nothing of the old fact is to be left by a kill
            made = self.consolidate(
                added_fact(text, day, work.asked_before()), tokenizer=work.tokenizer, budget=budget,
                config=work.config, prompts=prompts, progress=progress, earlier=left, load=False, work_dir=directory,
                **settings,
            )  # fmt: skip
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
        self,
        ids: tuple[str, ...],
        earlier: Memory | str | None,
        tokenizer: PreTrainedTokenizerBase | None,
        budget: Budget | float | dict[str, Any] | None,
        config: ConsolidationConfig | None,
        prompts: str | os.PathLike | Prompts | None,
        progress: bool | Callable[[Progress], None],
        instead: str = "",
    ) -> tuple[Forgetting, Memory | None]:
        """The work to be done, and the memory that is active before it."""
        check_tokenizer(tokenizer)
        memory = self._earlier(earlier)
        if memory is None:
            raise ConfigError("No memory is loaded, so there is no fact to delete. load_memory() first.")
        bar = ProgressBar()
        work = Forgetting(
            model=self,
            tokenizer=tokenizer or self._own_tokenizer(),
            memory=memory,
            ids=ids,
            config=config or ConsolidationConfig(memory=memory.config),
            control=Control(Budget.of(budget), bar if progress is True else progress or None, bar.close),
            prompts=prompts if isinstance(prompts, Prompts) else Prompts.load(prompts),
            instead=instead,
        )
        return work, self.memory


def _refused(memory: Memory, reason: str) -> Memory:
    """The memory as it was, with a report that says why."""
    report = Report(False, reason, None, None, 0, None, None, 0.0, 0.0)
    return dataclasses.replace(memory, report=report)
