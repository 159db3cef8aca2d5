"""`generate`: every mode gives what reading token by token gives, or says why it cannot."""

import copy

import pytest
import torch
from tiny import tiny, tokens
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DynamicCache, GenerationConfig, PreTrainedTokenizerFast, TextIteratorStreamer

from ttt_retrofit import InputError, TTTConfig, UnsupportedModelError, wrap

CHUNK, NEW = 6, 15
LEARNING = {"layers": "all", "chunk_size": CHUNK, "sliding_window": 10, "sink_tokens": 2}
LEARNING |= {"inner_optimizer": "sgd", "inner_lr": 1.0, "max_relative_update": 0.3}
GREEDY = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
FAMILIES = ["llama", "qwen3", "gemma3_text", "gpt2", "gemma3", "qwen2_moe"]


def converted(family="llama", **changes):
    return wrap(tiny(family), TTTConfig(**{**LEARNING, **changes}))


def by_hand(model, ids, new=NEW, learn_from=None):
    """Greedy decoding through forward alone."""
    cache, part = None, ids
    with torch.no_grad():
        for step in range(new):
            learn = "none" if learn_from == "none" or (learn_from == "prompt" and step > 0) else "all"
            output = model(part, past_key_values=cache, learn_from=learn)
            cache, part = output.past_key_values, output.logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, part], dim=1)
    return ids, cache


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_forward_by_hand(family):
    model, ids = converted(family), tokens(2, 13)
    assert torch.equal(model.generate(ids, **GREEDY), by_hand(model, ids)[0])


