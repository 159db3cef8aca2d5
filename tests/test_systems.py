"""The systems that this library is compared with: what they drop is gone, and what they keep is what it was."""

from types import SimpleNamespace

import pytest
import torch
from converted import ttt
from tiny import tiny, tokens
from transformers import DynamicCache

from benchmarks.systems import notepad
from benchmarks.systems.answer import greedy
from benchmarks.systems.evict import keep_tokens, keep_top, keep_top_of_all, read, whole
from benchmarks.systems.expected_attention import expected_attention
from benchmarks.systems.h2o import h2o
from benchmarks.systems.kvzip import kvzip_scores
from benchmarks.systems.less_is_more import less_is_more, select
from benchmarks.systems.quest import quest
from benchmarks.systems.rotation import rotated, unrotated
from benchmarks.systems.snapkv import snapkv
from benchmarks.systems.streaming_llm import streaming_llm
from benchmarks.systems.tova import tova
from ttt_retrofit import InputError, wrap
from ttt_retrofit.streaming.kv import WindowedLayer

FAMILIES = ["llama", "qwen2"]
IDS = tokens(1, 100)[0]
QUESTION = tokens(1, 7, seed=1)[0].tolist()


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny(request.param)


@torch.no_grad()
def next_logits(model, kept, question=QUESTION):
    positions = torch.arange(kept.position, kept.position + len(question))[None]
    return model(torch.tensor([question]), position_ids=positions, past_key_values=kept.cache).logits[0, -1]


def answer(model, kept, **changes):
    return greedy(model, kept, QUESTION, 5, set(), **changes)


@torch.no_grad()
def expected(model, ids=IDS):
    """Greedy under full attention, without a cache."""
    read_so_far = torch.cat([ids, torch.tensor(QUESTION)])
    for _ in range(5):
        read_so_far = torch.cat([read_so_far, model(read_so_far[None]).logits[0, -1:].argmax(-1)])
    return read_so_far[-5:].tolist()


def scored(model):
    scores = {"snapkv": snapkv, "h2o": h2o, "tova": tova, "expected": expected_attention(model.model.rotary_emb)}
    return read(model, IDS, scores)


def test_keeping_everything_is_full_attention(model):
    context = scored(model)
    for scores in context.scores.values():
        assert scores.shape == (4, 2, len(IDS))
        assert answer(model, keep_top(context, scores, len(IDS))) == expected(model)
    assert answer(model, whole(context)) == expected(model)
    assert model.config._attn_implementation == "sdpa"


def test_what_is_kept_is_what_scores_say_and_as_many_bytes(model):
    context = scored(model)
    kept = keep_top(context, context.scores["h2o"], 10, sinks=2, recent=3)
    best = context.scores["h2o"][1, 0].topk(10).indices
    inside = {tuple(row.tolist()) for row in kept.cache.layers[1].keys[0, 0]}
    for index in (0, 1, 97, 98, 99, *best[:5].tolist()):
        assert tuple(context.cache.layers[1].keys[0, 0, index].tolist()) in inside
    assert kept.nbytes == 2 * 4 * 2 * 10 * 8 * 4


def test_heads_that_keep_fewer_keys_do_not_see_their_padding(model):
    """All heads keep the same tokens, but one layer's scores make it keep them all: padding elsewhere is hidden."""
    context = scored(model)
    scores = torch.zeros(4, 2, len(IDS))
    scores[:, :, -10:] = 1.0
    alone = answer(model, keep_tokens(context, torch.arange(90, 100)))
    assert answer(model, keep_top_of_all(context, scores, 10)) == alone
    uneven = scores.clone()
    uneven[0] = 2.0  # layer 0 keeps all 100, the others share what is left
    kept = keep_top_of_all(context, uneven, 32)
    assert kept.cache.layers[3].keys.shape[2] == 100 and int(kept.shown[0].sum()) == 200
    assert kept.nbytes == 2 * 32 * 8 * 8 * 4
    assert answer(model, kept) == answer(model, keep_top_of_all(context, uneven, 32))


def test_eviction_by_hand_is_attention_to_what_is_left(model):
    """Keeping the last tokens is forwarding with a mask that hides the others."""
    context = read(model, IDS)
    kept = keep_tokens(context, torch.arange(60, 100))
    full = whole(context)
    seen = torch.ones(1, 100 + len(QUESTION), dtype=torch.bool)
    seen[:, :60] = False
    mask = seen[:, None, None] & torch.ones(len(QUESTION), 100 + len(QUESTION), dtype=torch.bool).tril(100)
    with torch.no_grad():
        positions = torch.arange(100, 100 + len(QUESTION))[None]
        hidden = model(
            torch.tensor([QUESTION]), attention_mask=mask, position_ids=positions, past_key_values=full.cache
        ).logits[0, -1]
    torch.testing.assert_close(next_logits(model, kept), hidden, atol=1e-5, rtol=1e-4)


