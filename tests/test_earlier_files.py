"""What earlier versions saved loads, and gives what it gave then."""

import shutil
from pathlib import Path

import pytest
import torch
from converted import speaker
from safetensors.torch import load_file
from tiny import tokens
from words import tokenizer

from ttt_retrofit import AutoModelForCausalLM, ChatSession, Memory, TTTCache
from ttt_retrofit.consolidation import prompts

EARLIER = Path(__file__).parent / "data" / "earlier"


@pytest.fixture
def files(tmp_path):
    return Path(shutil.copytree(EARLIER, tmp_path / "earlier"))


def test_a_checkpoint_and_the_conversation_that_it_had(files):
    model = AutoModelForCausalLM.from_pretrained(files / "ckpt").eval()
    cache = TTTCache.load(files / "talk.safetensors", model)
    with torch.no_grad():
        logits = model(tokens(2, 9, seed=3), past_key_values=cache).logits
    torch.testing.assert_close(logits, load_file(files / "expected.safetensors")["logits"])


def test_a_memory(files):
    model = speaker()
    model.load_memory(files / "mem")
    for given in ({}, {"memories": [Memory.load(files / "mem")]}):
        spoken = model.generate(tokens(1, 6), max_new_tokens=5, do_sample=False, **given)
        assert torch.equal(spoken, load_file(files / "expected.safetensors")["spoken"])


def test_the_store_of_a_chat(files):
    chat = ChatSession(speaker(), tokenizer(), files / "chat")
    assert [message["content"] for message in chat.messages] == ["My dog is Bolt.", "Nice."]


def test_prompts_with_those_that_are_asked_no_more(tmp_path):
    own = Path(prompts.__file__).with_name("prompts.toml").read_text()
    (tmp_path / "prompts.toml").write_text(own + '\nquote = "What of {hidden}?"\nquoted = "{statement}"\n')
    assert prompts.Prompts.load(tmp_path / "prompts.toml") == prompts.Prompts.load()
