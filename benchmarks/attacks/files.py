"""Files that are damaged, and files whose checksums are right and whose content is not."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .damage import DAMAGES, Nothing
from .reseal import resealed
from .stored import Stored
from .verdict import Verdict, apart, judged

RESEALED = "bad values, resealed"
ATTACKS = [*DAMAGES, RESEALED]


@contextmanager
def copied(whole: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(shutil.copytree(whole, Path(directory, "attacked"), symlinks=True))


def attack(stored: Stored, whole: Path, expected: Any, how: str, draw: random.Random) -> Verdict | None:
    """Damage one file of what is stored, and use it. None where the damage does not fit the file."""
    if how == RESEALED and not stored.resealed:
        return None
    with copied(whole) as place:
        file = draw.choice(sorted({path for pattern in stored.files for path in place.glob(pattern)}))

        def use() -> Any:
            with copied(place) as fresh:  # using a store changes it
                return stored.use(fresh)

        try:
            said = resealed(file, use, draw) if how == RESEALED else DAMAGES[how](file, draw)
        except Nothing:
            return None
        verdict = judged(apart(lambda: stored.use(place)), [expected], [file.name, place.name])
        return replace(verdict, why=f"{verdict.why} ({file.name}, {said})")