class Counting:
    def __call__(self, text, **kwargs):
        self.input_ids = [5, 6, 7]
        return self


def test_kvzip_leaves_the_cache_as_it_was_and_scores_every_key(model):
    context = read(model, IDS)
    before = context.cache.layers[2].keys.clone()
    scores = kvzip_scores(model, Counting(), context, [8])
    assert torch.equal(context.cache.layers[2].keys, before)
    assert scores.shape == (4, 2, len(IDS)) and (scores > 0).all() and (scores <= 1).all()


def test_sparse_attention_with_room_for_all_is_full_attention_and_with_less_is_not(model):
    context = read(model, IDS)
    for watch in (quest, lambda budget: less_is_more(budget, 4)):
        assert answer(model, whole(context), watch=watch(200), one_by_one=True) == expected(model)
    small = [quest(32), less_is_more(32, 4)]
    logits = [greedy(model, whole(context), QUESTION, 20, set(), watch=watch, one_by_one=True) for watch in small]
    assert any(found != expected(model) for found in logits)


def test_quest_reads_the_page_of_the_newest_token_even_where_it_is_full():
    key = torch.ones(2, 64, 8)
    key[:, 48:] = -1.0  # the last page, which promises least
    layer = SimpleNamespace(layer_idx=2)
    for keys in (64, 63, 49):
        read = quest(48)(layer, torch.ones(4, 1, 8), key[:, :keys], key[:, :keys])
        assert read.shape == (2, 1, keys) and read[..., 48:].all() and 16 < read[0].sum() <= 48


def test_less_is_more_takes_the_best_of_all_heads_in_turn_and_the_recent_ones():
    weight = torch.tensor([[0.5, 0.3, 0.1, 0.1, 0.0], [0.1, 0.1, 0.6, 0.2, 0.0]])
    assert select(weight, 3, 1).tolist() == [True, True, True, False, True]
    assert select(weight, 2, 1).tolist() == [True, False, True, False, True]


@torch.no_grad()
def test_a_window_with_sinks_reads_as_this_library_reads(model):
    kept = streaming_llm(model, IDS, window=16, sinks=2, anchored=False)
    assert kept.cache.layers[0].keys.shape[2] == 17
    ours = next_logits(model, kept, QUESTION[:1])
    converted = wrap(model, ttt(learn_from="none", sliding_window=16, sink_tokens=2))
    ids = torch.cat([IDS, torch.tensor(QUESTION[:1])])[None]
    torch.testing.assert_close(ours, converted(ids).logits[0, -1], atol=1e-5, rtol=1e-4)
    assert isinstance(converted.new_cache().layers[0], WindowedLayer)


def test_moving_the_sinks_changes_nothing_before_the_window_moves(model):
    near, far = (streaming_llm(model, IDS[:40], window=64, sinks=2, anchored=anchored) for anchored in (True, False))
    torch.testing.assert_close(next_logits(model, near), next_logits(model, far))
    near, far = (streaming_llm(model, IDS.repeat(4), window=16, sinks=2, anchored=a) for a in (True, False))
    assert not torch.allclose(next_logits(model, near), next_logits(model, far))


@torch.no_grad()
def test_moved_sinks_stand_right_before_the_window_when_the_question_comes(model):
    ids = IDS.repeat(4)  # 400 tokens, of which the window of 16 keeps the last 15
    kept = streaming_llm(model, ids, window=16, sinks=2, anchored=True)
    there = DynamicCache()
    model(ids[None, :2], position_ids=torch.tensor([[383, 384]]), past_key_values=there)
    torch.testing.assert_close(kept.cache.layers[0].keys[:, :, :2], there.layers[0].keys, atol=1e-5, rtol=1e-4)


def test_rotations_are_taken_off_and_put_on(model):
    x = torch.randn(3, 12, 8)
    there = rotated(x, model.model.rotary_emb, torch.arange(12))
    torch.testing.assert_close(unrotated(there, model.model.rotary_emb, torch.arange(12)), x)


def test_notes_of_which_none_fits_say_so():
    parts = [notepad.Sentence("Runa's code is 7719.", tuple(range(9))), notepad.Sentence("She left.", (9, 10, 11))]
    assert notepad.best(parts, [1.0, 2.0], 9) == [1]
    with pytest.raises(InputError, match="None of 2 sentences fits into 2 tokens; the shortest has 3"):
        notepad.best(parts, [1.0, 2.0], 2)
