"""A checkpoint's weights as they were saved: digests beside files whose format, transformers', has none.

Only weights are covered. A `config.json` is meant to be edited.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import CheckpointError
from ..util.files import parsed, read_regular, write_atomically
from ..util.sealed import digest_of_file

SEAL = "ttt_weights.json"
FORMAT = 1


def write(directory: str | os.PathLike) -> None:
    """Record the digests of all weights in a directory."""
    digests = {path.name: digest_of_file(path) for path in sorted(Path(directory).glob("*.safetensors"))}
    document = {"format": FORMAT, "weights": digests}
    write_atomically(Path(directory, SEAL), json.dumps(document, indent=2).encode())


def check(directory: str | os.PathLike) -> None:
    """Raise `CheckpointError` unless the weights are those that were recorded; nothing where nothing was.

    A directory of an earlier version, or a name on the Hub, has no record.
    """
    path = Path(directory, SEAL)
    if not path.exists():
        return
    remedy = f"Use another copy. If the weights were changed on purpose, delete {path}."
    try:
        document = parsed(read_regular(path))
        digests = document["weights"]
        if document["format"] != FORMAT or not all(isinstance(digest, str) for digest in digests.values()):
            raise ValueError(f"it is not of format {FORMAT}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. {remedy}") from error
    for name, digest in digests.items():
        file = Path(directory, name)
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, though it was saved. {remedy}")
        if digest_of_file(file) != digest:
            raise CheckpointError(f"{file} was altered or cut short: it is not what was saved. {remedy}")
