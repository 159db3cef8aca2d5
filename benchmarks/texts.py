"""Real texts by name, each with its source, licence and split: `python -m benchmarks.texts` lists them.

Defaults are chosen on the tuning texts, whose figures are never reported; figures are reported on the test texts.
They come from Debian packages, a wheel of dialogues, the sources of the running Python (or of that in
`$TTT_RETROFIT_PYTHON_SOURCES`, a standard library: figures were made with 3.11's), and one excerpt from this
repository, so that the demo needs none of them: `data/persuasion.txt` is the first part of Jane Austen's "Persuasion"
(1818, in the public domain), as in the Debian package r-cran-janeaustenr, which has it from Project Gutenberg.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from .rdata import character_vectors
from .storage import FetchError, built_whole, cache_directory, locked, progress, wheel_texts

EXCERPT = Path(__file__).parent / "data" / "persuasion.txt"
NOVELS_PACKAGE, FAQ_PACKAGE, DOCS_PACKAGE = "r-cran-janeaustenr", "anarchism", "python3.11-doc"
NOVELS_FILE = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
FAQ_FILES = tuple(f"usr/share/doc/anarchism/markdown/secA{part}.md.gz" for part in ("int", *"12345"))
TUTORIAL = ("appetite", "interpreter", "introduction", "controlflow", "datastructures", "modules", "inputoutput")
TUTORIAL += ("errors", "classes", "stdlib", "stdlib2", "venv", "whatnow", "interactive", "floatingpoint")
SOURCES_VARIABLE = "TTT_RETROFIT_PYTHON_SOURCES"
HOWTOS = ("argparse", "descriptor", "enum", "functional", "logging-cookbook", "regex", "sockets", "sorting", "unicode")
DOCS = "usr/share/doc/python3.11/html/_sources"
CHITCHAT = "chitchat-dataset==0.9.0"
LONG_DIALOGUES = 200  # of the longest, in two halves


@dataclass(frozen=True)
class Text:
    """A text and where it comes from."""

    load: Callable[[], str]
    source: str
    licence: str
    split: Literal["tuning", "test"]


def text(name: str) -> str:
    """The whole text of that name.

    Raises
    ------
    FetchError
        For an unknown name, or when its Debian package can be neither found nor downloaded.
    """
    if name not in TEXTS:
        raise FetchError(f"No text is named {name!r}. Known texts are {sorted(TEXTS)}.")
    return TEXTS[name].load()


def beginnings(names: Iterable[str], tokenizer: Any, tokens: int) -> dict[str, Any]:
    """(1, `tokens`) token ids of each text.

    Raises
    ------
    SystemExit
        When some are shorter, before any is read.
    """
    ids = {name: tokenizer(text(name), return_tensors="pt").input_ids[:, :tokens] for name in names}
    if short := [name for name, found in ids.items() if found.shape[1] < tokens]:
        raise SystemExit(f"{short} have fewer than {tokens} tokens. Choose other --texts or fewer tokens.")
    return ids


def package_file(package: str, path: str) -> Path:
    """A file of a Debian package: the installed one if there is one, else from a copy unpacked in the cache.

    Raises
    ------
    FetchError
        When apt-get and dpkg-deb are missing or the package cannot be had.
    """
    installed = Path("/", path)
    if installed.is_file():
        return installed
    unpacked = cache_directory() / "packages" / package
    if not unpacked.is_dir():
        with locked(unpacked):
            if not unpacked.is_dir():
                _unpack(package, unpacked)
    if not (unpacked / path).is_file():
        raise FetchError(f"The Debian package {package} holds no {path}; it may be of another version. See {unpacked}.")
    return unpacked / path


def _unpack(package: str, target: Path) -> None:
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise FetchError(
            f"This text is in the Debian package {package}, but {' and '.join(missing)} cannot be found. Run this on "
            f"Debian or Ubuntu, or unpack that package into {target}. 'persuasion-excerpt' needs no package."
        )
    with built_whole(target) as building, progress.status(f"fetching the Debian package {package}"):
        _run(["apt-get", "download", package], package, building)
        (archive,) = building.glob("*.deb")
        _run(["dpkg-deb", "-x", archive.name, "."], package, building)
        archive.unlink()


def _run(command: list[str], package: str, directory: Path) -> None:
    run = subprocess.run(command, capture_output=True, text=True, cwd=directory)
    if run.returncode != 0:
        said = "\n".join(f"  {line}" for line in run.stderr.strip().splitlines()[-4:])
        raise FetchError(
            f"{' '.join(command)} failed (exit code {run.returncode}). It said:\n{said}\nIf apt does not know the "
            f"package, run `apt-get update` first, or install it: `apt-get install {package}`."
        )


@cache
def _novels() -> dict[str, str]:
    """Jane Austen's novels by the first word of their title, in lower case."""
    database = package_file(NOVELS_PACKAGE, NOVELS_FILE).read_bytes()
    return {lines[0].split()[0].lower(): "\n".join(lines) for lines in character_vectors(database)}


def _novel(first_word: str) -> str:
    return _novels()[first_word]


def _faq() -> str:
    parts = (package_file(FAQ_PACKAGE, path) for path in FAQ_FILES)
    return "\n\n".join(gzip.decompress(part.read_bytes()).decode() for part in parts)


def _documentation(section: str, parts: tuple[str, ...]) -> str:
    return "\n\n".join(package_file(DOCS_PACKAGE, f"{DOCS}/{section}/{part}.rst.txt").read_text() for part in parts)


