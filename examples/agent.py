"""An agent that turns its conversation into memory whenever it waits: for a tool, or for its user.

    python examples/agent.py --store users/ines

Run it again with the same store: it still knows what was said, though only the last turn is in its prompt.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import typer
from transformers import AutoTokenizer

from ttt_retrofit import ChatSession, TTTConfig, wrap

TURNS = {  # what the user says, and what the agent finds when it looks it up
    "The code of the garage is 7145. When does the garage close?": "The garage closes at 10 pm.",
    "My dog is called Biscuit. Where can I buy food for him?": "The shop in Mill Street sells dog food.",
    "Is it going to rain?": "It stays dry until the evening.",
    "Thank you. Good night.": "Nothing.",
}
QUESTION = "What is the code of the garage?"


def look_up(said: str, seconds: float) -> str:
    """A tool that takes its time, as a search, a build or a slow interface would."""
    time.sleep(seconds)
    return TURNS[said]


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
    known = chat.memory is not None or chat.messages  # from an earlier run
    settings = {"max_new_tokens": max_new_tokens, "do_sample": False}

    with ThreadPoolExecutor(max_workers=1) as tools:
        for said in [] if known else TURNS:
            call = tools.submit(look_up, said, tool_seconds)
            while not call.done():
                chat.idle(seconds=0.5)  # older turns are studied meanwhile; an answer never waits for it
            if chat.progress is not None:
                print(f"(while the tool ran: {chat.progress.stage}, {chat.progress.done} of {chat.progress.total})")
            print(f"> {said}\n{chat.send(f'{said} (Found: {call.result()})', **settings)}")

    print("(the user has gone)")
    # None: nothing is left to do, or it is not done yet.
    while (report := chat.idle(seconds=idle_seconds)) is not None:
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
