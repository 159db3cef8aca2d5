"""A base in 4 bits (bitsandbytes) that learns while it reads: its fast weights stay in float32 beside it.

pip install -e '.[quant]'
python examples/quantized.py
"""

from pathlib import Path

import torch
import typer
from transformers import AutoTokenizer, BitsAndBytesConfig

from ttt_retrofit import TTTConfig, wrap
from ttt_retrofit.evaluation import streaming

NOVEL = Path(__file__).parents[1] / "benchmarks/data/persuasion.txt"


def main(
    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct",
    text: Path = NOVEL,
    tokens: int = 2048,
    window: int = 512,
    chunk: int = 256,
    rank: int = 64,
) -> dict[str, dict[str, float]]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(text.read_text(), return_tensors="pt", truncation=True, max_length=tokens).input_ids
    # Low-rank fast weights keep a sequence's state as small as the base now is.
    reads = TTTConfig(fast_weights="lora", rank=rank, sliding_window=window, chunk_size=chunk)
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)

    found = {}
    for bits, quantization in ((32, None), (4, four)):
        reader = wrap(model, reads, dtype=torch.float32, quantization_config=quantization)
        learning = streaming(reader, ids)
        reader.configure_ttt(learn_from="none")
        found[f"{bits} bits"] = {
            "nats/token": learning.mean,
            "without updates": streaming(reader, ids).mean,
            "weights, MB": reader.get_memory_footprint() / 1e6,
            "state, MB": learning.state_bytes / 1e6,
        }
        print(f"{bits} bits:", ", ".join(f"{name} {value:.3f}" for name, value in found[f"{bits} bits"].items()))
    return found


if __name__ == "__main__":
    typer.run(main)
