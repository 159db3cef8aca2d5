"""Files beside models and caches that are not as they were written: turns, questions, memories, work in progress."""

import dataclasses
import hashlib
import json
import os
import random

import pytest
import torch
from converted import converted
from remembered import memory
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from ttt_retrofit import CheckpointError, ConfigError, Memory, TTTConfig
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study.answers import Question
from ttt_retrofit.consolidation.study.statements import Statement
from ttt_retrofit.consolidation.study.studied import Studied
from ttt_retrofit.consolidation.train.distill import begin_training
from ttt_retrofit.consolidation.work_directory import STUDY, TRAINING, WRITTEN, WorkDirectory
from ttt_retrofit.consolidation.writer import Answer
from ttt_retrofit.memory.memory_file import HEADER, HEADER_DIGEST
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.util.files import read_list, write_list
from ttt_retrofit.util.messages import is_message
from ttt_retrofit.util.sealed import read_sealed, write_sealed

TURNS = [{"role": "user", "content": "Où est la clé ?"}, {"role": "assistant", "content": "\x1b here 😀"}]
FLIPS = 60


def flipped(whole: bytes, seed: int):
    """The bytes with one bit of them flipped, again and again."""
    draw = random.Random(seed)
    for _ in range(FLIPS):
        place = draw.randrange(len(whole))
        yield whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :]


def test_no_flipped_bit_of_a_list_goes_unnoticed(tmp_path):
    path = tmp_path / "turns.json"
    write_list(path, "messages", TURNS)
    assert read_list(path, "messages", is_message, "") == TURNS
    for damaged in flipped(path.read_bytes(), 0):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"turns\.json.*Move it"):
            read_list(path, "messages", is_message, "Move it away.")


def test_a_list_without_a_checksum_is_read_and_one_of_other_things_is_not(tmp_path):
    path = tmp_path / "turns.json"
    path.write_text(json.dumps({"format": 1, "messages": TURNS}))
    assert read_list(path, "messages", is_message, "") == TURNS
    for items in (
        "x",
        None,
        {},
        [1],
        [[]],
        [{"role": "user"}],
        [{"role": 1, "content": "x"}],
        [{**TURNS[0], "x": "y"}],
        [{**TURNS[0], "date": "soon"}],
    ):
        path.write_text(json.dumps({"format": 1, "messages": items}))
        with pytest.raises(CheckpointError, match="damaged"):
            read_list(path, "messages", is_message, "")
        write_list(path, "messages", items)
        with pytest.raises(CheckpointError, match="damaged"):
            read_list(path, "messages", is_message, "")
    for text in ("[" * 10**5, "[]", "1", '{"format": 1}', '{"format": true, "messages": []}'):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=r"turns\.json"):
            read_list(path, "messages", is_message, "")


def test_no_flipped_bit_of_a_memory_goes_unnoticed(tmp_path):
    memory(converted(), 1, 2).save(tmp_path)
    for path in (tmp_path / HEADER, next(tmp_path.glob("*.safetensors"))):
        whole = path.read_bytes()
        for damaged in flipped(whole, 1):
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                Memory.load(tmp_path)
        path.write_bytes(whole)
    assert Memory.load(tmp_path).names() == ["entry1", "entry2"]


def reseal(directory, change_header=lambda header: None, change_tensors=lambda tensors: tensors):
    """Edit a memory and write checksums that are right."""
    header = json.loads((directory / HEADER).read_text())
    blob = (directory / header["tensors"]).read_bytes()
    blob = tensors_to_bytes(change_tensors(tensors_from_bytes(blob)))
    header["sha256"] = hashlib.sha256(blob).hexdigest()
    del header[HEADER_DIGEST]
    change_header(header)
    header[HEADER_DIGEST] = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
    (directory / header["tensors"]).write_bytes(blob)
    (directory / HEADER).write_text(json.dumps(header))


VALUES = [None, True, -1, 1.5, 10**30, float("nan"), float("inf"), "x", "", [], [1], [None], {}, {"x": 1}]


