"""What can happen to one file. It knows nothing of what the file is for.

Each damage is given the file and a source of random numbers, and says in words what it did. `Nothing` is raised where
it would change nothing.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path, random.Random], str]


class Nothing(Exception):
    """The damage does not fit this file."""


def flipped_bit(file: Path, draw: random.Random) -> str:
    data = bytearray(file.read_bytes())
    if not data:
        raise Nothing
    place = draw.randrange(len(data))
    data[place] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    return f"in byte {place} of {len(data)}"


def truncated(file: Path, draw: random.Random) -> str:
    data = file.read_bytes()
    if not data:
        raise Nothing
    kept = draw.choice([0, 1, len(data) // 2, len(data) - 1, draw.randrange(len(data))])
    file.write_bytes(data[:kept])
    return f"{kept} of {len(data)} bytes"


def other_bytes(file: Path, draw: random.Random) -> str:
    data = file.read_bytes()
    start = draw.randrange(len(data) + 1)
    end = min(len(data), start + draw.choice([1, 8, 4096]))
    piece = draw.choice([bytes(end - start), draw.randbytes(end - start), draw.randbytes(64), b""])
    if data[start:end] == piece:
        raise Nothing
    file.write_bytes(data[:start] + piece + data[end:])
    return f"{len(piece)} for bytes {start} to {end} of {len(data)}"


def special_file(file: Path, draw: random.Random) -> str:
    """A pipe that nobody writes to, a device without an end, a directory, or a link that leads nowhere."""
    kind = draw.choice(["pipe", "device", "directory", "dangling link", "link to itself"])
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "directory":
        file.mkdir()
    else:
        targets = {"device": "/dev/zero", "dangling link": "nowhere", "link to itself": file.name}
        file.symlink_to(targets[kind])
    return kind


def odd_json(file: Path, draw: random.Random) -> str:
    """JSON of another form than anybody wrote: nested deeply, of huge numbers, of another type."""
    if file.suffix != ".json":
        raise Nothing
    deep = draw.choice([200, 5_000, 100_000])
    whole: list[str] = ["null", "[]", "{}", "1", '"x"', "[" * deep + "]" * deep, '{"a":' * deep + "1" + "}" * deep]
    content = json.loads(file.read_text())
    if isinstance(content, dict) and content:
        key = draw.choice([*content])
        for value in (float("nan"), 10**400, "\ud800", [[[[]]]]):
            whole.append(json.dumps(content | {key: value}))
        whole.append(file.read_text().rstrip()[:-1] + f', "{key}": {json.dumps(content[key])}, "{key}": []}}')
    chosen = draw.choice(whole)
    file.write_text(chosen)
    return chosen[:30]


DAMAGES: dict[str, Damage] = {
    "a flipped bit": flipped_bit,
    "cut short": truncated,
    "other bytes": other_bytes,
    "pipes, links, devices": special_file,
    "odd JSON": odd_json,
}

# Of another type, or outside any bounds. Nothing of it is a value that a file of its kind could hold.
BAD: dict[type, list[Any]] = {
    bool: [None, "no", [], 2],
    int: [-1, -(10**9), 10**30, "1", None, [], {}, 0.5, float("nan")],
    float: [float("nan"), float("inf"), "1.0", None, [], {}],
    str: [None, 1, [], {}, True],
    list: [None, 1, "x", {}, [None], [[]]],
    dict: [None, 1, "x", []],
    type(None): [1, "x", [], {}],
}


def bad_value(content: Any, draw: random.Random) -> str:
    """Put into JSON one value, anywhere in it, of another type or outside its bounds; which, in words."""
    places = [*_places(content)]
    if not places:
        raise Nothing
    holder, key = draw.choice(places)
    before, holder[key] = holder[key], draw.choice(BAD[type(holder[key])])
    return f"{key}: {holder[key]!r} for {str(before)[:30]!r}"


def _places(content: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    for key in content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ():
        found += [(content, key), *_places(content[key])]
    return found
