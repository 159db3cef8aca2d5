"""A memory as a guest in the chat: does it answer personal questions in any turn, and leave everything else alone?

python -m benchmarks.in_a_chat                 # three conversations
python -m benchmarks.in_a_chat --quick         # one, 40 requests

Of each memory: personal questions as the first to the sixth turn of a chat, and general requests after none to three
personal turns, compared with the answers of the base to the very same messages. Memories that are made are kept in
`--work`, so a run that was cut off goes on where it was.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ttt_retrofit import Memory
from ttt_retrofit.util.messages import exchanges

from .consolidation import draw
from .conversations import Conversation
from .harness.english import holds, words
from .harness.loading import carrier, tokenizer_of
from .harness.options import command_line, stored_as
from .harness.prompts import Message, Recollector
from .harness.recollect import GENERAL, GENERAL_TOKENS
from .harness.store import Store, dated
from .harness.tables import markdown_table

NAME = "in_a_chat"
TURNS = 6  # of a chat about the facts of one conversation
BEFORE = range(4)  # personal turns before a general request
# How a memory declines, and how models do.
REFUSES = ("not told me", "n't told me", "don't know", "do not know")


def by_turn(remembering: Recollector, talk: Conversation) -> list[float]:
    """Recall of questions asked as the first, second, … turn of a chat, each about another fact."""
    shares = []
    histories: list[list[Message]] = [[] for _ in talk.facts]
    for turn in range(TURNS):
        asked = [talk.facts[(number + turn) % len(talk.facts)] for number in range(len(talk.facts))]
        answers = remembering.answers([(before, fact.question) for before, fact in zip(histories, asked)])
        shares.append(sum(holds(a, words(f.answer)) for a, f in zip(answers, asked)) / len(asked))
        for before, fact, answer in zip(histories, asked, answers):
            before += exchanges([(fact.question, answer)])
    return shares


def after_personal(
    base: Recollector, remembering: Recollector, talk: Conversation, general: Sequence[str], turns: int
) -> dict[str, float]:
    """General requests after so many personal turns: the share answered otherwise than by the base, and refused."""
    histories: list[list[Message]] = [[] for _ in general]
    for turn in range(turns):
        asked = [talk.facts[(3 * number + turn) % len(talk.facts)].question for number in range(len(general))]
        answers = remembering.answers(list(zip(histories, asked)))
        for before, question, answer in zip(histories, asked, answers):
            before += exchanges([(question, answer)])
    prompts = list(zip(histories, general))
    pairs = list(zip(*(one.answers(prompts, GENERAL_TOKENS) for one in (base, remembering))))
    changed = [with_it for without, with_it in pairs if with_it != without]
    refused = [answer for answer in changed if any(said in answer.lower() for said in REFUSES)]
    return {"changed": len(changed) / len(general), "refused": len(refused) / len(general)}


def measure(name: str, seed: int, requests: int, work: Path) -> dict[str, Any]:
    model, tokenizer, talk = carrier(name), tokenizer_of(name), draw(seed)
    began = time.perf_counter()
    memory: Memory = model.consolidate(talk.messages, tokenizer=tokenizer, work_dir=work / str(seed), load=False)
    seconds = time.perf_counter() - began
    base, remembering = Recollector(model, tokenizer), Recollector(model, tokenizer, memory)
    general = GENERAL.read_text().splitlines()[:requests]
    assert memory.report is not None
    return dated(
        {
            "accepted": memory.report.accepted,
            "reported_recall": memory.report.recall,
            "seconds": seconds,
            "by_turn": by_turn(remembering, talk),
            "after": [after_personal(base, remembering, talk, general, turns) for turns in BEFORE],
        }
    )


def page(report: dict[str, Any]) -> list[str]:
    settings, rows = report["settings"], list(report["rows"].values())

    def mean(of: Callable[[dict[str, Any]], float]) -> str:
        return f"{statistics.fmean(map(of, rows)):.0%}"

    recalled = ["recall", *(mean(lambda row, turn=turn: row["by_turn"][turn]) for turn in range(TURNS))]
    kinds = [("answered otherwise", "changed"), ("refused", "refused")]
    body = [[title, *(mean(lambda row, n=n, key=key: row["after"][n][key]) for n in BEFORE)] for title, key in kinds]
    return [
        f"{settings['model']}, memories of {len(rows)} conversations, {settings['requests']} general requests.",
        "",
        *markdown_table(["turn", *map(str, range(1, TURNS + 1))], [recalled]),
        "",
        *markdown_table(["general requests after so many personal turns", *map(str, BEFORE)], body),
        "",
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = command_line(__doc__, model="qwen2.5-0.5b", quick="one conversation, 40 requests")
    parser.add_argument("--talks", type=int, default=3)
    parser.add_argument("--requests", type=int, default=80)
    parser.add_argument("--work", type=Path, default=Path("in_a_chat_work"))
    options = parser.parse_args(arguments)
    talks, requests = (1, 40) if options.quick else (options.talks, options.requests)
    settings = {"model": options.model, "requests": requests}
    store = Store.of_machine(stored_as(NAME, quick=options.quick), settings, page)
    measures = {
        f"talk {seed}": lambda seed=seed: measure(options.model, seed, requests, options.work) for seed in range(talks)
    }
    store.fill(measures)
    store.show()


if __name__ == "__main__":
    main()