@pytest.mark.slow
def test_a_resealed_memory_of_other_values_is_refused(tmp_path):
    made = memory(converted(), 1)
    made.save(tmp_path / "whole")
    header = json.loads((tmp_path / "whole" / HEADER).read_text())
    entry = header["entries"][0]
    fields = [(("entries", 0, name), entry[name]) for name in entry]
    fields += [((name,), header[name]) for name in header if name not in (HEADER_DIGEST, "sha256", "tensors")]
    texts, times = {"base", "base_name", "layer", "name"}, {"created"}
    for path, before in fields:
        for value in VALUES:
            name = path[-1]
            plausible = (
                (name in texts and isinstance(value, str))
                or (name in times and value in (-1, 1.5, 10**30))
                or (name in ("closed", "opened") and isinstance(value, float | int))
                or (name in ("sources", "learned_from", "entries", "lessons", "facts") and value == [])
                or (name == "opener" and value in ([], [1]))
                or (name in ("report", "config") and value in (None, {}))
            )
            if value == before or plausible:
                continue

            def change(header, path=path, value=value):
                for key in path[:-1]:
                    header = header[key]
                header[path[-1]] = value

            made.save(tmp_path / "edited")
            reseal(tmp_path / "edited", change)
            with pytest.raises(CheckpointError):
                Memory.load(tmp_path / "edited")


