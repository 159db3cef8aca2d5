"""`PendingUsers`: for whom there is work, as files in the store. So the list outlives every process.

A file is named as the user's directory. Its time of modification is when the user is due.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ..util.files import private_directory

PENDING = "pending"  # in the directory of all users


class PendingUsers:
    """The users with something to consolidate or to change. Several processes may use it.

    Whoever adds a user writes what waits under the same lock of the user, and `done` is called under it.

    Parameters
    ----------
    store : the directory of all users.
    """

    def __init__(self, store: Path) -> None:
        self.directory = private_directory(store / PENDING)

    def add(self, name: str, seconds: float) -> None:
        """Make the user of a directory due in so many seconds; at once, where they were due and nobody was `done`."""
        now, before = time.time(), self.stamp(name)
        due = int(1e9 * (now if before is not None and before <= 1e9 * now else now + seconds))
        path = self.directory / name
        path.touch(mode=0o600)
        os.utime(path, ns=(due, due))

    def stamp(self, name: str) -> int | None:
        """Changes whenever the user is added; None where nothing waits."""
        try:
            return (self.directory / name).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def done(self, name: str, stamp: int | None, seconds: float | None = None) -> None:
        """Take a user off the list, or put them off for so many seconds; not one who was added since the stamp."""
        path = self.directory / name
        if stamp is None or self.stamp(name) != stamp:
            return
        if seconds is None:
            path.unlink()
        else:
            later = time.time() + seconds
            os.utime(path, (later, later))

    def due(self) -> list[str]:
        """Names of the users who are due, the longest waiting first."""
        now = time.time()
        with os.scandir(self.directory) as found:
            times = {entry.name: entry.stat().st_mtime for entry in found}
        return sorted((name for name, due in times.items() if due <= now), key=times.__getitem__)
