"""Convert a model, measure it, and publish it with a card that says what was measured.

    python examples/push_to_hub.py                              # writes what would be pushed, for a look at the card
    hf auth login && python examples/push_to_hub.py --repo me/smollm2-ttt

No user's data is in a converted model. A memory is a user's data: `memory.push_to_hub` makes its repository private.
"""

from pathlib import Path

import typer
from transformers import AutoTokenizer

from ttt_retrofit import TTTConfig, wrap
from ttt_retrofit.evaluation import SINKS, TTT, configure, streaming

NOVEL = Path(__file__).parents[1] / "benchmarks/data/persuasion.txt"


def main(
    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct",
    repo: str | None = None,
    directory: Path = Path("converted"),
    text: Path = NOVEL,
    tokens: int = 4096,
    window: int = 512,
    chunk: int = 256,
    private: bool = True,
) -> dict[str, float]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    config = TTTConfig(sliding_window=window, chunk_size=chunk)
    reader = wrap(model, config)

    ids = tokenizer(text.read_text(), return_tensors="pt", truncation=True, max_length=tokens).input_ids
    losses = {}
    for system in (SINKS, TTT):
        configure(reader, config, system)
        losses[f"{system}, {tokens} tokens of {text.name}"] = streaming(reader, ids).mean

    reader.save_pretrained(directory, losses=losses)
    tokenizer.save_pretrained(directory)
    print((directory / "README.md").read_text())
    if repo is not None:
        print(reader.push_to_hub(repo, losses=losses, private=private))
        tokenizer.push_to_hub(repo, private=private)
    return losses


if __name__ == "__main__":
    typer.run(main)
