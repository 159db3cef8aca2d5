"""What prompts begin with is read once, and no answer is another one because of it."""

import pytest
import torch
from converted import speaker
from tiny import tokens
from words import tokenizer

from ttt_retrofit.consolidation.prefix_cache import KEPT, SHORTEST, PrefixCache, worth_sharing
from ttt_retrofit.consolidation.writer import Writer

BEGINNING = tokens(1, 2 * SHORTEST, seed=1)[0].tolist()


def begun(lengths, beginning=BEGINNING):
    """Prompts that begin alike and have so many tokens of their own."""
    return [[*beginning, *tokens(1, length, seed=length + number)[0].tolist()] for number, length in enumerate(lengths)]


SOME = begun((3, 5, 9))
OTHERS = begun((4, 4, 4), BEGINNING[: SHORTEST + 4])  # that leave the beginning


@pytest.fixture(scope="module")
def model():
    return speaker().unwrap()


@pytest.fixture(scope="module")
def sliding():
    model = speaker("gemma3_text").unwrap()
    assert any(PrefixCache(model).begun([BEGINNING])[1].is_sliding)
    return model


def answers(writer, prompts):
    return [answer.ids for answer in writer.answer(prompts, 6, kept=1)]


# Of one length for a window: padding would take a place in it.
@pytest.mark.parametrize(("kind", "lengths"), [("model", (3, 5, 9)), ("sliding", (5, 5, 5))])
def test_answers_are_the_same_whatever_was_read_before(kind, lengths, request):
    model, some = request.getfixturevalue(kind), begun(lengths)
    fresh = [answers(Writer(model, tokenizer()), [prompt])[0] for prompt in (*some, *OTHERS)]
    writer = Writer(model, tokenizer())
    assert answers(writer, some) == fresh[:3]
    assert answers(writer, OTHERS) == fresh[3:], "after a longer beginning, which is cut"
    assert [answers(writer, [prompt])[0] for prompt in (*some, *OTHERS)] == fresh, "one by one"
    assert answers(writer, some) == fresh[:3]


def test_a_beginning_is_read_once(model):
    cache = PrefixCache(model)
    assert cache.begun(SOME)[0] == len(BEGINNING) == cache.tokens
    assert cache.begun(SOME)[0] == len(BEGINNING) == cache.tokens
    assert cache.begun(OTHERS)[0] == SHORTEST + 4 and cache.tokens == len(BEGINNING)
    shared, kept = cache.begun([SOME[0]])
    assert shared == len(SOME[0]) - 1 == cache.tokens, "a prompt keeps one token of its own, and what is new is read"
    assert kept.get_seq_length() == shared


def test_what_is_given_may_be_changed(model):
    cache = PrefixCache(model)
    given = cache.begun(SOME)[1]
    given.batch_repeat_interleave(3)
    shared, again = cache.begun(SOME)
    assert again.get_seq_length() == shared and again.layers[0].keys.shape[0] == 1


def test_what_left_a_window_is_given_to_no_other_prompt(sliding):
    cache = PrefixCache(sliding)
    cache.begun(SOME)
    cache.begun(OTHERS)
    assert cache.tokens == len(BEGINNING) + SHORTEST + 4, "each beginning is read anew"


def test_a_few_beginnings_are_kept_and_none_that_begins_another(model):
    cache = PrefixCache(model)
    for number in range(KEPT + 2):
        beginning = tokens(1, SHORTEST + 2, seed=50 + number)[0].tolist()
        cache.begun([beginning])
        cache.begun([[*beginning, *BEGINNING]])
    assert len(cache._kept) == KEPT and all(len(ids) > len(BEGINNING) for ids, _ in cache._kept)


def test_short_beginnings_are_not_worth_a_forward(model):
    short = [[*BEGINNING[: SHORTEST - 1], token] for token in (7, 8)]
    cache = PrefixCache(model)
    assert cache.begun(short)[0] == 0 == cache.tokens
    assert worth_sharing(short) == 0 == worth_sharing(SOME[:1]) and worth_sharing(SOME) == len(BEGINNING)


