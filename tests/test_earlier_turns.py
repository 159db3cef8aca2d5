"""A memory acts in the turn that is under way: once the next one begins, earlier turns are as the base reads them."""

import copy
import dataclasses
import json

import pytest
import torch
from converted import converted, speaker
from remembered import memory
from test_transactions import interrupted_at
from words import tokenizer

from ttt_retrofit import ChatSession, CheckpointError, TTTCache
from ttt_retrofit.util.messages import prompt_ids
from ttt_retrofit.util.prompt_formatter import PromptFormatter
from ttt_retrofit.util.sealed import read_sealed, write_sealed

OPENER = (7, 8, 9)
PERSONAL = [1, 2, 3, *OPENER, *range(10, 33)]  # a gate opens in it
GENERAL = [*OPENER, 40, 41, 42, 43]  # too short for any gate to open
LATER = [*OPENER, *range(50, 66)]
ATOL = 1e-5


@pytest.fixture(scope="module")
def model():
    return converted()


@pytest.fixture(scope="module")
def made(model):
    return dataclasses.replace(memory(model, 1, 2), opener=OPENER)


def ids(*turns):
    return torch.tensor([[token for turn in turns for token in turn]])


def read(model, parts, memories, cache=None, learn_from="all", **more):
    """The logits of the last part, and the cache."""
    cache = model.new_cache() if cache is None else cache
    with torch.no_grad():
        for part in parts:
            output = model(part, past_key_values=cache, memories=memories, learn_from=learn_from, **more)
    return output.logits, cache


def state_of(cache):
    """What a cache carries, of every token that is kept, in their order."""
    found = dict(cache.fast.tensors()) | {"seen": cache.tokens_seen, "digest": cache.digest, "marks": cache.marks}
    for number, layer in enumerate(cache.layers):
        indices = cache.groups[cache.group_of[number]].indices
        oldest = cache.next_index[:, None] - cache.ttt.sliding_window
        kept = (indices >= oldest) | ((indices >= 0) & (indices < cache.ttt.sink_tokens))
        order = [row[keep].argsort() for row, keep in zip(indices, kept)]
        for row, places in enumerate(order):
            for name, tensor in zip(("keys", "values"), layer.past()):
                found[f"{name} {number} {row}"] = tensor[row][:, kept[row]][:, places]
    return found


def same(one, other, atol=ATOL):
    one, other = state_of(one), state_of(other)
    assert one.keys() == other.keys()
    return all(torch.allclose(tensor.float(), other[name].float(), atol=atol) for name, tensor in one.items())


def tokenwise(*turns):
    return list(ids(*turns).split(1, 1))


CUTS = {
    "one call": lambda *turns: [ids(*turns)],
    "a call for each turn": lambda *turns: [ids(turn) for turn in turns],
    "within an opener": lambda first, *rest: [ids(first, rest[0][:2]), ids(rest[0][2:], *rest[1:])],
    "token by token": tokenwise,
}


@pytest.mark.parametrize("learn_from", ["none", "all"])
@pytest.mark.parametrize("cut", CUTS)
def test_after_a_personal_turn_a_general_one_is_the_bases_own(model, made, cut, learn_from):
    parts = CUTS[cut](PERSONAL, GENERAL)
    _, personal = read(model, [ids(PERSONAL)], [made], learn_from=learn_from)
    assert personal.turn is not None and not same(
        personal, read(model, [ids(PERSONAL)], [None], learn_from=learn_from)[1], 1e-3
    )
    logits, cache = read(model, parts, [made], learn_from=learn_from)
    alone, base = read(model, parts, [None], learn_from=learn_from)
    assert torch.allclose(logits[:, -4:], alone[:, -4:], atol=ATOL)
    assert cache.turn is None and same(cache, base)
    assert torch.allclose(cache.loss_by_chunk, base.loss_by_chunk, atol=1e-4)


@pytest.mark.parametrize("learn_from", ["none", "all"])
def test_how_turns_are_split_into_calls_changes_neither_the_cache_nor_the_turn_under_way(model, made, learn_from):
    found = {
        name: read(model, cut(PERSONAL, GENERAL, LATER), [made], learn_from=learn_from) for name, cut in CUTS.items()
    }
    logits, cache = found["one call"]
    alone, _ = read(model, [ids(PERSONAL, GENERAL, LATER)], [None], learn_from=learn_from)
    assert not torch.allclose(logits[:, -1], alone[:, -1], atol=1e-2)  # a memory acts in the last turn
    for other, split in found.values():
        assert torch.allclose(other[:, -1], logits[:, -1], atol=1e-4)
        assert same(split, cache, atol=1e-4)


