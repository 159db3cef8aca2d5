"""An agent that turns its conversation into memory whenever it waits: for a tool, or for its user.

    python examples/agent.py --store users/ines

Run it again with the same store: it still knows what was said, and nothing of the conversation is in its prompt.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import typer
from transformers import AutoTokenizer

from ttt_retrofit import ChatSession, TTTConfig, wrap

# What the user says, and what the agent looks up for it.
TURNS = [
    ("The code of the garage is 7145.", "garage"),
    ("My dog is called Biscuit.", "dog food"),
    ("Is it going to rain?", "weather"),
    ("Thank you.", None),
]
QUESTION = "What is the code of the garage?"


def look_up(topic: str, seconds: float) -> str:
    """A tool that takes its time, as a search, a build or a slow interface would."""
    time.sleep(seconds)
    return f"Nothing new about {topic}."


def main(
    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct",
    store: Path = Path("users/ines"),
    tool_seconds: float = 10,
    idle_seconds: float = 600,
    max_new_tokens: int = 40,
) -> str:
    tokenizer = AutoTokenizer.from_pretrained(model)
    speaker = wrap(model, TTTConfig(learn_from="none"))
    chat = ChatSession(speaker, tokenizer, store, keep_turns=1)
    settings = {"max_new_tokens": max_new_tokens, "do_sample": False}

    with ThreadPoolExecutor(max_workers=1) as tools:
        for said, topic in TURNS if chat.memory is None else []:
            print(f"> {said}\n{chat.send(said, **settings)}")
            if topic is None:
                continue
            call = tools.submit(look_up, topic, tool_seconds)
            while not call.done():
                chat.idle(seconds=0.5)  # older turns are studied meanwhile; returns soon after the tool does
                if chat.progress is not None:
                    print(f"  waiting for the tool; consolidation: {chat.progress.stage}")
            print(f"> (tool) {call.result()}\n{chat.send(call.result(), **settings)}")

    report = chat.idle(seconds=idle_seconds)  # the user has gone; None where nothing is to be done, or not done yet
    if report is not None:
        print(report)
    print(f"{len(chat.messages)} messages are still in the prompt")
    chat.close()  # what is half done is kept for the next time

    # After a restart: a new session on the same store, and nothing in the prompt but the last turn.
    chat = ChatSession(speaker, tokenizer, store, keep_turns=1)
    answer = chat.send(QUESTION, **settings)
    print(f"> {QUESTION}\n{answer}")
    return answer


if __name__ == "__main__":
    typer.run(main)