def test_learning_changes_what_is_generated():
    model, ids = converted(), tokens(1, 40)
    assert not torch.equal(model.generate(ids, **GREEDY), model.generate(ids, learn_from="none", **GREEDY))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_left_padded_batch_equals_each_row_alone(family):
    model, rows = converted(family), [tokens(1, length, seed=length)[0] for length in (20, 7, 13)]
    batch = torch.zeros(3, 20, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for row, ids in enumerate(rows):
        batch[row, -len(ids) :], mask[row, -len(ids) :] = ids, 1
    together = model.generate(batch, attention_mask=mask, **GREEDY)[:, 20:]
    for row, ids in enumerate(rows):
        assert torch.equal(together[row], model.generate(ids[None], **GREEDY)[0, len(ids) :])


def test_sampling_follows_its_seed():
    model, ids = converted(), tokens(2, 13)

    def sample(seed):
        torch.manual_seed(seed)
        return model.generate(ids, max_new_tokens=NEW, do_sample=True, temperature=2.0)

    assert torch.equal(sample(1), sample(1)) and not torch.equal(sample(1), sample(2))


def log_likelihood(model, sequence, prompt):
    with torch.no_grad():
        logits = torch.cat([output.logits for output in step_by_step(model, sequence[None, :-1], prompt)], dim=1)
    return logits[:, prompt - 1 :].log_softmax(-1).gather(2, sequence[None, prompt:, None]).sum().item()


def step_by_step(model, ids, prompt):
    output = model(ids[:, :prompt])
    yield output
    for place in range(prompt, ids.shape[1]):
        output = model(ids[:, place : place + 1], past_key_values=output.past_key_values)
        yield output


def test_beams_carry_their_own_fast_weights():
    """A beam's score is the likelihood that its tokens have when they are read alone."""
    model, ids = converted(), tokens(2, 13)
    output = model.generate(
        ids, **GREEDY, num_beams=3, num_return_sequences=3, length_penalty=0.0,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    assert output.sequences.shape == (6, 13 + NEW)
    for sequence, score in zip(output.sequences, output.sequences_scores):
        assert log_likelihood(model, sequence, 13) == pytest.approx(score.item(), abs=1e-3)


def test_num_return_sequences_are_independent_rows():
    model, ids = converted(), tokens(1, 13)
    torch.manual_seed(0)
    output = model.generate(
        ids, max_new_tokens=NEW, do_sample=True, num_return_sequences=4, return_dict_in_generate=True
    )
    assert output.sequences.shape[0] == output.past_key_values.rows == 4
    for row, sequence in enumerate(output.sequences):
        with torch.no_grad():
            alone = model(sequence[None, :-1]).past_key_values
        for name, tensor in alone.fast.tensors().items():
            torch.testing.assert_close(
                output.past_key_values.fast.tensors()[name][row], tensor[0], atol=1e-4, rtol=1e-4
            )


def tiny_tokenizer():
    words = {f"w{index}": index for index in range(97)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", eos_token="w2", unk_token="w3")


def test_a_streamer_hears_every_token():
    model, tokenizer = converted(), tiny_tokenizer()
    inputs = tokenizer("w5 w9 w40 w41 w5 w9 w40", return_tensors="pt", return_token_type_ids=False)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    expected = model.generate(**inputs, **GREEDY)[0, 7:]
    model.generate(**inputs, **GREEDY, streamer=streamer)
    assert "".join(streamer).split() == tokenizer.decode(expected).split()


def test_text_can_be_read_with_its_tokenizer():
    model, tokenizer = converted(), tiny_tokenizer()
    cache = model.read("w5 w9 w40 w41 " * 5, tokenizer=tokenizer)
    assert cache.tokens_seen.tolist() == [20] and cache.loss_by_chunk.shape == (1, 3)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_turns_on_one_cache_equal_one_long_call(family):
    model, question = converted(family), tokens(1, 9, seed=1)
    first = model.generate(tokens(1, 13), **GREEDY, return_dict_in_generate=True)
    prompt = torch.cat([first.sequences, question], dim=1)
    second = model.generate(prompt, **GREEDY, past_key_values=first.past_key_values)
    assert torch.equal(second, model.generate(prompt, **GREEDY))


def test_generating_after_read_equals_generating_from_the_whole():
    model, ids = converted(), tokens(1, 45)
    cache = model.read(ids[:, :40])
    assert torch.equal(model.generate(ids, **GREEDY, past_key_values=cache), model.generate(ids, **GREEDY))


@pytest.mark.parametrize("learn_from,updates", [("all", 4), ("prompt", 2), ("none", 0)])
@pytest.mark.parametrize("where", ["config", "call"])
def test_learn_from_says_which_tokens_fire_updates(learn_from, updates, where):
    """Of 13 prompt tokens and 14 read after them, in chunks of 6."""
    model = converted(learn_from=learn_from if where == "config" else "all")
    changes = {"learn_from": learn_from} if where == "call" else {}
    output = model.generate(tokens(1, 13), **GREEDY, **changes, return_dict_in_generate=True)
    cache = output.past_key_values
    assert cache.tokens_seen.tolist() == [27]
    assert cache.loss_by_chunk.shape[-1] == updates
    assert ([0] if cache.fast.steps is None else cache.fast.steps.tolist()) == [updates]
    assert torch.equal(output.sequences, by_hand(model, tokens(1, 13), learn_from=learn_from)[0])


def test_generated_tokens_are_no_targets_when_learning_from_the_prompt():
    """The chunk that the prompt leaves unfinished may be completed by generated tokens, but not learned from them."""
    model = converted(learn_from="prompt")
    ids = tokens(1, CHUNK + 3)
    cache = model.generate(ids, **GREEDY, return_dict_in_generate=True).past_key_values
    with torch.no_grad():
        prompt = model(ids, learn_from="all").past_key_values
        for extra in (tokens(1, 3, seed=5), tokens(1, 3, seed=6)):
            other = model(extra, past_key_values=copy.deepcopy(prompt), learn_from="none").past_key_values
            for name, tensor in cache.fast.tensors().items():
                torch.testing.assert_close(other.fast.tensors()[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [CHUNK, 7, 4])
def test_prefilling_in_parts_changes_nothing(size):
    model, ids = converted(), tokens(2, 25)
    assert torch.equal(model.generate(ids, **GREEDY, prefill_chunk_size=size), model.generate(ids, **GREEDY))


def test_without_a_cache_the_tokens_are_the_same():
    model, ids = converted(), tokens(1, 13)
    assert torch.equal(model.generate(ids, **GREEDY, use_cache=False), model.generate(ids, **GREEDY))


def test_logits_processors_and_stopping_still_work():
    model, ids = converted(), tokens(1, 13)
    free = model.generate(ids, **GREEDY)[0, 13:].tolist()
    stopped = model.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=free[4])[0, 13:].tolist()
    assert stopped == free[: free.index(free[4]) + 1]
    banned = model.generate(ids, **GREEDY, suppress_tokens=[free[0]])[0, 13:].tolist()
    assert free[0] not in banned


FORBIDDEN = {
    "assisted": ({"assistant_model": tiny("llama")}, "not supported with stateful models"),
    "prompt lookup": ({"prompt_lookup_num_tokens": 3}, "not supported with stateful models"),
    "static": ({"cache_implementation": "static"}, "no place for fast weights"),
    "offloaded": ({"cache_implementation": "offloaded"}, "no place for fast weights"),
    "offloaded static": ({"cache_implementation": "offloaded_static"}, "no place for fast weights"),
    "learning from a prompt, without a cache": ({"use_cache": False, "learn_from": "prompt"}, "Leave use_cache on"),
    "quantized": ({"cache_implementation": "quantized"}, "no place for fast weights"),
}


@pytest.mark.parametrize("mode", FORBIDDEN)
def test_modes_that_cannot_be_right_say_so(mode):
    settings, reason = FORBIDDEN[mode]
    with pytest.raises(ValueError, match=reason):  # transformers itself refuses the first two
        converted().generate(tokens(1, 13), **GREEDY, **settings)


def test_continuous_batching_says_so():
    model = converted()
    for start in (model.init_continuous_batching, lambda: model.generate_batch([[3, 4, 5]])):
        with pytest.raises(UnsupportedModelError, match="padded batch"):
            start()


@pytest.mark.parametrize("call", ["forward", "generate", "read"])
def test_a_cache_of_another_kind_is_refused(call):
    model, cache = converted(), DynamicCache()
    with pytest.raises(InputError, match="DynamicCache, expected a TTTCache"):
        if call == "generate":
            model.generate(tokens(1, 13), **GREEDY, past_key_values=cache)
        elif call == "read":
            model.read(tokens(1, 13), past_key_values=cache)
        else:
            model(tokens(1, 13), past_key_values=cache)


def test_there_must_be_a_token_left_to_go_on_from():
    model, ids = converted(), tokens(1, 13)
    with pytest.raises(InputError, match="has read 13 tokens and generate\\(\\) was given 13"):
        model.generate(ids, **GREEDY, past_key_values=model.read(ids))
    assert model.generate(ids, **GREEDY, past_key_values=model.read(ids[:, :-1])).shape[1] > 13
    mask = torch.ones_like(ids)
    mask[:, :5] = 0
    with pytest.raises(InputError, match="has read 13 tokens"):
        cache = model.read(ids, attention_mask=mask)
        model.generate(ids, **GREEDY, attention_mask=mask, past_key_values=cache)


def test_a_generation_config_object_is_obeyed():
    model = converted()
    config = GenerationConfig(**GREEDY, cache_implementation="static", pad_token_id=0)
    with pytest.raises(UnsupportedModelError, match="static"):
        model.generate(tokens(1, 13), config)


def test_read_tells_how_many_tokens_it_has_read():
    told = []
    converted("llama", chunk_size=8).read(tokens(1, 29), progress=told.append)
    assert told == [8, 8, 8, 5]
