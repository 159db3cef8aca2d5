"""`model.ask`: the answer is what `generate` gives by hand after the whole text; what is asked stays as it was."""

import copy

import pytest
import torch
from converted import converted, speaker
from remembered import memory
from words import tokenizer

from ttt_retrofit import InputError, TTTCache
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.util.prompt_formatter import PromptFormatter

TOK, PLAIN = tokenizer(), tokenizer(chat=False)
TOK.add_tokens(["One", "Two", "Yes", "No"])  # any tokenizer of a real model knows them
TEXT = "Marek lives in Antwerp . Solveig plays trumpet . " * 3
QUESTION = "where lives Marek ?"
CHAT = [
    {"role": "user", "content": "Marek lives in Antwerp"},
    {"role": "assistant", "content": "the harbour of Antwerp"},
]
GREEDY = {"max_new_tokens": 12, "do_sample": False}


@pytest.fixture(scope="module")
def model():
    return speaker()  # chunks of 8: every answer below fills some


def by_hand(model, ids, begun=(), tok=TOK, **kwargs):
    """What generate says after all of it; begun: the part that another call has read."""
    whole = torch.tensor([[*begun, *ids]])
    out = model.generate(whole, attention_mask=torch.ones_like(whole), **GREEDY, **kwargs)
    return tok.decode(out[0, whole.shape[1] :], skip_special_tokens=True).strip()


def of_text(text):
    return list(TOK(text).input_ids)


def said(messages, **settings):
    return list(TOK.apply_chat_template(messages, return_dict=False, **settings))


def state(cache):
    """Everything a cache holds that is a number."""
    layers = [part for layer in cache.layers for part in layer.past()]
    tensors = [*layers, *cache.fast.tensors().values(), cache.next_index, cache.pending.ids, cache.digest]
    return (
        [tensor.clone() for tensor in tensors],
        cache.losses,
        cache.counts,
        cache.columns,
        list(cache.pending.lengths),
    )


def test_of_a_text_the_answer_is_what_generate_gives_after_all_of_it(model):
    cache = model.read(TEXT, tokenizer=TOK)
    asked = of_text(f"\n\nQuestion: {QUESTION}\nAnswer:")
    assert model.ask(cache, QUESTION, tokenizer=TOK, **GREEDY) == by_hand(model, asked, of_text(TEXT))
    assert model.ask(cache, QUESTION, tokenizer=PLAIN, **GREEDY) == by_hand(model, asked, of_text(TEXT))


@pytest.mark.parametrize("unread", [0, 1], ids=["whole turns", "an answer whose end was not read"])
def test_of_a_chat_the_question_is_the_next_turn(model, unread):
    read = said(CHAT)
    cache = model.read(torch.tensor(read[: len(read) - unread]))
    whole = said([*CHAT, {"role": "user", "content": QUESTION}], add_generation_prompt=True)
    assert model.ask(cache, QUESTION, tokenizer=TOK, **GREEDY) == by_hand(model, whole)


def test_a_system_prompt_begins_a_chat_too(model):
    messages = [{"role": "system", "content": "Marek"}, *CHAT]
    cache = model.read(torch.tensor(said(messages)))
    whole = said([*messages, {"role": "user", "content": QUESTION}], add_generation_prompt=True)
    assert model.ask(cache, QUESTION, tokenizer=TOK, **GREEDY) == by_hand(model, whole)


def test_what_is_asked_stays_as_it_was(model):
    cache = model.read(TEXT, tokenizer=TOK)
    tensors, *rest = state(cache)
    model.ask(cache, [QUESTION, "who plays trumpet ?"], tokenizer=TOK, **GREEDY)
    after, *rest_after = state(cache)
    assert rest_after == rest and all(torch.equal(a, b) for a, b in zip(tensors, after))
    assert torch.equal(model.read(torch.tensor([9, 10]), past_key_values=cache).tokens_seen, tensors[-3] + 2)


def test_several_questions_have_the_answers_they_have_alone(model):
    cache = model.read(TEXT, tokenizer=TOK)
    questions = [QUESTION, "who plays trumpet ?"]
    alone = [model.ask(cache, question, tokenizer=TOK, **GREEDY) for question in questions]
    assert model.ask(cache, questions, tokenizer=TOK, **GREEDY) == alone
    assert model.ask(cache, [], tokenizer=TOK) == []


