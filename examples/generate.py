"""Wrap a model, let it read a text that is longer than its window, and go on from there.

python examples/generate.py
python examples/generate.py --model Qwen/Qwen3-0.6B --text book.txt --tokens 16384 --window 2048
"""

from pathlib import Path

import torch
import typer
from transformers import AutoTokenizer

from ttt_retrofit import TTTCache, TTTConfig, wrap
from ttt_retrofit.evaluation import streaming

NOVEL = Path(__file__).parents[1] / "benchmarks/data/persuasion.txt"


def main(
    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct",
    text: Path = NOVEL,
    tokens: int = 4096,
    window: int = 512,
    chunk: int = 256,
    state: Path = Path("book.safetensors"),
    max_new_tokens: int = 60,
) -> tuple[dict[str, float], str]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    reader = wrap(model, TTTConfig(sliding_window=window, chunk_size=chunk))
    ids = tokenizer(text.read_text(), return_tensors="pt", truncation=True, max_length=tokens).input_ids

    # Is learning worth it on this text? The same window and sinks, without updates and with.
    losses = {}
    for learn_from in ("none", "all"):
        reader.configure_ttt(learn_from=learn_from)
        losses[learn_from] = streaming(reader, ids).mean
    print(f"{losses['all']:.3f} nats/token with updates, {losses['none']:.3f} without")

    cache = reader.read(ids[:, :-1], progress=True)  # generate() needs one token that was not read yet
    cache.save(state)  # keys and values of the window, fast weights, unfinished chunk
    cache = TTTCache.load(state, reader)  # here, or in another process another day
    written = reader.generate(
        ids, attention_mask=torch.ones_like(ids), past_key_values=cache, max_new_tokens=max_new_tokens, do_sample=False
    )
    continuation = tokenizer.decode(written[0, ids.shape[1] :])
    print(continuation)
    return losses, continuation


if __name__ == "__main__":
    typer.run(main)
