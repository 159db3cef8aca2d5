"""`estimate`: bytes and hours by arithmetic, in proportion to what they are made of."""

import pytest
from tiny import tiny, tiny_config
from transformers import GPT2Config, GPTNeoXConfig, Qwen3Config, Qwen3MoeConfig

from ttt_retrofit import TTTConfig
from ttt_retrofit.outer.estimate import estimate

TTT = TTTConfig(chunk_size=8, sliding_window=16, sink_tokens=2, rank=4, layers=[2, 3])
RUN = {"tokens": 10_000, "sequence_length": 64, "operations_per_second": 1e9}


def of(ttt=TTT, **changes):
    return estimate(tiny_config("llama"), ttt, **{**RUN, **changes})


def test_parameters_are_counted_without_weights():
    found, model = of(), tiny("llama")
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.trained == 2 * (32 * 48 + 1)


def test_first_order_costs_one_read_and_exact_less_than_two_in_full_precision():
    first, exact, doubled = of(gradients="first_order"), of(compute_bytes=4), of(compute_bytes=2)
    assert first.operations_per_token == of(gradients="none").operations_per_token
    assert 1.5 < exact.operations_per_token / first.operations_per_token < 2
    assert exact.operations_per_token < doubled.operations_per_token < 4 * first.operations_per_token
    assert of(gradients="truncated", truncate_chunks=8) == of()


def test_hours_are_shared_by_devices_and_memory_grows_by_states_alone():
    assert of(devices=4).hours == pytest.approx(of().hours / 4)
    short, long = (of(sequence_length=length).memory for length in (64, 256))
    assert long["states kept"] == pytest.approx(4 * short["states kept"])
    assert all(long[name] == short[name] for name in short if name != "states kept")
    assert of(sequence_length=256, gradient_checkpointing=True).memory["states kept"] < long["states kept"] / 2


def test_what_is_not_trained_is_shared_and_received_for_every_chunk():
    whole, two, four = of(devices=4), of(devices=2, shard=True), of(devices=4, shard=True)
    trained = 2 * 32 * 48 * 2  # bytes: the projections that full matrices start at
    assert four.memory["weights"] == pytest.approx((whole.memory["weights"] - trained) / 4 + trained)
    assert {n: b for n, b in four.memory.items() if n[:7] != "weights"} == {
        n: b for n, b in whole.memory.items() if n != "weights"
    }
    assert four.received_per_token == pytest.approx(two.received_per_token * (3 / 4) / (1 / 2))
    assert whole.received_per_token == 0 and four.hours == whole.hours


def test_differences_receive_more_and_double_backward_holds_more():
    first, single = (of(shard=True, devices=2, gradients=mode, compute_bytes=4) for mode in ("first_order", "exact"))
    double = of(shard=True, devices=2, compute_bytes=2)
    assert single.received_per_token == pytest.approx(2 * first.received_per_token)
    assert first.received_per_token < double.received_per_token < single.received_per_token
    assert double.memory["weights received"] > single.memory["weights received"]


def test_a_model_of_four_billion_parameters_fits_eight_accelerators():
    config = Qwen3Config(
        hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128, vocab_size=151936, tie_word_embeddings=True,
    )  # fmt: skip
    ttt = TTTConfig(fast_weights="lora", rank=64, chunk_size=1024, sliding_window=4096)
    run = {"tokens": 100_000_000, "sequence_length": 32768, "devices": 8, "gradient_checkpointing": True}
    found = estimate(config, ttt, **run, operations_per_second=5e14, compute_bytes=4, weight_bytes=4)
    assert found.parameters == pytest.approx(4.02e9, rel=0.01)
    assert 20 < found.gigabytes < 80 and 0.1 < found.hours < 100


def test_families_without_grouped_heads_are_counted():
    for config in (GPT2Config(n_layer=4, vocab_size=100), GPTNeoXConfig(num_hidden_layers=4, vocab_size=100)):
        assert estimate(config, TTT, **RUN).hours > 0


def test_a_token_passes_through_the_experts_that_are_chosen():
    def operations(**changes):
        config = Qwen3MoeConfig(
            hidden_size=32, moe_intermediate_size=16, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
            head_dim=8, vocab_size=97, **changes,
        )  # fmt: skip
        return estimate(config, TTTConfig(**{**TTT.to_dict(), "fast_weights": "prime"}), **RUN).operations_per_token

    few = operations(num_experts=8, num_experts_per_tok=2)
    assert operations(num_experts=8, num_experts_per_tok=4) > few + 4 * 2 * 3 * 32 * 16
    assert few < operations(num_experts=16, num_experts_per_tok=2) < 1.05 * few  # the router alone is larger
