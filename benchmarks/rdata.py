"""Reads the character vectors in an R package's lazy-load database (`data/Rdata.rdb`), which needs no R.

The file is a sequence of zlib streams, each preceded by its uncompressed length in 4 bytes. A stream is one object in
R's XDR serialisation: a header, then for a character vector its length and its strings (R Internals, section 1.8).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

XDR, STRING_VECTOR, STRING = b"X\n", 16, 9
MISSING = -1  # the length by which NA is written


def character_vectors(database: bytes) -> Iterator[list[str]]:
    """Every object of a database that is a character vector; NA becomes an empty string.

    Raises
    ------
    ValueError
        When the bytes are not such a database.
    """
    start = 0
    while start < len(database):
        stream = zlib.decompressobj()
        try:
            serialised = stream.decompress(database[start + 4 :])
        except zlib.error as error:
            raise ValueError(f"Expected a zlib stream at byte {start + 4} of an R database, found none.") from error
        start = len(database) - len(stream.unused_data)
        if (strings := _strings(serialised)) is not None:
            yield strings


def _strings(serialised: bytes) -> list[str] | None:
    """The strings of a serialised character vector, or None for an object of another type."""
    if not serialised.startswith(XDR):
        raise ValueError(f"Expected R's XDR serialisation, found a stream that starts with {serialised[:2]!r}.")
    (version,) = struct.unpack_from(">I", serialised, 2)
    at = 14  # format (2 bytes), version, R that wrote it, oldest R that can read it
    if version >= 3:
        (length,) = struct.unpack_from(">I", serialised, at)  # name of the native encoding
        at += 4 + length
    flags, count = struct.unpack_from(">II", serialised, at)
    if flags & 0xFF != STRING_VECTOR:
        return None
    at += 8
    strings = []
    for _ in range(count):
        flags, length = struct.unpack_from(">Ii", serialised, at)
        if flags & 0xFF != STRING:
            raise ValueError(f"Expected a string at byte {at} of an R object, found type {flags & 0xFF}.")
        at += 8
        strings.append("" if length == MISSING else serialised[at : at + length].decode())
        at += max(length, 0)
    return strings
