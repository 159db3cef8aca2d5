"""The memories of a server's users as adapters, for an engine that serves the same base."""

from __future__ import annotations

import os
from pathlib import Path

from ..chat.directory import STORE
from ..errors import InputError
from ..memory.adapters import delete_exported, exported
from ..memory.store import MemoryStore
from ..util.files import private_directory
from .directories import DIRECTORY_NAME, user_directories


def export_adapters(
    store: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    engine: str | None = "vllm",
    rank: int = 16,
    base_name: str | None = None,
) -> dict[str, Path]:
    """Write the current memory of every user of a server's store as an adapter, see `MemoryStore.export`.

    An adapter is named as the user's directory in the store, a hash of the user's id
    (`ttt_retrofit.serving.directories.directory_name`). Adapters of users who are gone, or of whom nothing is
    remembered, are deleted. The server may be running.

    Parameters
    ----------
    store : what is given to `serve --store`.
    directory : for the adapters: `VLLM_LORA_RESOLVER_CACHE_DIR`.
    engine, rank, base_name : as in `MemoryStore.export`.

    Returns
    -------
    Where each adapter is, by its name.

    Raises
    ------
    InputError
        When there is no store.
    ConfigError
        For a rank below 1, or an adapter that the engine would not load.
    """
    if not Path(store).is_dir():
        raise InputError(f"There is no directory {store}. Expected what was given to `serve --store`.")
    target = private_directory(Path(directory))
    written: dict[str, Path] = {}
    for path in user_directories(Path(store)):
        if (path / STORE).is_dir():
            memories = MemoryStore(path / STORE)
            found = memories.export(target, path.name, engine=engine, rank=rank, base_name=base_name)
            written |= {} if found is None else {path.name: found}
    for name in exported(target):
        if DIRECTORY_NAME.fullmatch(name) and name not in written:
            delete_exported(target, name)
    return written
