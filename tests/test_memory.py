"""Memories in use: what they add, to which rows, and that nothing else changes."""

import dataclasses

import pytest
import torch
from converted import converted, logits
from remembered import memory
from tiny import tokens

from ttt_retrofit import CheckpointError, ConfigError, InputError, Memory

FAMILIES = ["llama", "gpt2", "gemma3_text", "phi3", "qwen3_moe"]


def places(family: str) -> dict:
    return {"layers": (0, 3)} if family == "qwen3_moe" else {}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_memory_speaks_and_a_reset_one_leaves_the_model_exactly_as_it_was(family):
    model, ids = converted(family), tokens(2, 40)
    before = logits(model, ids)
    model.load_memory(memory(model, 1, target_modules=("down", "attention"), **places(family)))
    assert (logits(model, ids) - before).abs().max() > 1e-2
    model.reset_memory()
    assert torch.equal(logits(model, ids), before)


def test_the_result_does_not_depend_on_how_tokens_are_split_into_calls():
    model, ids = converted(), tokens(2, 40)
    model.load_memory(memory(model, 1, 2))
    whole, parts, cache = logits(model, ids), [], None
    with torch.no_grad():
        for start in range(0, 40, 7):
            output = model(input_ids=ids[:, start : start + 7], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            parts.append(output.logits)
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-4)


def test_every_row_has_its_own_memory_and_none_leaks_into_another():
    model, ids = converted(), tokens(3, 40)
    first, second = memory(model, 1, 2), memory(model, 3)
    without = logits(model, ids)
    with torch.no_grad():
        together = model(input_ids=ids, memories=[first, None, second]).logits
        alone = [
            model(input_ids=ids[row : row + 1], memories=[m]).logits for row, m in enumerate([first, None, second])
        ]
    for row in range(3):
        assert torch.allclose(together[row], alone[row][0], atol=1e-5)
    assert torch.equal(together[1], without[1]) or torch.allclose(together[1], without[1], atol=1e-6)
    assert (together[0] - without[0]).abs().max() > 1e-2


def test_a_shut_gate_leaves_every_bit_as_it_was():
    model, ids = converted(), tokens(2, 40)
    before = logits(model, ids)
    shut = memory(model, 1)
    gate = shut.entries[0].gate
    shut = _with_gate(shut, type(gate)(gate.keys, 0.99, 1.0))
    model.load_memory(shut)
    assert torch.equal(logits(model, ids), before)


def test_padding_changes_nothing():
    model, ids = converted(), tokens(2, 40)
    model.load_memory(memory(model, 1))
    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), ids], dim=1)
    mask = torch.cat([torch.zeros(2, 5), torch.ones(2, 40)], dim=1).long()
    with torch.no_grad():
        assert torch.allclose(model(input_ids=padded, attention_mask=mask).logits[:, 5:], logits(model, ids), atol=1e-5)


@pytest.mark.slow
def test_generate_gives_each_row_what_it_gets_alone_beams_included():
    model, ids = converted(), tokens(2, 20)
    memories = [memory(model, 1), memory(model, 2)]
    for beams in (1, 3):
        settings = {"max_new_tokens": 12, "do_sample": False, "num_beams": beams}
        together = model.generate(ids, memories=memories, **settings)
        for row in range(2):
            assert torch.equal(
                together[row], model.generate(ids[row : row + 1], memories=[memories[row]], **settings)[0]
            )


def test_reading_and_memory_add_up():
    model, ids = converted(learn_from="all"), tokens(1, 64)
    learned = model.read(ids)
    model.load_memory(memory(model, 1))
    both = model.read(ids)
    assert not torch.allclose(learned.loss_by_chunk, both.loss_by_chunk)
    assert both.fast.steps.tolist() == [8]


def test_a_conversation_saved_with_a_memory_goes_on_bit_for_bit(tmp_path):
    model, ids = converted(), tokens(1, 50)
    model.load_memory(memory(model, 1))
    cache = model.read(ids[:, :37])
    cache.save(tmp_path / "cache.safetensors")
    loaded = type(cache).load(tmp_path / "cache.safetensors", model)
    with torch.no_grad():
        expected = model(input_ids=ids[:, 37:], past_key_values=cache).logits
        assert torch.equal(model(input_ids=ids[:, 37:], past_key_values=loaded).logits, expected)