@cache
def chitchat() -> list[list[str]]:
    """The turns of dialogues between two people who write one another."""
    (content,) = wheel_texts(CHITCHAT, lambda name: name.endswith("dataset.json"))
    return [
        [" ".join(message["text"] for message in turn) for turn in dialogue["messages"]]
        for dialogue in json.loads(content).values()
    ]


def _dialogues(half: int) -> str:
    """Every other one of the longest dialogues, the speakers called A and B; a blank line between two of them."""
    longest = sorted(chitchat(), key=lambda turns: -sum(map(len, turns)))[:LONG_DIALOGUES]
    spoken = [[f"{'AB'[number % 2]}: {turn}" for number, turn in enumerate(turns)] for turns in longest[half::2]]
    return "\n\n".join("\n".join(turns) for turns in spoken)


def _excerpt() -> str:
    return EXCERPT.read_text()


def _library() -> Path:
    """Of sources that are read, not imported: turtle would need Tk."""
    return Path(os.environ.get(SOURCES_VARIABLE) or sysconfig.get_path("stdlib"))


def _topics() -> str:
    topics = runpy.run_path(str(_library() / "pydoc_data" / "topics.py"))["topics"]
    return "\n".join(topics[name] for name in sorted(topics))


def _module(name: str) -> str:
    return (_library() / f"{name}.py").read_text()


def _austen(first_word: str, title: str, split: Literal["tuning", "test"]) -> Text:
    source = f'Jane Austen, "{title}", Debian package {NOVELS_PACKAGE}'
    return Text(partial(_novel, first_word), source, "public domain", split)


def _python(module: str, split: Literal["tuning", "test"]) -> Text:
    return Text(partial(_module, module), f"source of {module}, from the running Python", "PSF-2.0", split)


def _manual(section: str, parts: tuple[str, ...], title: str) -> Text:
    return Text(partial(_documentation, section, parts), f"{title}, Debian package {DOCS_PACKAGE}", "PSF-2.0", "test")


TEXTS = {
    "northanger-abbey": _austen("northanger", "Northanger Abbey", "tuning"),
    "mansfield-park": _austen("mansfield", "Mansfield Park", "tuning"),
    "sense-and-sensibility": _austen("sense", "Sense and Sensibility", "tuning"),
    "pydoc-topics": Text(_topics, "pydoc_data.topics, from the running Python", "PSF-2.0", "tuning"),
    "inspect": _python("inspect", "tuning"),
    "persuasion": _austen("persuasion", "Persuasion", "test"),
    "pride-and-prejudice": _austen("pride", "Pride and Prejudice", "test"),
    "emma": _austen("emma", "Emma", "test"),
    "anarchist-faq": Text(_faq, f'"An Anarchist FAQ", section A, Debian package {FAQ_PACKAGE}', "GPL-2.0", "test"),
    "argparse": _python("argparse", "test"),
    "turtle": _python("turtle", "test"),
    "pydecimal": _python("_pydecimal", "test"),
    "python-tutorial": _manual("tutorial", TUTORIAL, "the Python tutorial"),
    "python-howto": _manual("howto", HOWTOS, "Python's HOWTOs"),
    "chitchat": Text(partial(_dialogues, 0), f"dialogues, package {CHITCHAT}", "MIT", "test"),
    "chitchat-2": Text(partial(_dialogues, 1), f"more of them, package {CHITCHAT}", "MIT", "test"),
    "persuasion-excerpt": Text(
        _excerpt, "the first chapters of Persuasion, in this repository", "public domain", "test"
    ),
}
TUNING = [name for name, entry in TEXTS.items() if entry.split == "tuning"]
TEST = [name for name, entry in TEXTS.items() if entry.split == "test"]

CHARACTERS = 12_000 / 2048  # of a piece, for each token of a sequence: enough in the densest text
PIECES = 80  # of each kind


def many(tokens: int) -> list[str]:
    """Beginnings of many texts of three kinds, each long enough for a sequence of so many tokens, for a phase that is
    to learn how to learn a text: Python's modules and pages of its manual, and pieces of the tuning novels. Nothing of
    a test text is among them.
    """
    piece = int(CHARACTERS * tokens)
    tests = {name.lstrip("_") for name in (*TEST, "decimal")}
    library = _library()
    modules = [path for path in (*library.glob("*.py"), *library.glob("*/*.py")) if path.parent.name != "site-packages"]
    manual = package_file(DOCS_PACKAGE, f"{DOCS}/library/abc.rst.txt").parent.glob("*.rst.txt")
    kinds = [
        [path.read_text(errors="replace")[:piece] for path in sorted(paths) if _stem(path) not in tests]
        for paths in (modules, manual)
    ]
    novels = [text(name) for name in TUNING if TEXTS[name].licence == "public domain"]
    kinds.append([novel[start : start + piece] for novel in novels for start in range(0, len(novel) - piece, piece)])
    return [part for kind in kinds for part in _spread([part for part in kind if len(part) == piece])]


def _stem(path: Path) -> str:
    return path.name.split(".")[0].lstrip("_")


def _spread(pieces: list[str]) -> list[str]:
    """`PIECES` of them, at equal distances."""
    return [pieces[index * len(pieces) // PIECES] for index in range(min(PIECES, len(pieces)))]


def main() -> int:
    table = Table("name", "split", "characters", "sha256", "source", "licence", box=None)
    failures = set()
    for name, entry in TEXTS.items():
        try:
            content = entry.load()
        except FetchError as error:
            failures.add(str(error))
            continue
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        table.add_row(name, entry.split, f"{len(content):,}", digest, entry.source, entry.licence)
    Console().print(table)
    for failure in sorted(failures):
        progress.print(f"[red]error:[/red] {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
