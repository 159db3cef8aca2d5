"""The Python of the documentation runs as it is written, with tiny models under the names of real ones."""

import ast
import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from test_hub import hub  # noqa: F401 -- a fixture
from tiny import tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from words import TEMPLATE

from ttt_retrofit.consolidation import consolidate
from ttt_retrofit.consolidation.words import content

DOCS = Path(__file__).parents[1] / "docs"
NAME = "Qwen/Qwen3-0.6B"  # a directory of the working directory, here
PAGES = ["recipes.md", "index.md"]
ONE_STORY = {"index.md"}  # whose blocks go on from each other; elsewhere every section stands alone
# What is too much for a test.
SMALLER = {"max_steps=100": "max_steps=2", "max_new_tokens=60": "max_new_tokens=4"}
SPECIAL = ["<pad>", "<s>", "</s>", "user", "assistant"]


def sections(page: str) -> dict[str, list[str]]:
    """The Python blocks of every section of a page that has some; those of one section share their names."""
    found = {}
    text = (DOCS / page).read_text()
    for part in [text] if page in ONE_STORY else text.split("\n## "):
        blocks = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
        if blocks:
            found[part.partition("\n")[0]] = blocks
    return found


def tokenizer(text: str) -> PreTrainedTokenizerFast:
    """Of whole words, which knows every word of the text."""
    names = [*dict.fromkeys([*SPECIAL, *re.findall(r"\w+|[.?,:]", text)])]
    core = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(pattern=r"[.?,:]", behavior="isolated")]
    )
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE, **special)


def stage(folder: Path, text: str) -> Path:
    """A working directory with a tiny model under a real name that knows the words of a text, and a book of them."""
    words = tokenizer(text)
    # bitsandbytes quantizes blocks of 64 values.
    shape = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": len(words)}
    tiny("qwen3", **shape, max_position_embeddings=8192).save_pretrained(folder / NAME)
    words.save_pretrained(folder / NAME)
    known = [word for word in words.get_vocab() if word.isalpha()]
    drawn = torch.randint(len(known), (4500,), generator=torch.Generator().manual_seed(0)).tolist()
    (folder / "book.txt").write_text(" ".join(known[index] for index in drawn))
    return folder


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return stage(tmp_path_factory.mktemp("docs"), " ".join((DOCS / page).read_text() for page in PAGES))


@pytest.fixture
def indulgent(monkeypatch):
    """A random model remembers nothing worth having: whatever it gives counts as an answer, and is accepted."""

    def value(said, asked, source):
        return content(source)

    def judged(*_):
        return True, "accepted for the test."

    monkeypatch.setattr(consolidate.study, "value", value)
    monkeypatch.setattr(consolidate.study, "made_up", lambda *_: set())
    monkeypatch.setattr(consolidate.verify, "judged", judged)
    train = consolidate.train

    def briefly(*args):
        *before, config, control, save = args
        return train(*before, dataclasses.replace(config, epochs=0.01, least_steps=2), control, save)

    monkeypatch.setattr(consolidate, "train", briefly)


CASES = [(page, title) for page in PAGES for title in sections(page)]


@pytest.mark.parametrize("page, title", CASES)
def test_the_python_of_every_section_runs(page, title, directory, indulgent, hub, monkeypatch, tmp_path):  # noqa: F811
    commit = SimpleNamespace(commit_url="https://huggingface.co/commit")
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda self, **_: commit)
    monkeypatch.chdir(directory)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # work in progress is kept there
    names = {"__name__": "docs"}
    for number, block in enumerate(sections(page)[title], start=1):
        for long, short in SMALLER.items():
            block = block.replace(long, short)
        exec(compile(block, f"{page}, {title}, block {number}", "exec"), names)


def said_by_the_library() -> str:
    """All texts in its source, in one; what is filled in stands as an ellipsis."""
    found = []
    for path in DOCS.parent.glob("ttt_retrofit*/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_every_message_that_is_explained_is_one_of_the_library():
    said, explained = said_by_the_library(), (DOCS / "troubleshooting.md").read_text()
    entries = [line for line in explained.splitlines() if line.startswith("- **") and "transformers)" not in line]
    assert len(entries) > 50
    for line in entries:
        for message in re.findall(r"\*\*`(.*?)`\*\*", line):
            parts = [part.strip() for part in message.split("…") if len(part.strip()) > 5]
            assert parts or message == "Cancelled", message
            assert all(part in said for part in parts), message


def test_every_page_is_in_the_navigation_of_the_site():
    # A strict build fails otherwise, and no test makes one: it takes an environment of its own.
    listed = re.findall(r"^ +- .*: (\S+\.md)$", (DOCS.parent / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted(["contributing.md", "examples.md", *pages])
