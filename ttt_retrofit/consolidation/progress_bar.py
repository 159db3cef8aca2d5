"""What `consolidate(progress=True)` shows: one bar from the study to the end, with the stage and the time it takes."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm
from transformers.utils import logging

from .control import Progress

FORMAT = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"  # elapsed: of all stages


class ProgressBar:
    """Drawn from the first report until it is closed; `transformers.utils.logging.disable_progress_bar` hides it."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def __call__(self, now: Progress) -> None:
        if self._bar is None:
            self._bar = logging.tqdm(total=now.total, bar_format=FORMAT)
        if now.stage != self._stage:
            began = self._bar.start_t
            self._bar.reset(total=now.total)
            self._bar.start_t, self._stage = began, now.stage
            self._bar.set_description(now.stage, refresh=False)
        left = "" if now.seconds_left is None else f"{tqdm.format_interval(now.seconds_left)} left"
        self._bar.set_postfix_str(left, refresh=False)
        self._bar.n = now.done
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
