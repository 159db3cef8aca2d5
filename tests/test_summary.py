"""What a converted model says of itself: its parameters as PEFT counts them, and a summary in a notebook."""

import pytest
from converted import converted
from peft import LoraConfig, get_peft_model
from remembered import memory

ADDED = {
    "delta": 0,
    "lora": 4 * 4 * (32 + 48),
    "prime": 4 * 4 * (3 * 32),
    "subspace": 4 * 4 * 32,
}  # sites x rank x widths


@pytest.mark.parametrize("kind", ADDED)
def test_parameters_are_printed_as_peft_prints_them(kind, capsys):
    model = converted("llama", kind)
    model.requires_grad_(False)
    for site in model.sites:
        site.requires_grad_(True)
    total = sum(parameter.numel() for parameter in model.parameters())
    model.print_trainable_parameters()
    counted, added = capsys.readouterr().out.splitlines()
    trained = ADDED[kind] + 4
    share = 100 * trained / total
    assert counted == f"trainable params: {trained:,} || all params: {total:,} || trainable%: {share:.4f}"
    assert added == f"added to the base: {ADDED[kind]:,} in starts of fast weights || 4 log learning rates"


@pytest.mark.parametrize("saved", [None, ["ttt"]], ids=["adapter alone", "with ttt"])
def test_with_peft_around_it_both_print_the_same(saved, capsys):
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=saved, task_type="CAUSAL_LM")
    model = get_peft_model(converted("llama", "lora"), config)
    model.print_trainable_parameters()
    theirs = capsys.readouterr().out.splitlines()[0]
    model.base_model.model.print_trainable_parameters()
    ours, added = capsys.readouterr().out.splitlines()
    assert ours == theirs and f"{ADDED['lora']:,} in starts" in added


def test_repr_is_the_tree_of_modules_and_the_notebook_shows_a_summary():
    model = converted("llama")
    assert repr(model).startswith("LlamaForCausalLM(\n  (model): LlamaModel(")
    model.load_memory(memory(model, 1))
    shown = model._repr_html_()
    assert "window 16" in shown and "Memory(entries=1" in shown and "cpu" in shown and len(shown) < 2000