def test_a_saved_cache_answers_as_before(model, tmp_path):
    cache = model.read(TEXT, tokenizer=TOK)
    before = model.ask(cache, QUESTION, tokenizer=TOK, **GREEDY)
    cache.save(tmp_path / "text.safetensors")
    loaded = TTTCache.load(tmp_path / "text.safetensors", model)
    assert model.ask(loaded, QUESTION, tokenizer=TOK, **GREEDY) == before


def test_padding_in_what_was_read_does_not_matter(model):
    ids = of_text(TEXT)
    padded = torch.tensor([[0, 0, 0, *ids]])
    mask = (padded != 0).long()
    cache = model.read(padded, attention_mask=mask)
    plain = model.read(torch.tensor(ids))
    assert model.ask(cache, QUESTION, tokenizer=TOK, **GREEDY) == model.ask(plain, QUESTION, tokenizer=TOK, **GREEDY)


def test_one_row_of_a_batch_is_asked_by_itself(model):
    rows = torch.tensor([of_text(TEXT), of_text(TEXT)[::-1]])
    cache = model.read(rows)
    with pytest.raises(InputError, match=r"2 rows.*batch_select_indices"):
        model.ask(cache, QUESTION, tokenizer=TOK)
    row = copy.deepcopy(cache)
    row.batch_select_indices(torch.tensor([1]))
    assert model.ask(row, QUESTION, tokenizer=TOK, **GREEDY) == model.ask(
        model.read(rows[1]), QUESTION, tokenizer=TOK, **GREEDY
    )


@pytest.mark.parametrize("tok", [TOK, PLAIN], ids=["chat", "plain"])
def test_a_memory_is_asked_as_it_was_studied(model, tok):
    remembered = memory(model, 1, 2)
    prompt = PromptFormatter(tok, Prompts.load().plain).asked(QUESTION)
    assert model.ask(remembered, QUESTION, tokenizer=tok, **GREEDY) == by_hand(model, prompt, memories=[remembered])
    assert model.memory is None


def test_without_a_chat_an_answer_ends_with_its_line(model, monkeypatch):
    cache = model.read(TEXT, tokenizer=TOK)
    decode = type(TOK).batch_decode
    monkeypatch.setattr(type(TOK), "batch_decode", lambda *args, **kw: [f"a{t}\nb" for t in decode(*args, **kw)])
    assert len(model.ask(cache, QUESTION, tokenizer=TOK, **GREEDY).split()) == 1


def test_beams_and_another_order_of_learning_are_passed_on(model):
    cache = model.read(TEXT, tokenizer=TOK)
    asked = of_text(f"\n\nQuestion: {QUESTION}\nAnswer:")
    for settings in ({"num_beams": 2}, {"learn_from": "none"}):
        given, begun = torch.tensor([asked]), copy.deepcopy(cache)
        begun.batch_repeat_interleave(settings.get("num_beams", 1))
        out = model.generate(
            given,
            attention_mask=torch.ones(1, len(of_text(TEXT)) + len(asked)),
            past_key_values=begun,
            **GREEDY,
            **settings,
        )
        expected = TOK.decode(out[0, len(asked) :], skip_special_tokens=True).strip()
        assert model.ask(cache, QUESTION, tokenizer=TOK, **GREEDY, **settings) == expected


@pytest.mark.parametrize(
    "source, question, settings, message",
    [
        ("text", QUESTION, {}, "given a str; expected what read"),
        (None, QUESTION, {}, "given a NoneType"),
        ("empty", QUESTION, {}, "has read nothing"),
        ("cache", "  ", {}, "question '  '"),
        ("cache", [QUESTION, 3], {}, "question 3"),
        ("cache", QUESTION, {"input_ids": torch.ones(1, 1)}, r"\['input_ids'\]"),
        ("cache", QUESTION, {"num_return_sequences": 2}, "num_return_sequences"),
        ("cache", QUESTION, {"tokenizer": PLAIN, "chat": True}, "no chat template"),
    ],
)
def test_what_cannot_be_asked_is_refused(model, source, question, settings, message):
    made = {"empty": model.new_cache, "cache": lambda: model.read(TEXT, tokenizer=TOK)}
    source = made[source]() if source in made else source
    with pytest.raises(InputError, match=message):
        model.ask(source, question, **{"tokenizer": TOK, **settings})


def test_a_cache_of_another_model_is_refused(model):
    cache = converted("qwen3", chunk_size=8, sliding_window=64).read(torch.tensor(of_text(TEXT)))
    with pytest.raises(InputError, match="other weights"):
        model.ask(cache, QUESTION, tokenizer=TOK)
