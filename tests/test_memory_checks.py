"""What is refused before it can speak: edited headers, weights of other widths, banks half of which have gates."""

import json

import pytest
from converted import converted
from remembered import memory

from ttt_retrofit import CheckpointError, Memory
from ttt_retrofit.memory.memory import HEADER, HEADER_DIGEST


def edit(directory, change, keep_digest: bool = True) -> None:
    """Change what a header says, as by hand."""
    header = json.loads((directory / HEADER).read_text())
    change(header)
    if not keep_digest:
        del header[HEADER_DIGEST]
    (directory / HEADER).write_text(json.dumps(header))


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["entries"][0].update(closed=-1.0),
        lambda header: header["entries"].pop(),
        lambda header: header["config"].update(gated=False),
        lambda header: header.update(layer="model.layers.0"),
        lambda header: header.update(base="0" * 64),
        lambda header: header["entries"][0]["sources"][0].update(text="something else"),
    ],
)
def test_an_edited_header_is_refused(tmp_path, change):
    memory(converted(), 1, 2).save(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(CheckpointError, match=f"altered or cut short: the sha256 of {HEADER}"):
        Memory.load(tmp_path)


def test_a_header_may_be_laid_out_anew_and_one_without_a_checksum_still_loads(tmp_path):
    made = memory(converted(), 1)
    made.save(tmp_path)
    for keep_digest in (True, False):
        edit(tmp_path, lambda header: header.update(sorted(header.items())), keep_digest)
        assert Memory.load(tmp_path).names() == made.names()


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.update(report="good"),
        lambda header: header.update(config={"rank": 0}),
        lambda header: header.update(tensors=""),
        lambda header: header["entries"][0].update(lessons=[["fact", 3]]),
        lambda header: header["entries"][0].update(lessons=[["fact", 3, 10**6, 2, False]]),
    ],
)
def test_a_header_of_another_shape_is_no_memory(tmp_path, change):
    memory(converted(), 1).save(tmp_path)
    edit(tmp_path, change, keep_digest=False)
    with pytest.raises(CheckpointError, match="cannot be read as a memory"):
        Memory.load(tmp_path)


def test_a_file_is_no_memory(tmp_path):
    (tmp_path / "memory.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="memory.json is missing"):
        Memory.load(tmp_path / "memory.safetensors")
