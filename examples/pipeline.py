"""A converted model in transformers' `pipeline`: a padded batch of prompts, then a chat.

python examples/pipeline.py
"""

import typer
from transformers import AutoTokenizer, pipeline

from ttt_retrofit import TTTConfig, wrap

PROMPTS = [
    "It was a dark night.",
    "The captain looked out of the window and saw",
    "Water boils when",
]
CHAT = [{"role": "user", "content": "What is the capital of France?"}]


def main(model: str = "HuggingFaceTB/SmolLM2-135M-Instruct", max_new_tokens: int = 30) -> tuple[list[str], str]:
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    generator = pipeline("text-generation", model=wrap(model, TTTConfig.preset("fast")), tokenizer=tokenizer)
    settings = {"max_new_tokens": max_new_tokens, "do_sample": False}

    # Each row has fast weights of its own: what it writes does not depend on its neighbours.
    texts = [out[0]["generated_text"] for out in generator(PROMPTS, batch_size=len(PROMPTS), **settings)]
    answer = generator(CHAT, **settings)[0]["generated_text"][-1]["content"]
    for text in [*texts, answer]:
        print(f"- {text}")
    return texts, answer


if __name__ == "__main__":
    typer.run(main)
