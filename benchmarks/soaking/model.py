"""A tiny model that tells whatever codes its prompt holds: what of another user were in it would be heard.

C codes, D = 2 (C + 1) model width. An embedding has a one at its code's place in the first half, and a one at the last
place of that half whatever the token is. The first layer attends to all tokens alike and writes the mean of what it
reads into the second half, which the head reads: codes that were seen are likely, others are not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from bpe import CHATML
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CODES = 16  # of one user, at most
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
WORDS = (
    "The code of my your is What Which has Tell me I do not know . ? user assistant system That don't You have told "
    "locker bicycle garage suitcase printer alarm safe gate tablet cellar"
)
SEEN, UNSEEN = 8000.0, -30.0  # of a code's logit: what its share of the prompt adds, and what it is without one


def code_of(user: int, number: int) -> str:
    return f"U{user:02d}X{number:04d}"


def tokenizer_of(users: int) -> PreTrainedTokenizerFast:
    """Of whole words: each code is one token."""
    names = [*SPECIAL, *dict.fromkeys(WORDS.split()), *_codes(users)]
    core = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[.?]"), "isolated")]
    )
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>", chat_template=CHATML
    )


def _codes(users: int) -> list[str]:
    return [code_of(user, number) for user in range(users) for number in range(CODES)]


def save(directory: Path, users: int) -> Any:
    """Write the model and its tokenizer, which is returned."""
    tokenizer, codes = tokenizer_of(users), _codes(users)
    half = len(codes) + 1
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=2 * half, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=1, num_key_value_heads=1, head_dim=2 * half, max_position_embeddings=8192,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    places = tokenizer.convert_tokens_to_ids(codes)
    with torch.no_grad():
        for layer in model.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                projection.weight.zero_()
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()  # what a memory learns is added to it
        first = model.model.layers[0].self_attn
        first.v_proj.weight[:half, :half] = torch.eye(half)
        first.o_proj.weight[half:, :half] = torch.eye(half)
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, half - 1] = 1.0
        model.lm_head.weight.zero_()
        for place, token in enumerate(places):
            model.model.embed_tokens.weight[token, place] = 1.0
            model.lm_head.weight[token, half + place] = SEEN / half**0.5
            model.lm_head.weight[token, 2 * half - 1] = UNSEEN / half**0.5
    model.generation_config.suppress_tokens = tokenizer.convert_tokens_to_ids(SPECIAL)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return tokenizer