EDITS = {
    "not finite": lambda tensor: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else -tensor - 1,
    "flat": lambda tensor: tensor.flatten()[1:],
    "no rows": lambda tensor: tensor[:0],
    "another kind": lambda tensor: tensor.long() if tensor.is_floating_point() else tensor.double(),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_resealed_memory_of_other_tensors_is_refused(tmp_path, edit):
    made = memory(converted(), 1)
    made.save(tmp_path)
    names = list(tensors_from_bytes(next(tmp_path.glob("*.safetensors")).read_bytes()))
    for name in names:
        made.save(tmp_path)
        reseal(
            tmp_path,
            change_tensors=lambda tensors, name=name: tensors | {name: EDITS[edit](tensors[name]).contiguous()},
        )
        with pytest.raises(CheckpointError):
            Memory.load(tmp_path)


def answers() -> list[Answer]:
    return [Answer((5, 6), torch.ones(2, 3, dtype=torch.int32), torch.zeros(2, 3).half()) for _ in range(2)]


def state():
    return begin_training({"model.layers.1.mlp.down_proj": {"a": torch.ones(2, 3, requires_grad=True)}})


TEXTS = ["[1] Marek is old.", "Où ? 😀"]
TOLD = Statement("Marek is old.", "User", (("Assistant", "who is old ?"),), message=1, said_at="2026-03-09")
STUDIED = Studied(
    (TOLD, Statement("Marek is young.", "User", message=2)),
    tuple(
        Question("who ?", frozenset({"marek"}), answer, number, bool(number)) for number, answer in enumerate(answers())
    ),
    {0: 1},
    3,
)


def written(directory) -> WorkDirectory:
    work = WorkDirectory(directory, vocabulary=9)
    work.save_study(STUDIED)
    work.save_texts("y", TEXTS)
    work.save_answers("x", answers())
    trained = state()
    for leaf in trained.leaves["model.layers.1.mlp.down_proj"].values():
        leaf.sum().backward()
    trained.optimizer.step()
    trained.step = 7
    work.save_training(trained)
    return work


def loaded(work: WorkDirectory) -> list:
    fresh = state()
    work.load_training(fresh)
    return [work.load_study(), work.load_answers("x"), fresh.step or None]


def test_answers_that_keep_more_and_fewer_tokens_are_written_together(tmp_path):
    sure, unsure = Answer.certain([1, 2]), answers()[0]
    asked = [Question("who ?", frozenset({"marek"}), answer, 0) for answer in (sure, unsure)]
    work = WorkDirectory(tmp_path, vocabulary=9)
    work.save_study(dataclasses.replace(STUDIED, questions=tuple(asked)))
    loaded = [question.answer for question in work.load_study().questions]
    assert [answer.ids for answer in loaded] == [sure.ids, unsure.ids]
    assert torch.equal(loaded[0].indices[:, :1], sure.indices) and (loaded[0].logprobs[:, 1:] == -torch.inf).all()


def test_a_study_comes_back_as_it_was(tmp_path):
    work = written(tmp_path)
    found = work.load_study()
    assert (found.statements, found.outdated, found.dropped) == (STUDIED.statements, {0: 1}, 3)
    for one, other in zip(found.questions, STUDIED.questions, strict=True):
        assert (one.text, one.value, one.statement, one.held_out) == (
            other.text,
            other.value,
            other.statement,
            other.held_out,
        )
        assert one.answer.ids == other.answer.ids and torch.equal(one.answer.indices, other.answer.indices)
    assert work.load_texts("y") == TEXTS and work.load_texts("z") is None


def test_no_flipped_bit_of_texts_goes_unnoticed(tmp_path):
    work, path = written(tmp_path), tmp_path / WRITTEN.format("y")
    for damaged in flipped(path.read_bytes(), 3):
        path.write_bytes(damaged)
        assert work.load_texts("y") is None, "asked again"
    for header in (None, 1, "x", {}, [1], [["x"]], ["x", None]):
        write_sealed(path, {}, {"header": json.dumps(header)})
        assert work.load_texts("y") is None


STUDY_EDITS = [
    lambda asked, statements, outdated, *dropped: [asked, statements, outdated],
    lambda asked, statements, outdated, *dropped: [asked, statements[:1], [], *dropped],  # a question about none
    lambda asked, statements, outdated, *dropped: [asked, statements, [[0, 2]], *dropped],
    lambda asked, statements, outdated, *dropped: [asked, statements, [[0]], *dropped],
    lambda asked, statements, outdated, *dropped: [asked, statements, {"0": 1}, *dropped],
    lambda asked, statements, outdated, *dropped: [asked, statements, outdated, -1, 0],
    lambda asked, statements, outdated, *dropped: [asked, [s[:5] for s in statements], outdated, *dropped],
    lambda asked, statements, outdated, *dropped: [
        asked,
        [[*s[:2], [["x"]], *s[3:]] for s in statements],
        outdated,
        *dropped,
    ],
    lambda asked, statements, outdated, *dropped: [asked, [[*s[:5], 7] for s in statements], outdated, *dropped],
    lambda asked, statements, outdated, *dropped: [[q[:4] for q in asked], statements, outdated, *dropped],
    lambda asked, statements, outdated, *dropped: [[[*q[:4], 1] for q in asked], statements, outdated, *dropped],
    lambda asked, statements, outdated, *dropped: [
        [[q[0], [1], *q[2:]] for q in asked],
        statements,
        outdated,
        *dropped,
    ],
    lambda asked, statements, outdated, *dropped: [asked[:1], statements, outdated, *dropped],
]


@pytest.mark.parametrize("edit", STUDY_EDITS)
def test_a_resealed_study_of_other_values_is_done_again(tmp_path, edit):
    work, path = written(tmp_path), tmp_path / STUDY
    tensors, texts = read_sealed(path)
    write_sealed(path, tensors, {"header": json.dumps(edit(*json.loads(texts["header"])))})
    assert work.load_study() is None


def test_no_flipped_bit_of_work_in_progress_goes_unnoticed(tmp_path):
    work = written(tmp_path)
    assert None not in loaded(work)
    for index, name in enumerate((STUDY, WRITTEN.format("x"), TRAINING)):
        whole = (tmp_path / name).read_bytes()
        for damaged in flipped(whole, index):
            (tmp_path / name).write_bytes(damaged)
            assert loaded(work)[index] is None, "done again"
        (tmp_path / name).write_bytes(whole)
    assert None not in loaded(work)


def test_resealed_work_of_other_things_is_done_again(tmp_path):
    work = written(tmp_path)
    for index, name in enumerate((STUDY, WRITTEN.format("x"), TRAINING)):
        tensors, texts = read_sealed(tmp_path / name)
        headers = [
            None,
            1,
            "x",
            [],
            [1],
            [[1], [2]],
            {},
            [-1, 5],
            [10**12, 1],
            {"step": -1, "known": 0},
            {"step": None},
        ]
        for header in headers:
            write_sealed(tmp_path / name, tensors, {"header": json.dumps(header)})
            assert loaded(work)[index] is None
        for key, tensor in tensors.items():
            for edited in (
                tensor + 1000 if key in ("ids", "indices") else tensor * float("nan"),
                tensor[None],
                tensor.double(),
            ):
                write_sealed(tmp_path / name, tensors | {key: edited}, texts)
                assert loaded(work)[index] is None
        write_sealed(tmp_path / name, tensors, texts)
    assert None not in loaded(work)


def test_no_flipped_bit_of_a_stores_pointer_goes_unnoticed(tmp_path):
    store, model = MemoryStore(tmp_path), converted()
    for seed in (1, 2, 3):
        store.save(memory(model, seed))
    path = tmp_path / "current.json"
    for damaged in flipped(path.read_bytes(), 0):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"current\.json.*Write"):
            store.load()
    for text in ('{"version": 2}', '{"version": 2, "before": [1]}'):  # by hand, and without a checksum
        path.write_text(text)
        assert store.load().names() == ["entry2"]
    for text in ("[" * 10**5, "[]", "2", '{"version": "2"}', '{"version": 2.0}', '{"version": true}', '{"version": -1}',
                 '{"version": 2, "before": 1}', '{"version": 2, "before": [null]}'):  # fmt: skip
        path.write_text(text)
        with pytest.raises(CheckpointError, match=r"current\.json"):
            store.load()


