"""The Python of the documentation runs as it is written, with tiny models under the names of real ones."""

import ast
import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from scripted import HIDDEN, NUMBERED, Scripted
from test_hub import hub  # noqa: F401 -- a fixture
from tiny import tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from words import TEMPLATE

from ttt_retrofit.consolidation import consolidate
from ttt_retrofit.consolidation.facts.checks import WORD, folded
from ttt_retrofit.consolidation.facts.writers import ModelWriter
from ttt_retrofit.consolidation.study import answers, questions, studied

DOCS = Path(__file__).parents[1] / "docs"
NAME = "Qwen/Qwen3-0.6B"  # a directory of the working directory, here
SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the same one
README = "../README.md"
PAGES = ["recipes.md", "index.md", "extending.md", README]
ONE_STORY = {"index.md", README}  # whose blocks go on from each other; elsewhere every section stands alone
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
    (folder / SMALL).parent.mkdir()
    (folder / SMALL).symlink_to(folder / NAME, target_is_directory=True)
    (folder / "book.txt").write_text(" ".join(known[index] for index in drawn))
    return folder


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return stage(tmp_path_factory.mktemp("docs"), " ".join((DOCS / page).read_text() for page in PAGES))


@pytest.fixture
def indulgent(monkeypatch):
    """A random model writes and remembers nothing worth having: a script writes, and any answer is accepted."""

    def written(asked):
        if listed := NUMBERED.findall(asked):
            return "\n".join(f"[{number}] {said}" for number, said in listed)
        return "Which is it?" if HIDDEN in asked else f"{WORD.findall(asked)[-1]} | Which is it?"

    def judged(*_):
        return True, "recall 100% of 2 questions, loss on unrelated text +0.00%."

    monkeypatch.setattr(ModelWriter, "complete", lambda self, *given, **how: Scripted(written).complete(*given, **how))
    monkeypatch.setattr(questions, "shared", lambda *_: 1)
    monkeypatch.setattr(answers, "missing", lambda *_: [])
    monkeypatch.setattr(answers, "holds", lambda *_: True)
    # The script asks for everything in the same words, and by chance a random model tells things apart, or not.
    monkeypatch.setattr(studied, "answered_by_others", lambda *_: {})
    monkeypatch.setattr(answers, "given_by", lambda said, known, source: frozenset(WORD.findall(folded(source))))
    monkeypatch.setattr(consolidate.verify, "acceptance", judged)
    train = consolidate.train

    def briefly(*args):
        *before, config, control, save = args
        return train(*before, dataclasses.replace(config, epochs=0.01, least_steps=2), control, save)

    monkeypatch.setattr(consolidate, "train", briefly)


CASES = [(page, title) for page in PAGES for title in sections(page)]


@pytest.fixture
def surroundings(directory, monkeypatch, tmp_path):
    commit = SimpleNamespace(commit_url="https://huggingface.co/commit")
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda self, **_: commit)
    monkeypatch.chdir(directory)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # work in progress is kept there


def run(block: str, what: str, names: dict) -> None:
    for long, short in SMALLER.items():
        block = block.replace(long, short)
    exec(compile(block, what, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("page, title", [case for case in CASES if case[0] != README])
def test_the_python_of_every_section_runs(page, title, surroundings, indulgent, hub):  # noqa: F811
    names = {"__name__": "docs"}
    for number, block in enumerate(sections(page)[title], start=1):
        run(block, f"{page}, {title}, block {number}", names)


def form(printed: str) -> list[str]:
    """The lines that were printed, whatever their figures are."""
    return [re.sub(r"[-+]?\d[\d,.]*%?|(?<= )-(?!>)", "#", line).rstrip() for line in printed.strip().splitlines()]


def as_stored(printed: str) -> str:
    """A printed report as it was when the README's was stored: without its facts, and without chats."""
    kept = (line for line in printed.splitlines() if not line.startswith(("facts  ", "in a chat  ")))
    return re.sub(r"\d+ of \d+ facts; ", "", "\n".join(kept))


@pytest.mark.slow
def test_the_python_of_the_readme_runs_as_one_story_and_prints_what_is_shown_below_it(surroundings, indulgent, capsys):
    text = (DOCS / README).read_text()
    shown = re.findall(r"```python\n(.*?)```(?:\n```\n(.*?)```)?", text, re.DOTALL)
    assert len(shown) == 3 and sum(bool(output) for _, output in shown) == 2
    names = {"__name__": "docs"}
    for number, (block, output) in enumerate(shown, start=1):
        capsys.readouterr()
        run(block, f"README, block {number}", names)
        if output:
            assert form(as_stored(capsys.readouterr().out)) == form(output)
    report, answer = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert report.startswith("accepted") and answer, "idle() consolidated something, and send() answered"


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (DOCS / README).read_text()
    assert len(text.splitlines()) <= 150
    for target in re.findall(r"\]\((?!https?:)(.*?)\)", text):
        path, _, anchor = target.partition("#")
        found = (DOCS.parent / path).read_bytes()
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.decode(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, target


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


def anchors(page: Path) -> set[str]:
    """What links to a page may name: its headings, as the site and GitHub spell them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize(
    "page",
    [*DOCS.rglob("*.md"), *(DOCS.parent / name for name in ("CONTRIBUTING.md", "README.md", "SECURITY.md"))],
    ids=lambda page: page.relative_to(DOCS.parent).as_posix(),
)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, heading = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not heading or heading in anchors(linked), target
