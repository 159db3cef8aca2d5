"""A gate depends on the user's turn alone: its mean begins anew where the chat template opens one."""

import dataclasses
import json

import pytest
import torch
from bpe import FAMILIES, family
from converted import converted
from remembered import memory
from words import tokenizer

from ttt_retrofit import Memory, TTTCache
from ttt_retrofit.consolidation.train.gate_calibration import TextMeans, find_background, nearness
from ttt_retrofit.errors import CheckpointError, ConfigError
from ttt_retrofit.memory import gates
from ttt_retrofit.memory.turns import TAIL, between_turns, last_turn, no_tail, opener_rows, tail_after, turn_starts
from ttt_retrofit.util.prompt_formatter import PromptFormatter

OPENER = (7, 8, 9)
CPU = torch.device("cpu")


def places(text, *openers, tail=()):
    """Where turns begin in rows that all read `text`, one for each opener."""
    ids = torch.tensor([text] * len(openers))
    before = no_tail(len(openers), CPU)
    if tail:
        before[:, -len(tail) :] = torch.tensor(tail)
    return [row.nonzero().flatten().tolist() for row in turn_starts(ids, before, opener_rows(openers, CPU))]


def test_a_turn_begins_at_the_last_token_of_its_rows_own_opener():
    text = [7, 8, 9, 1, 8, 9, 7, 8, 9, 5]
    assert places(text, OPENER, (9,), (), (1, 8)) == [[2, 8], [2, 5, 8], [], [4]]
    assert places([9, 9, 9], (9, 9)) == [[1, 2]]
    assert opener_rows([(), ()], CPU) is None
    assert last_turn(text, OPENER) == 8 and last_turn(text, (3,)) is None and last_turn(text, ()) is None


@pytest.mark.parametrize("cut", [1, 2])
def test_an_opener_that_is_split_over_calls_is_found(cut):
    assert places([*OPENER[cut:], 1], OPENER, tail=OPENER[:cut]) == [[2 - cut]]
    ids, real = torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 0])
    tail = tail_after(ids, no_tail(2, CPU), real)
    assert tail.tolist() == [[-1] * (TAIL - 3) + [1, 2, 3], [-1] * TAIL]


def test_between_turns_an_opener_has_begun_of_each_rows_own():
    text = torch.tensor([[7, 8, 9, 8, 7, 7, 8, 1, 9]] * 4)
    openers = opener_rows([OPENER, (9,), (), (7, 7, 8, 2)], CPU)
    found = between_turns(text, no_tail(4, CPU), openers)
    assert [row.nonzero().flatten().tolist() for row in found] == [[0, 1, 4, 5, 6], [], [], [0, 4, 5, 6]]
    tail = torch.tensor([[-1] * (TAIL - 1) + [7]])
    assert between_turns(text[:1, 1:], tail, openers[:1])[0].nonzero().flatten().tolist() == [0, 3, 4, 5]


def one_key(openers=(OPENER,), width=5):
    generator = torch.Generator().manual_seed(0)
    background = gates.Background(torch.zeros(1, width), torch.zeros(1, width, 1), torch.ones(1, 1))
    keys = torch.nn.functional.normalize(torch.randn(1, 2, 1, width, generator=generator), dim=-1)
    bounds = torch.full((1, 2), -0.9)
    return gates.Gates(background, keys, bounds, bounds + 1.8, opener_rows(openers, CPU))