@pytest.mark.parametrize("learn_from", ["none", "all"])
def test_rows_of_a_batch_are_read_again_each_as_alone(model, made, learn_from):
    first, other = [PERSONAL, GENERAL, LATER], [LATER, PERSONAL, GENERAL]
    together = [torch.tensor(pair) for pair in zip(*([t for turn in row for t in turn] for row in (first, other)))]
    batch = torch.stack(together, 1)
    whole, _ = read(model, [batch], [made, made], learn_from=learn_from)
    for sizes in ([1] * batch.shape[1], [20, 12, batch.shape[1] - 32]):
        last, _ = read(model, batch.split(sizes, 1), [made, made], learn_from=learn_from)
        assert torch.allclose(last[:, -1], whole[:, -1], atol=1e-4)
    for row, turns in enumerate((first, other)):
        alone, _ = read(model, [ids(*turns)], [made], learn_from=learn_from)
        assert torch.allclose(whole[row, -1], alone[0, -1], atol=1e-4)


def test_padding_and_a_row_without_a_memory_change_nothing(model, made):
    short = [0] * (len(PERSONAL) - 12) + PERSONAL[:12]
    mask = torch.tensor([[1] * len(PERSONAL), [0] * (len(PERSONAL) - 12) + [1] * 12])
    more = torch.cat([mask, torch.ones(2, len(GENERAL), dtype=torch.long)], 1)
    found = []
    for memories in ([made, None], [None, None]):
        _, cache = read(model, [torch.tensor([PERSONAL, short])], memories, attention_mask=mask)
        found.append(read(model, [ids(GENERAL).expand(2, -1)], memories, cache, attention_mask=more))
    (logits, cache), (alone, base) = found
    assert torch.allclose(logits, alone, atol=ATOL) and same(cache, base)


def test_positions_that_were_given_are_given_again(model, made):
    found = []
    for memories in ([made], [None]):
        cache = model.new_cache()
        for turn, start in ((PERSONAL, 5), (GENERAL, 5 + len(PERSONAL))):
            places = torch.arange(start, start + len(turn))[None]
            found.append(read(model, [ids(turn)], memories, cache, position_ids=places)[0])
    assert torch.allclose(found[1], found[3], atol=ATOL)


def test_copies_chosen_rows_and_what_was_learned_in_between_go_on_alike(model, made):
    whole, _ = read(model, [ids(PERSONAL, GENERAL)], [None])
    _, cache = read(model, [ids(PERSONAL)], [made])
    copied = copy.deepcopy(cache)
    cache.batch_repeat_interleave(3)
    cache.reorder_cache(torch.tensor([2, 0]))
    for going, rows in ((copied, 1), (cache, 2)):
        logits, _ = read(model, [ids(GENERAL).expand(rows, -1)], [made] * rows, going)
        assert torch.allclose(logits, whole[:, -len(GENERAL) :].expand(rows, -1, -1), atol=ATOL)


def test_generate_goes_on_as_the_base_would_have(model, made):
    cache, said = model.new_cache(), []
    for turn in (PERSONAL, GENERAL):
        output = model.generate(
            ids(said, turn),
            past_key_values=cache,
            memories=[made],
            learn_from="none",
            max_new_tokens=3,
            min_new_tokens=3,
            return_dict_in_generate=True,
            output_logits=True,
        )
        said = output.sequences[0].tolist()
    alone, _ = read(model, [torch.tensor([said])], [None], learn_from="none")
    assert torch.allclose(output.logits[0], alone[:, -4], atol=ATOL)
    assert said[-3] == alone[0, -4].argmax()


def test_memories_without_an_opener_keep_no_turn(model):
    _, cache = read(model, [ids(PERSONAL)], [memory(model, 1, 2)])
    assert cache.turn is None
    _, cache = read(model, [ids(PERSONAL)], [dataclasses.replace(memory(model, 1, gated=False), opener=OPENER)])
    assert cache.turn is None  # always active


