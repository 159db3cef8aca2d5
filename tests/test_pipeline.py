"""`pipeline("text-generation")` drives a converted model, with text, batches and chat messages."""

import pytest
import torch
from converted import converted
from tiny import VOCABULARY
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TextIteratorStreamer, pipeline

CHAT = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
OPTIONS = {"max_new_tokens": 12, "do_sample": False}


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<bos>", "<eos>", "user", "assistant", *(f"w{i}" for i in range(5, VOCABULARY))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=CHAT, padding_side="left", **special)


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.fixture(scope="module")
def model():
    model = converted("llama", "lora")
    model.generation_config.eos_token_id = None  # random models stop anywhere
    return model


@pytest.fixture(scope="module")
def generator(model, tokenizer):
    return pipeline("text-generation", model=model, tokenizer=tokenizer)


def words(count: int, first: int = 5) -> str:
    return " ".join(f"w{first + 7 * i % 80}" for i in range(count))


def test_text_is_continued_as_by_generate(generator, model, tokenizer):
    text = words(21)
    found = generator(text, return_full_text=False, **OPTIONS)[0]["generated_text"]
    ids = tokenizer(text, return_tensors="pt").input_ids
    expected = model.generate(ids, **OPTIONS)[0, ids.shape[1] :]
    assert found == tokenizer.decode(expected, skip_special_tokens=True)


def test_a_padded_batch_gives_what_single_texts_give(generator):
    texts = [words(21), words(9, first=11), words(33, first=8)]
    alone = [generator(text, **OPTIONS)[0]["generated_text"] for text in texts]
    together = [out[0]["generated_text"] for out in generator(texts, batch_size=3, **OPTIONS)]
    assert together == alone


def test_chat_messages_are_answered(generator, model, tokenizer):
    messages = [
        {"role": "user", "content": words(13)},
        {"role": "assistant", "content": words(4)},
        {"role": "user", "content": words(6, first=9)},
    ]
    answer = generator(messages, **OPTIONS)[0]["generated_text"]
    assert answer[:-1] == messages and answer[-1]["role"] == "assistant"
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    expected = model.generate(**prompt, **OPTIONS)[0, prompt["input_ids"].shape[1] :]
    assert answer[-1]["content"].split() == tokenizer.decode(expected, skip_special_tokens=True).split()


def test_a_converted_directory_is_enough_for_a_pipeline(generator, model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = words(21)
    assert pipeline("text-generation", model=str(tmp_path))(text, **OPTIONS) == generator(text, **OPTIONS)


def test_text_is_read_with_the_tokenizer_beside_the_model(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again.read(words(30)).loss_by_chunk, model.read(words(30), tokenizer=tokenizer).loss_by_chunk)


def test_a_streamer_gets_every_token(generator, model, tokenizer):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    ids = tokenizer(words(21), return_tensors="pt").input_ids
    out = model.generate(ids, streamer=streamer, **OPTIONS)
    assert "".join(streamer).split() == tokenizer.decode(out[0, ids.shape[1] :]).split()
