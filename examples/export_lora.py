"""A memory as a LoRA adapter: plain PEFT says the same with it, in a process that never saw this library.

    pip install peft
    python examples/export_lora.py

Consolidates two sentences first; minutes on a CPU.
"""

import subprocess
import sys
from pathlib import Path

import typer
from safetensors.torch import load_file
from transformers import AutoTokenizer

from ttt_retrofit import TTTConfig, wrap

TOLD = "The code of the garage is 7145. My dog is called Biscuit."
QUESTION = "What is the code of the garage?"

ELSEWHERE = """
import sys, torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
base, adapter, logits, ids = *sys.argv[1:4], torch.tensor([[int(token) for token in sys.argv[4:]]])
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
with torch.no_grad():
    save_file({"logits": model(ids).logits}, logits)
assert "ttt_retrofit" not in sys.modules
"""


def main(model: str = "HuggingFaceTB/SmolLM2-135M-Instruct", adapter: Path = Path("adapter"), rank: int = 16) -> float:
    tokenizer = AutoTokenizer.from_pretrained(model)
    speaker = wrap(model, TTTConfig(learn_from="none"))
    memory = speaker.consolidate(TOLD, tokenizer=tokenizer, progress=True)
    print(memory.report)
    if not memory.entries:  # a first memory that is rejected is empty
        raise SystemExit(1)
    kept = memory.to_lora(adapter, rank=rank)
    print(f"least energy kept by the cut to rank {rank}: {min(kept.values()):.1%}")

    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).input_ids
    logits = adapter / "logits.safetensors"
    subprocess.run([sys.executable, "-c", ELSEWHERE, model, adapter, logits, *map(str, ids[0].tolist())], check=True)
    # PEFT has no gates: it says what the memory says when they are open, as if it were folded into the weights.
    merged = speaker.unwrap(merge=True)
    difference = (merged(ids).logits - load_file(logits)["logits"]).abs().max().item()
    print(f"largest difference of logits: {difference:.2g}")
    return difference


if __name__ == "__main__":
    typer.run(main)