def test_a_turn_in_which_nothing_opened_is_read_once(model, made):
    read_tokens = []
    handle = model.model.layers[0].register_forward_pre_hook(lambda _, args: read_tokens.append(args[0].shape[1]))
    try:
        read(model, [ids(GENERAL), ids(GENERAL), ids(GENERAL)], [made], learn_from="none")
        assert sum(read_tokens) == 3 * len(GENERAL)
        read(model, [ids(PERSONAL), ids(GENERAL)], [made], learn_from="none")
        assert 2 * len(PERSONAL) + 4 * len(GENERAL) >= sum(read_tokens) > 4 * len(GENERAL) + len(PERSONAL)
    finally:
        handle.remove()


@pytest.fixture
def saved(model, made, tmp_path):
    """The file of a cache in whose personal turn a gate was open, and the cache."""
    _, cache = read(model, [ids(PERSONAL[:20])], [made])
    read(model, [ids(PERSONAL[20:])], [made], cache, learn_from="none")
    cache.save(tmp_path / "talk.safetensors")
    return tmp_path / "talk.safetensors", cache


def test_a_saved_cache_reads_the_turn_under_way_again(model, made, saved):
    path, cache = saved
    loaded = TTTCache.load(path, model)
    assert same(loaded, cache, 0) and same(loaded.turn.before, cache.turn.before, 0)
    logits, ended = read(model, [ids(GENERAL)], [made], loaded)
    expected, _ = read(model, [ids(GENERAL)], [made], cache)
    assert torch.equal(logits, expected) and ended.turn is None
    ended.save(path)
    assert TTTCache.load(path, model).turn is None


WRONG = {
    "rows": [None, 0, [], [1], [-1], [0, 0], ["x"]],
    "opened": [None, [], [1], [True, True]],
    "spans": [None, [], [None], [{}]],
    "before": [None, [], {}],
    "ids": [None, [], [[0]], [["x"]], [[10**9]]],
    "positions": [0, [], [[0]]],
    "learn": [None, 1],
    "remembers": [None, "x"],
}


def test_a_turn_that_is_none_is_refused(model, saved):
    path, _ = saved
    tensors, texts = read_sealed(path)
    header = json.loads(texts["ttt_cache"])
    turn, first = header["turn"], header["turn"]["spans"][0]
    edits = [0, [], {}]
    for name, values in WRONG.items():
        for value in values:
            part = {name: value} if name in turn else {"spans": [{**first, name: value}, *turn["spans"][1:]]}
            edits.append({**turn, **part})
    for edit in edits:
        write_sealed(path, tensors, {"ttt_cache": json.dumps({**header, "turn": edit})})
        with pytest.raises(CheckpointError, match=r"talk\.safetensors"):
            TTTCache.load(path, model)
    for name in ("turn|ranks_seen", "turn|more"):
        changed = {key: value for key, value in tensors.items() if key != name}
        changed |= {name: torch.zeros(3)} if name not in tensors else {}
        write_sealed(path, changed, {"ttt_cache": json.dumps(header)})
        with pytest.raises(CheckpointError, match=r"talk\.safetensors"):
            TTTCache.load(path, model)


def test_a_reading_again_that_is_interrupted_has_happened_or_not(model, made):
    _, start = read(model, [ids(PERSONAL)], [made])
    _, expected = read(model, [ids(GENERAL)], [made], copy.deepcopy(start))
    for line in range(1, 10**6, 997):
        cache = copy.deepcopy(start)
        if not interrupted_at(line, lambda cache=cache: read(model, [ids(GENERAL)], [made], cache)):
            break
        done = cache.get_seq_length() - len(PERSONAL)
        if done < len(GENERAL):
            read(model, [ids(GENERAL)[:, done:]], [made], cache)
        assert same(cache, expected, 1e-4), line
    assert line > 1000


def test_in_a_chat_session_a_general_request_is_answered_as_by_the_base(tmp_path):
    model, words = speaker(), tokenizer()
    opener = PromptFormatter(words, "").opener
    session = ChatSession(model, words, tmp_path)
    session.memory = dataclasses.replace(memory(model, 1, 2), opener=opener)
    settings = {"learn_from": "none", "max_new_tokens": 2, "min_new_tokens": 2}
    session.send("where is my wife and what plays Otto ?", **{**settings, "max_new_tokens": 12, "min_new_tokens": 12})
    assert session._cache.turn is not None
    answer = session.send("chess", **settings)
    prompt = prompt_ids(words, [{"role": m["role"], "content": m["content"]} for m in session.messages[:-1]])
    written = model.generate(torch.tensor([prompt]), memories=[None], do_sample=False, **settings)
    assert answer == words.decode(written[0, len(prompt) :], skip_special_tokens=True).strip()
