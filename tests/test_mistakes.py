"""What a new user writes first, and the error that says what to write instead."""

import pytest
import torch
from converted import converted, speaker
from remembered import memory
from tiny import tiny
from words import tokenizer

from ttt_retrofit import (
    AutoModelForCausalLM,
    ChatSession,
    ConfigError,
    InputError,
    Memory,
    MemoryConfig,
    TTTConfig,
    wrap,
)

TOK = tokenizer()
TEXT = "Marek lives in Antwerp ."
CHAT = [{"role": "user", "content": TEXT}]
LISTS, TENSORS = TOK(TEXT), TOK(TEXT, return_tensors="pt")

IN_PLACE_OF_IDS = [
    (TEXT, r"given a text; .*\(\*\*tokenizer\(text, return_tensors='pt'\)\)"),
    ([TEXT, TEXT], r"given a text; .*\(\*\*tokenizer\(text"),
    (TENSORS, r"given a BatchEncoding .*\(\*\*batch\)\.$"),
    (LISTS, r"given a BatchEncoding .*\(\*\*batch\)\. Make it of tensors, with return_tensors='pt'"),
    (CHAT, r"given chat messages; .*\(\*\*tokenizer\.apply_chat_template\(messages, .*return_tensors='pt'\)\)\.$"),
    ([CHAT, CHAT], "given chat messages"),
    ([3, 4], "given a list; expected a tensor of token ids"),
]


@pytest.fixture(scope="module")
def model():
    return speaker()


@pytest.mark.parametrize("given, message", IN_PLACE_OF_IDS)
def test_what_is_no_tensor_of_ids_is_answered_with_what_to_write(model, given, message):
    with pytest.raises(InputError, match=rf"^model\.generate\(\) was {message}"):
        model.generate(given)
    with pytest.raises(InputError, match=rf"^model\(\) was {message}"):
        model(given)


def test_a_batch_of_lists_that_is_unpacked_is_refused_too(model):
    with pytest.raises(InputError, match="given a list; expected a tensor"):
        model.generate(**LISTS)


@pytest.mark.parametrize(
    "given, message",
    [
        (TENSORS, r"BatchEncoding; .*model\.read\(batch\['input_ids'\]\)"),
        (CHAT, r"chat messages; .*apply_chat_template\(messages, tokenize=False\)"),
        (None, "NoneType; expected text or token ids"),
        (TEXT, "No tokenizer was found for this model, .*Pass tokenizer="),
    ],
)
def test_read_says_what_it_takes(model, given, message):
    with pytest.raises(InputError, match=message):
        model.read(given)


@pytest.mark.parametrize("name", ["read", "consolidate", "ask"])
def test_the_name_of_a_tokenizer_is_refused(model, name):
    given = [model.read(torch.tensor([5, 6, 7])), TEXT] if name == "ask" else [TEXT]
    with pytest.raises(InputError, match=r"tokenizer='gpt2' is a name.*AutoTokenizer\.from_pretrained"):
        getattr(model, name)(*given, tokenizer="gpt2")


def test_consolidating_without_a_tokenizer_says_so(model):
    with pytest.raises(InputError, match=r"No tokenizer was found for this model.*Pass tokenizer="):
        model.consolidate(TEXT)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"min_recal": 0.3}, r"no \['min_recal'\] \(did you mean 'min_recall'"),
        ({"progres": True}, r"no \['progres'\] \(did you mean 'progress'\?\)"),
        ({"rank": 4}, r"\['rank'\] belong to MemoryConfig: consolidate\(\.\.\., memory=MemoryConfig\(rank=4\)\)"),
        ({"config": MemoryConfig()}, r"config is a MemoryConfig, .*ConsolidationConfig\(memory=MemoryConfig"),
    ],
)
def test_consolidate_says_whose_argument_was_meant(model, settings, message):
    with pytest.raises(ConfigError, match=message):
        model.consolidate(TEXT, tokenizer=TOK, **settings)


def test_fields_of_the_configuration_are_no_arguments_of_wrap(base):
    with pytest.raises(ConfigError, match=r"belong to TTTConfig: wrap\(model, TTTConfig\(layers='all', rank=4\)\)"):
        wrap(tiny("llama"), layers="all", rank=4)
    with pytest.raises(ConfigError, match=r"belong to TTTConfig: ttt_config=TTTConfig\(chunk_size=4\)"):
        wrap(base, TTTConfig(), chunk_size=4)
    with pytest.raises(ConfigError, match=r"\['foo'\] are for loading by name"):
        wrap(tiny("llama"), foo=4)


@pytest.mark.parametrize("args, kwargs", [([TTTConfig()], {}), ([], {"config": TTTConfig()})])
def test_a_configuration_is_given_to_from_pretrained_by_its_name(base, args, kwargs):
    with pytest.raises(ConfigError, match=r"ttt_config=TTTConfig"):
        AutoModelForCausalLM.from_pretrained(base, *args, **kwargs)


def test_what_is_no_memory_is_refused(model):
    with pytest.raises(InputError, match=r"load_memory\(\) was given a TTTConfig"):
        model.load_memory(model.ttt)
    with pytest.raises(InputError, match=r"memories holds a str.*Memory\.load\(directory\)"):
        model.generate(**TENSORS, memories=["users/ines"])
    for given in (memory(model, 1), [memory(model, 1), "users/ines"]):
        with pytest.raises(ConfigError, match=r"Memory\.combine\(\[first, second\]\)"):
            Memory.combine(given)


def test_a_session_is_of_a_converted_model_and_a_tokenizer(model, tmp_path):
    for given in ("Qwen/Qwen3-0.6B", tiny("llama")):
        with pytest.raises(InputError, match=rf"given a {type(given).__name__}; expected a converted model"):
            ChatSession(given, TOK, tmp_path)
    with pytest.raises(InputError, match="is a name"):
        ChatSession(model, "gpt2", tmp_path)
    with pytest.raises(InputError, match=r"send\(\) was given a list.*note\(\)"):
        ChatSession(model, TOK, tmp_path).send(CHAT)


def test_configure_ttt_names_the_field_that_was_meant():
    with pytest.raises(ConfigError, match="did you mean 'sliding_window'"):
        converted("llama").configure_ttt(window=32)