def rows(*texts, width=5):
    """(B, T, D) hidden states and (B, T) ids of texts of one length."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(texts), len(texts[0]), width, generator=generator), torch.tensor(texts)


CHAT = [1, 2, 3, *OPENER, *range(10, 22), *OPENER, *range(30, 44)]


def test_in_a_turn_gates_are_those_of_the_turn_alone():
    hidden, ids = rows(CHAT)
    begins = last_turn(CHAT, OPENER)
    whole, after = gates.openings_and_state(hidden, None, torch.tensor([len(CHAT)]), one_key(), ids)
    alone, end = gates.openings_and_state(
        hidden[:, begins:], None, torch.tensor([len(CHAT) - begins]), one_key([(99,)])
    )
    running, _ = gates.openings_and_state(hidden, None, torch.tensor([len(CHAT)]), one_key([()]), ids)
    assert not bool(running[:, : gates.MIN_TOKENS - 1].any()) and (running[:, gates.MIN_TOKENS - 1] > 0).any()
    assert torch.allclose(whole[:, begins:], alone, atol=1e-6)
    shut = gates.MIN_TOKENS_OF_TURN - 1
    assert (alone[:, shut:] > 0).any() and not bool(alone[:, :shut].any())
    for name in ("sums", "near", "seen"):
        assert torch.allclose(after.tensors()[name].float(), end.tensors()[name].float(), atol=1e-6), name


def test_a_gate_is_shut_at_the_tokens_that_open_a_turn():
    hidden, ids = rows(CHAT)
    opening, _ = gates.openings_and_state(hidden, None, torch.tensor([len(CHAT)]), one_key(), ids)
    shut = last_turn(CHAT, OPENER) - 2
    assert bool(opening[0, shut - 1].any()) and not bool(opening[0, shut : shut + gates.MIN_TOKENS_OF_TURN].any())


def test_how_a_chat_is_split_into_calls_changes_no_gate():
    hidden, ids = rows(CHAT, [*CHAT[8:], *CHAT[:8]])
    memories = one_key((OPENER, (10, 11)))
    whole, end = gates.openings_and_state(hidden, None, torch.tensor([len(CHAT)] * 2), memories, ids)
    for sizes in ([1] * len(CHAT), [4, 1, 15, 2, len(CHAT) - 22]):
        parts, before = [], None
        for part, some in zip(hidden.split(sizes, 1), ids.split(sizes, 1)):
            opening, before = gates.openings_and_state(part, before, torch.tensor([part.shape[1]] * 2), memories, some)
            parts.append(opening)
        assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
        for name, tensor in end.tensors().items():
            assert torch.allclose(before.tensors()[name].float(), tensor.float(), atol=1e-5), name


def test_rows_with_other_openers_or_none_and_with_padding_are_as_alone():
    hidden, ids = rows(CHAT, CHAT, CHAT)
    openers, real = (OPENER, (12,), ()), torch.tensor([len(CHAT), len(CHAT) - 9, len(CHAT) - 20])
    together, after = gates.openings_and_state(hidden, None, real, one_key(openers), ids)
    for row, (opener, count) in enumerate(zip(openers, real.tolist())):
        part = slice(row, row + 1)
        alone, end = gates.openings_and_state(
            hidden[part, :count], None, real[part], one_key((opener,)), ids[part, :count]
        )
        assert torch.allclose(together[part, :count], alone, atol=1e-6)
        for name, tensor in after.tensors().items():
            assert torch.allclose(tensor[part].float(), end.tensors()[name].float(), atol=1e-6), name


@pytest.fixture(scope="module")
def model():
    return converted()


def with_opener(model, *seeds, opener=OPENER):
    return dataclasses.replace(memory(model, *seeds), opener=opener)


def test_a_model_reads_a_chat_alike_in_one_call_token_by_token_and_in_a_batch(model):
    made, other = with_opener(model, 1, 2), with_opener(model, 3, opener=(11,))
    chat = torch.tensor([CHAT])
    with torch.no_grad():
        whole = model(chat, memories=[made]).logits
        cache = model.new_cache()
        parts = [model(token, past_key_values=cache, memories=[made]).logits for token in chat.split(1, 1)]
        together = model(chat.expand(3, -1), memories=[other, made, None]).logits
        without = model(chat, memories=[dataclasses.replace(made, opener=())]).logits
    # Of earlier turns one call tells what the base alone says; token by token they are read again when they have ended.
    begins = last_turn(CHAT, OPENER)
    assert torch.allclose(torch.cat(parts, 1)[:, begins:], whole[:, begins:], atol=1e-4)
    assert torch.allclose(together[1:2], whole, atol=1e-4)
    assert not torch.allclose(without, whole, atol=1e-3)


def test_a_saved_cache_goes_on_within_an_opener_and_one_without_a_tail_loads(model, tmp_path, monkeypatch):
    made, cut = with_opener(model, 1, 2), 19
    assert CHAT[cut - 1 : cut + 2] == list(OPENER)
    first, rest = torch.tensor([CHAT[:cut]]), torch.tensor([CHAT[cut:]])
    cache = model.new_cache()
    with torch.no_grad():
        whole = model(torch.tensor([CHAT]), memories=[made]).logits
        model(first, past_key_values=cache, memories=[made])
        cache.save(tmp_path / "new.safetensors")
        state, known = gates.GateState.tensors, lambda self: {k: v for k, v in state(self).items() if k != "tail"}
        monkeypatch.setattr(gates.GateState, "tensors", known)
        cache.save(tmp_path / "old.safetensors")
        monkeypatch.undo()
        loaded = TTTCache.load(tmp_path / "new.safetensors", model)
        assert torch.allclose(model(rest, past_key_values=loaded, memories=[made]).logits, whole[:, cut:], atol=1e-4)
        old = TTTCache.load(tmp_path / "old.safetensors", model)
    assert old.gate_state.tail.eq(-1).all() and torch.equal(old.gate_state.sums, cache.gate_state.sums)


def test_a_memory_keeps_its_opener_in_its_file_and_in_other_memories(model, tmp_path):
    made = with_opener(model, 1, 2)
    assert Memory.load(made.save(tmp_path / "m")).opener == OPENER
    assert made.forget("entry1").opener == OPENER
    assert Memory.combine([made, with_opener(model, 3)]).opener == OPENER
    with pytest.raises(ConfigError, match="tell turns of the user apart by different tokens"):
        Memory.combine([made, memory(model, 3)])


@pytest.mark.parametrize("opener", [None, "ab", [1] * 9, [-1], [1.5]])
def test_a_file_with_an_opener_that_is_none_is_refused(model, tmp_path, opener):
    path = with_opener(model, 1).save(tmp_path) / "memory.json"
    header = json.loads(path.read_text())
    del header["header_sha256"]
    path.write_text(json.dumps(header | {"opener": opener}))
    with pytest.raises(CheckpointError, match="opener"):
        Memory.load(tmp_path)


WRITTEN = {
    "chatml": "<|im_start|>user\n",
    "llama": "<|start_header_id|>user<|end_header_id|>\n\n",
    "gemma": "<start_of_turn>user\n",
    "mistral": "[INST] ",
    "thinking": "<|im_start|>user\n",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_an_openers_tokens_are_those_of_the_template(name):
    formatter = PromptFormatter(family(name), "{question}")
    assert formatter.tokenizer.decode(formatter.opener) == WRITTEN[name]
    chat = formatter.asked_after("Hello the", "what?", "is")
    starts = turn_starts(torch.tensor([chat]), no_tail(1, CPU), opener_rows([formatter.opener], CPU))
    assert starts.sum() == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_a_question_of_four_tokens_is_long_enough_for_a_gate_to_open_where_its_answer_begins(name):
    formatter = PromptFormatter(family(name), "{question}")
    asked = formatter.asked("Who?")
    assert len(asked) - last_turn(asked, formatter.opener) >= gates.MIN_TOKENS_OF_TURN


def test_no_opener_without_a_template_and_where_it_would_be_the_assistants_too():
    assert PromptFormatter(tokenizer(chat=False), "{question}").opener == ()
    alike = tokenizer()
    alike.chat_template = "{% for message in messages %}user {{ message['content'] }} {% endfor %}user "
    assert PromptFormatter(alike, "{question}").opener == ()


def test_of_an_opener_longer_than_eight_tokens_the_last_are_taken():
    long = family("chatml")
    long.chat_template = long.chat_template.replace("message['role']", "'the turn of the ' + message['role']")
    formatter = PromptFormatter(long, "")
    assert formatter.tokenizer.decode(formatter.opener) == " the user\n"


def test_a_prompt_is_measured_in_its_last_turn():
    hidden, _ = rows(CHAT)
    whole, turn = TextMeans.of(hidden[0], CHAT, OPENER), CHAT[last_turn(CHAT, OPENER) :]
    alone = TextMeans.of(hidden[0, -len(turn) :], turn, (99,))  # an opener that does not occur in it
    assert torch.allclose(whole.values[whole.counted], alone.values[alone.counted], atol=1e-6)
    assert whole.counted.sum() == len(turn) - gates.MIN_TOKENS_OF_TURN + 1
    keys, background = torch.eye(5), find_background([whole])
    assert torch.allclose(nearness(whole, keys, background), nearness(alone, keys, background), atol=1e-5)
    assert TextMeans.of(hidden[0, :3], [1, 2, 3], OPENER).counted.tolist() == [False, False, True]
