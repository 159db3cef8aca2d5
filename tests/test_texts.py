"""Texts as token ids: what a tokenizer puts before a text comes once, and nothing comes behind it."""

import pytest
import torch
from bpe import FAMILIES, family
from commands import SMALL, document
from converted import ttt
from tiny import tiny

from ttt_retrofit import InputError, wrap
from ttt_retrofit.util.prompt_formatter import PromptFormatter
from ttt_retrofit.util.texts import text_ids
from ttt_retrofit_cli.loading import token_ids

FIRST, SECOND = "the code is 7719, ", "and her name is Runa."
AROUND = pytest.mark.parametrize(("begins", "ends"), [(True, False), (True, True), (False, True), (False, False)])


@pytest.fixture(scope="module")
def model():
    return wrap(tiny("llama", vocab_size=300, max_position_embeddings=2048), ttt())


def losses(cache):
    return cache.tokens_seen.tolist(), cache.loss_by_chunk.flatten()


@AROUND
def test_a_text_in_two_parts_is_read_as_the_whole_is(begins, ends, model):
    tokenizer = family("chatml", begins, ends)
    plain = tokenizer(FIRST, add_special_tokens=False).input_ids + tokenizer(SECOND, add_special_tokens=False).input_ids
    whole, steps = losses(model.read([tokenizer.bos_token_id] * begins + plain))
    parts = model.read(SECOND, tokenizer=tokenizer, past_key_values=model.read(FIRST, tokenizer=tokenizer))
    empty = model.read(FIRST, tokenizer=tokenizer, past_key_values=model.new_cache())
    for cache in (parts, model.read(SECOND, tokenizer=tokenizer, past_key_values=empty)):
        seen, found = losses(cache)
        assert seen == whole and torch.allclose(found, steps, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_rendered_conversation_gets_no_second_beginning(name):
    tokenizer = family(name)
    asked = [{"role": "user", "content": FIRST}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    ids = text_ids(tokenizer, text)
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert ids[1:] == tokenizer(text.removeprefix("<s>"), add_special_tokens=False).input_ids or name == "mistral"
    assert text_ids(tokenizer, text, begins=False) == tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("name", FAMILIES)
@AROUND
def test_only_what_stands_behind_a_text_is_left_out(name, begins, ends):
    tokenizer = family(name, begins, ends)
    whole = tokenizer(SECOND).input_ids
    assert text_ids(tokenizer, SECOND) == (whole[:-1] if ends else whole)


def test_special_tokens_may_be_added_as_the_tokenizer_does_or_not_at_all(model):
    tokenizer = family("chatml", True, True)
    for add, count in ((True, 2), (False, 0), (None, 1)):
        begun = model.read(FIRST, tokenizer=tokenizer, add_special_tokens=add)
        plain = len(tokenizer(FIRST, add_special_tokens=False).input_ids)
        assert begun.tokens_seen.tolist() == [plain + count]
    with pytest.raises(InputError, match="is for a text"):
        model.read([3, 4, 5], add_special_tokens=False)


def test_verbs_and_plain_prompts_read_texts_alike(tmp_path):
    tokenizer = family("chatml", True, True)
    assert token_ids(tokenizer, SECOND).tolist() == [text_ids(tokenizer, SECOND)]
    tokenizer.chat_template = None
    asked = PromptFormatter(tokenizer, "Question: {question}\nAnswer:").asked("who</s> ?")
    assert asked[0] == tokenizer.bos_token_id and asked.count(tokenizer.eos_token_id) == 0

    tiny("llama", vocab_size=300).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "first").write_text(FIRST)
    (tmp_path / "second").write_text(SECOND)
    state = tmp_path / "state.safetensors"
    base = tmp_path / "base"
    plain = len(tokenizer(FIRST + SECOND, add_special_tokens=False).input_ids)
    both = document("read", base, tmp_path / "first", tmp_path / "second", *SMALL)
    document("read", base, tmp_path / "first", "--save", state, *SMALL)
    gone_on = document("read", base, tmp_path / "second", "--from", state, *SMALL)
    assert both["tokens_seen"] == gone_on["tokens_seen"] == plain + 1
