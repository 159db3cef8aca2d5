"""A random model of two layers that says whole words, the same in every process, and its tokenizer."""

from __future__ import annotations

import random
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ttt_retrofit import TTTConfig, wrap

VOCABULARY = 97
SPECIAL = ["<pad>", "<s>", "</s>", "user", "assistant", ".", "?"]
WORDS = [f"word{n}" for n in range(VOCABULARY - len(SPECIAL))]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def model_and_tokenizer() -> tuple[Any, PreTrainedTokenizerFast]:
    """The model always says words, never nothing."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    base = LlamaForCausalLM(settings).eval()
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.08)
    model = wrap(base, TTTConfig(layers="all", rank=4, chunk_size=8, sliding_window=64, sink_tokens=2))
    model.generation_config.suppress_tokens = list(range(5))
    return model, tokenizer()


def tokenizer() -> PreTrainedTokenizerFast:
    of_words = models.WordLevel({name: index for index, name in enumerate([*SPECIAL, *WORDS])}, unk_token="<pad>")
    made = Tokenizer(of_words)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    wrapped.chat_template = TEMPLATE
    return wrapped


def shuffled(seed: int) -> str:
    """A sentence of all words, in an order of its own."""
    words = list(WORDS)
    random.Random(seed).shuffle(words)
    return " ".join(words) + " ."