def plain(model, prompt, answer):
    """Log probabilities (N, V) of the places where an answer stands, by one forward of all."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    return logits[len(prompt) - 1 : -1].float().log_softmax(-1)


def likeliest(model, prompt, count):
    """The tokens that greedy decoding gives, one plain forward each."""
    given = []
    with torch.no_grad():
        for _ in range(count):
            given.append(int(model(input_ids=torch.tensor([[*prompt, *given]])).logits[0, -1].argmax()))
    return given


@pytest.mark.parametrize("kind", ["model", "sliding"])
def test_answers_of_somebody_else_get_the_logits_of_a_plain_forward(kind, request):
    model = request.getfixturevalue(kind)
    writer = Writer(model, tokenizer())
    prompts = [*SOME, BEGINNING[:7]]  # of other lengths, with a beginning in common and without
    own = [likeliest(model, prompt, length) for prompt, length in zip(prompts, (5, 1, 4, 2))]
    for some in (prompts, SOME, SOME[:1]):
        scored = writer.scored(some, own, kept=5)
        for prompt, given, found in zip(some, own, scored):
            values, indices = plain(model, prompt, given).topk(5)
            assert found.ids == tuple(given) and torch.equal(found.indices[:, 0], indices[:, 0].int())
            torch.testing.assert_close(found.logprobs.float(), values, atol=5e-3, rtol=1e-3)


def test_a_token_that_is_not_the_likeliest_is_certain_and_the_others_keep_their_logits(model):
    writer = Writer(model, tokenizer())
    given = likeliest(model, SOME[0], 2)
    given.append(int(plain(model, SOME[0], [*given, 0])[-1].argmin()))
    given += likeliest(model, [*SOME[0], *given], 1)
    found = writer.scored(SOME[:1], [given], kept=5)[0]
    assert found.indices[:, 0].tolist() == given
    probabilities = found.logprobs.float().exp()
    assert probabilities[2].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert all(0 < second <= first < 1 for first, second, *_ in probabilities[[0, 1, 3]].tolist())


def test_scores_do_not_depend_on_what_is_scored_beside(model):
    writer = Writer(model, tokenizer())
    given = [[*range(5, 5 + length)] for length in (1, 6, 3)]
    together = writer.scored(SOME, given, batch=2, kept=5)
    for prompt, answer, found in zip(SOME, given, together):
        alone = Writer(model, tokenizer()).scored([prompt], [answer], kept=5)[0]
        assert found.ids == alone.ids == tuple(answer) and torch.equal(found.indices[:, 0], alone.indices[:, 0])
        torch.testing.assert_close(found.logprobs, alone.logprobs, atol=5e-3, rtol=1e-3)


def test_the_likelihood_of_given_tokens_is_that_of_a_plain_forward(model):
    given = [[*range(5, 5 + length)] for length in (1, 6, 3)]
    found = Writer(model, tokenizer()).likelihoods(SOME, given, batch=2)
    for prompt, answer, logprobs in zip(SOME, given, found):
        expected = plain(model, prompt, answer).gather(1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(logprobs, expected, atol=5e-3, rtol=1e-3)


def test_no_answer_has_the_tokens_that_it_must_not_have_and_each_prompt_has_its_own(model):
    writer = Writer(model, tokenizer())
    first = [likeliest(model, prompt, 1)[0] for prompt in SOME]
    answers = writer.answer(SOME, 3, never=[[token] for token in first[:1]] + [[]] * (len(SOME) - 1))
    assert first[0] not in answers[0].ids and [a.ids[0] for a in answers[1:]] == first[1:]
    many = writer.answer(SOME * 8, 3, never=[[token] for token in first] * 8)  # rows leave as they end
    assert all(token not in answer.ids for token, answer in zip(first * 8, many))
