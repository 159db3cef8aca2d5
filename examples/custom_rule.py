"""An inner rule of your own, in one file: the more a token surprised the model, the more it is learned from.

python examples/custom_rule.py
python examples/custom_rule.py --text book.txt --tokens 8192
"""

from pathlib import Path

import typer
from torch import Tensor
from transformers import AutoTokenizer

from ttt_retrofit import TTTConfig, register_inner_rule, wrap
from ttt_retrofit.inner import InnerRule, ReadChunk

NOVEL = Path(__file__).parents[1] / "benchmarks/data/persuasion.txt"


@register_inner_rule("surprise")
class Surprise(InnerRule):
    def gradients(self, chunk: ReadChunk) -> dict[str, dict[str, Tensor]]:
        surprise = chunk.losses.detach() * chunk.targets  # (rows, chunk - 1), nats
        weights = surprise / surprise.sum(1, keepdim=True).clamp_min(1e-6)
        return chunk.gradients_of((chunk.losses * weights).sum(1))


def main(
    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct", text: Path = NOVEL, tokens: int = 2048, window: int = 512
) -> dict[str, list[float]]:
    ids = AutoTokenizer.from_pretrained(model)(text.read_text(), return_tensors="pt").input_ids[:, :tokens]
    losses = {}
    for rule in ("gradient", "surprise"):
        reader = wrap(model, TTTConfig(sliding_window=window, chunk_size=window // 2, inner_rule=rule))
        losses[rule] = reader.read(ids).loss_by_chunk[0].tolist()
        print(f"{rule}: {', '.join(f'{loss:.3f}' for loss in losses[rule])} nats/token, by chunk")
    return losses


if __name__ == "__main__":
    typer.run(main)