def test_directories_that_are_no_versions_are_passed_by(tmp_path):
    store, made = MemoryStore(tmp_path), memory(converted(), 1)
    store.save(made)
    for name in ("²", "٣", "1", "000002x", "-00001"):
        made.save(tmp_path / "versions" / name)
    assert store.versions() == [1] and store.save(made) == 2


def test_pipes_are_read_by_no_loader(tmp_path):
    memory(converted(), 1).save(tmp_path / "memory")
    converted().save_pretrained(tmp_path / "model")
    memory(converted(), 1, gated=False).to_lora(tmp_path / "adapter")
    loaders = {
        tmp_path / "memory" / HEADER: lambda: Memory.load(tmp_path / "memory"),
        next((tmp_path / "memory").glob("*.safetensors")): lambda: Memory.load(tmp_path / "memory"),
        tmp_path / "adapter" / "adapter_config.json": lambda: Memory.from_lora(tmp_path / "adapter", converted()),
        tmp_path / "adapter" / "adapter_model.safetensors": lambda: Memory.from_lora(tmp_path / "adapter", converted()),
        tmp_path / "turns.json": lambda: read_list(tmp_path / "turns.json", "messages", is_message, ""),
        tmp_path / "prompts.toml": lambda: Prompts.load(tmp_path / "prompts.toml"),
        tmp_path / "model" / "config.json": lambda: type(converted()).from_pretrained(tmp_path / "model"),
    }
    for path, load in loaders.items():
        before = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        with pytest.raises((CheckpointError, ConfigError), match="expected a regular file"):
            load()
        path.unlink()
        if before is not None:
            path.write_bytes(before)


def test_sizes_that_no_memory_has_room_for_are_refused():
    for changes in ({"chunk_size": 10**9, "sliding_window": None}, {"sliding_window": 10**9}, {"rank": 10**9}):
        with pytest.raises(ConfigError, match="at most"):
            TTTConfig(**changes)


def test_nobody_else_may_read_an_adapter(tmp_path):
    memory(converted(), 1, gated=False).to_lora(tmp_path / "adapters" / "one")
    made = [tmp_path / "adapters", *(tmp_path / "adapters").rglob("*")]
    assert len(made) == 4 and all(path.stat().st_mode & 0o077 == 0 for path in made)