def test_versions_roll_back():
    model = converted()
    first, second = memory(model, 1), memory(model, 1, 2)
    model.load_memory(first)
    model.load_memory(second)
    assert model.memory_versions() == [first, second]
    assert model.rollback_memory() is first
    assert model.rollback_memory() is None
    with pytest.raises(ConfigError, match="no memory is loaded"):
        model.rollback_memory()


def test_forgetting_an_entry_takes_back_what_it_said():
    model, ids = converted(), tokens(1, 30)
    model.load_memory(memory(model, 1))
    with_first = logits(model, ids)
    model.load_memory(memory(model, 1, 2))
    model.forget_memory("entry2")
    assert torch.equal(logits(model, ids), with_first)


def test_what_was_learned_from_each_other_is_forgotten_together():
    model = converted()
    made = memory(model, 1, 2, 3)
    one, two, three = made.entries
    one, two = (dataclasses.replace(e, learned_from=(other.name,)) for e, other in ((one, two), (two, one)))
    made = dataclasses.replace(made, entries=(one, two, three))
    for name in ("entry1", "entry2"):
        with pytest.raises(ConfigError, match=r"forget\('entry\d', 'entry\d'\)"):
            made.forget(name)
    assert made.forget("entry1", "entry2").names() == ["entry3"]
    both = Memory.combine([made, made])
    assert [e.learned_from for e in both.entries[3:5]] == [("entry2-2",), ("entry1-2",)]
    with pytest.raises(ConfigError, match="No entry is named 'entry9'"):
        made.forget("entry1", "entry9")


def test_a_memory_of_another_base_is_refused_and_the_one_before_stays():
    model, other = converted(), converted("qwen2")
    kept = memory(model, 1)
    model.load_memory(kept)
    with pytest.raises(CheckpointError, match="made for"):
        model.load_memory(memory(other, 1))
    with pytest.raises(CheckpointError, match="made for"):
        model(input_ids=tokens(1, 8), memories=[memory(other, 1)])
    assert model.memory is kept


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_a_wrong_number_of_memories_is_refused(number):
    model = converted()
    given = [memory(model, 1), *[None] * (number - 1)]
    with pytest.raises(InputError, match=f"{number} memories were given for a batch of 4 rows"):
        model(input_ids=tokens(4, 8), memories=given)
    with pytest.raises(InputError, match=f"{2 * number} memories were given for a batch of 8 rows"):
        model.generate(tokens(4, 8), memories=given, num_beams=2, max_new_tokens=2)


def test_one_memory_without_a_list_speaks_in_every_row():
    model, ids = converted(), tokens(2, 12)
    one = memory(model, 1)
    with torch.no_grad():
        assert torch.equal(model(ids, memories=one).logits, model(ids, memories=[one, one]).logits)
    settings = {"max_new_tokens": 6, "num_beams": 2, "do_sample": False}
    assert torch.equal(
        model.generate(ids, memories=one, **settings), model.generate(ids, memories=[one] * 2, **settings)
    )


def test_unwrap_takes_the_memory_away():
    model, ids = converted(), tokens(1, 12)
    model.load_memory(memory(model, 1))
    logits(model, ids)
    plain = model.unwrap()
    hooks = [m for m in plain.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_merged_memory_is_always_active(family):
    model, ids = converted(family), tokens(1, 12)
    model.configure_ttt(learn_from="none")
    model.load_memory(memory(model, 1, 2, gated=False))
    expected = logits(model, ids)
    plain = model.unwrap(merge=True)
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, expected, atol=1e-4)


def test_there_must_be_a_memory_to_merge():
    with pytest.raises(ConfigError, match="no memory is loaded"):
        converted().unwrap(merge=True)


def test_cache_keeps_its_text_when_asked():
    model, ids = converted(), tokens(2, 30)
    cache = model.new_cache().keep_text()
    model.read(ids, past_key_values=cache)
    assert cache.text == ids.tolist()
    plain = model.read(ids)
    with pytest.raises(InputError, match="after tokens had been read"):
        plain.keep_text()


def _with_gate(made, gate):
    import dataclasses

    return dataclasses.replace(made, entries=(dataclasses.replace(made.entries[0], gate=gate),))
