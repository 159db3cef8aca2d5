"""Tiny random models of every family: four layers, 32 wide, a vocabulary of 97."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

VOCABULARY = 97
LAYERS = 4
WINDOW = 9  # of the families that have a sliding window of their own

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEAD = {"head_dim": 8}
MIXED = {**HEAD, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}
# Fast weights need a dense MLP: experts alternate with dense layers, or stand beside a shared one.
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
SHARED_KEYS = {
    **MIXED,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
}

# What differs from SHAPE, by `model_type`. First the families that the library promises, then others that users try.
SUPPORTED: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": HEAD,
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "gemma2": {**MIXED, "query_pre_attn_scalar": 8},
    "gemma3_text": {**MIXED, "query_pre_attn_scalar": 8},
    "phi3": {},
    "olmo2": {},
    "granite": {"residual_multiplier": 0.5},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
    "cohere2": {**MIXED, "logit_scale": 1.0},
    "glm4": HEAD,
    "gpt2": {"n_inner": 48},
    "gpt_neox": {},
    "qwen3_moe": {**HEAD, **EXPERTS, "mlp_only_layers": [0, 3]},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 24},
    "gemma3": {},
    "arcee": {},
    "ctrl": {"dff": 48},
    "deepseek_v3": {
        **LATENT,
        **EXPERTS,
        "head_dim": 4,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "ernie4_5": {},
    "exaone4": MIXED,
    "gemma3n_text": {**SHARED_KEYS, "altup_num_inputs": 2, "laurel_rank": 4},
    "gemma4_text": {**SHARED_KEYS, "global_head_dim": 16},
    "glm": HEAD,
    "granitemoeshared": {"num_local_experts": 4, "shared_intermediate_size": 24},
    "helium": HEAD,
    "internlm3": HEAD,
    "iquestcoder": HEAD,
    "afmoe": {**MIXED, **EXPERTS, "num_dense_layers": 2, "num_shared_experts": 1},
    "doge": {},
    "modernbert-decoder": {"global_attn_every_n_layers": 2, "local_attention": 2 * WINDOW},
    "hunyuan_v1_dense": HEAD,
    "llama4_text": {
        **HEAD,
        "intermediate_size_mlp": 48,
        "num_local_experts": 4,
        "attention_chunk_size": 16,
        "moe_layers": [1, 3],
    },
    "longcat_flash": {
        **LATENT,
        "head_dim": 4,
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 16,
        "num_hidden_layers": 2 * LAYERS,  # each layer counts twice
        "n_routed_experts": 4,
        "zero_expert_num": 2,
        "moe_topk": 2,
    },
    "minicpm3": {**LATENT, "dim_model_base": 32},
    "nemotron": {},
    "olmo3": MIXED,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
    "persimmon": {"num_key_value_heads": 4},
    "phi": {},
    "seed_oss": HEAD,
    "starcoder2": {"residual_dropout": 0.0, "embedding_dropout": 0.0, "sliding_window": None},
}
FAMILIES = list(SUPPORTED)
UNGATED = {"gpt2", "gpt_neox", "arcee", "ctrl", "nemotron", "opt", "persimmon", "phi", "starcoder2"}

# What cannot be converted, and a word of the reason that is given.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mixtral": ({"num_local_experts": 4, "num_experts_per_tok": 2}, "model.layers.0.mlp.experts"),
    "jetmoe": ({"num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 8}, "mlp.input_linear.*prime"),
    "gpt_oss": ({**MIXED, "num_local_experts": 4, "num_experts_per_tok": 2}, "model.layers.0.mlp.experts"),
    "qwen3_next": ({**HEAD, **EXPERTS, "shared_expert_intermediate_size": 24}, "linear_attention"),
    "lfm2": ({"layer_types": ["conv", "full_attention"] * 2}, "conv"),
    "recurrent_gemma": ({}, "linear_attention"),
    "mamba": ({"state_size": 4}, "past_key_values"),
    "bloom": ({}, "position_ids"),
    "gptj": ({"n_inner": 48, "rotary_dim": 4}, "attention interface"),
    "falcon": ({"num_kv_heads": 2, "new_decoder_architecture": True}, "attention interface"),
    "stablelm": ({}, "attention interface"),
    "bert": ({"is_decoder": True}, "BertIntermediate"),
    "t5": ({"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 4, "num_heads": 4}, "position_ids"),
}


def tiny_config(family: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a tiny model; `changes` over what the family has."""
    if family == "gemma3":
        vision = {**SHAPE, "num_hidden_layers": 2, "image_size": 8, "patch_size": 4}
        text = tiny_config("gemma3_text").to_dict()
        config = transformers.AutoConfig.for_model(family, text_config=text, vision_config=vision, **changes)
        config.image_token_index, config.boi_token_index, config.eoi_token_index = 94, 95, 96
        return config
    extra = SUPPORTED[family] if family in SUPPORTED else REFUSED[family][0]
    return transformers.AutoConfig.for_model(family, **{**SHAPE, **extra, **changes})


def tiny(family: str, attention: str | None = None, **changes: Any) -> PreTrainedModel:
    """A random model, the same every time, large enough in its weights that every part of it matters."""
    config = tiny_config(family, **changes)
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto.from_config(config, attn_implementation=attention).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.08)
    return model


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """(rows, length) random ids, none of them special."""
    return torch.randint(3, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


def snapshot(model: PreTrainedModel) -> dict[str, Any]:
    """All that wrapping may touch, to compare with later."""
    hooks = [name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks]
    return {
        "class": type(model),
        "config": type(model.config),
        "settings": model.config.to_dict(),
        "attention": [
            model.config._attn_implementation,
            model.config.get_text_config(decoder=True)._attn_implementation,
        ],
        "attributes": sorted(vars(model)),
        "modules": [name for name, _ in model.named_modules()],
        "keys": list(model.state_dict()),
        "hooks": hooks,
    }
