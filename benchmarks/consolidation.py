"""Is a conversation still known when it is gone? Recall, inventions, drift and cost of every way to remember it.

python -m benchmarks.consolidation              # three conversations of 20 facts in 12 turns
python -m benchmarks.consolidation --quick      # one
python -m benchmarks.consolidation --plan ablation

Every answer about a memory is given in a fresh process that never saw the conversation. Rows that are measured are kept
in `results/consolidation.json`, so a run that was cut off goes on where it was.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from ttt_retrofit import ConsolidationConfig, Memory, MemoryConfig

from .baselines import LORA_STEPS, next_token_memory
from .conversations import UNSAID, Conversation, Fact, conversation, facts
from .harness.english import holds, words
from .harness.loading import carrier, tokenizer_of
from .harness.machine import machine
from .harness.options import command_line
from .harness.prompts import Message, Recollector, is_invented, told
from .harness.recollect import DRIFTS, drift_ids, in_fresh_process, loss
from .harness.retrieval import BM25
from .harness.store import Store, console, dated, days, stored_report
from .harness.tables import markdown_table

NAME = "consolidation"
FACTS, TURNS = 20, 12
SUMMARY_TOKENS = 200
RETRIEVED = 3  # messages


def draw(seed: int) -> Conversation:
    generator = random.Random(seed)
    return conversation(facts(FACTS, generator), TURNS, generator)


def recall(answers: Sequence[str], planted: Sequence[Fact]) -> float:
    return sum(holds(answer, words(fact.answer)) for answer, fact in zip(answers, planted)) / len(planted)


class Bench:
    """One model, asked about one conversation after another."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.model, self.tokenizer = carrier(name), tokenizer_of(name)
        self.recollector = Recollector(self.model, self.tokenizer)

    def prompted(self, talk: Conversation, before: Callable[[str], list[Message]]) -> dict[str, Any]:
        """Answers with some of the conversation, or none, in the prompt."""
        began = time.perf_counter()
        questions = [fact.question for fact in talk.facts]
        answers = self.recollector.answers([(before(q), q) for q in questions])
        seconds = time.perf_counter() - began
        unsaid = self.recollector.answers([(before(q), q) for q in UNSAID])
        kept = max(len("\n".join(message["content"] for message in before(q)).encode()) for q in questions)
        return {
            "recall": recall(answers, talk.facts),
            "invented": sum(map(is_invented, unsaid)) / len(unsaid),
            "drift_prose": 0.0,
            "drift_code": 0.0,
            "seconds": 0.0,
            "asking_seconds": seconds,
            "bytes": kept,  # of text; its keys and values take thousands of times as much while it is read
            "answers": answers,
        }

    def no_context(self, talk: Conversation) -> dict[str, Any]:
        return self.prompted(talk, lambda question: [])

    def full_context(self, talk: Conversation) -> dict[str, Any]:
        return self.prompted(talk, lambda question: list(talk.messages))

    def retrieval(self, talk: Conversation) -> dict[str, Any]:
        """BM25 over the user's messages."""
        said = [message["content"] for message in talk.messages if message["role"] == "user"]
        index = BM25(said)
        row = self.prompted(talk, lambda question: told(index.best(question, RETRIEVED)))
        return row | {"bytes": len("\n".join(said).encode())}

    def summary(self, talk: Conversation) -> dict[str, Any]:
        """A summary that the model writes, in the prompt."""
        began = time.perf_counter()
        ask = "Write down every fact I told you about myself, one sentence each, with all names and numbers."
        written = self.recollector.answers([(list(talk.messages), ask)], longest=SUMMARY_TOKENS)[0]
        seconds = time.perf_counter() - began
        row = self.prompted(talk, lambda question: told(written))
        return row | {"seconds": seconds, "bytes": len(written.encode())}

    def next_token_lora(self, talk: Conversation) -> dict[str, Any]:
        """The memory's own parameters without its study: next-token loss on the conversation, always speaking."""
        began = time.perf_counter()
        memory = next_token_memory(self.model, self.tokenizer, talk.messages, LORA_STEPS)
        return self.remembered(talk, memory, time.perf_counter() - began)

    def cartridge(self, talk: Conversation) -> dict[str, Any]:
        """PEFT's trained prefix, on the study of `consolidate`. It answers in this process, with no other keys."""
        from . import cartridge  # no other row needs PEFT

        made, seconds = cartridge.train(self.model, self.tokenizer, talk.messages)
        began = time.perf_counter()
        answers = made.answers([fact.question for fact in talk.facts])
        asking = time.perf_counter() - began
        drifts = {}
        for key in DRIFTS:
            ids = drift_ids(self.tokenizer, key)
            drifts[key] = made.loss(ids) / loss(self.model, ids, None) - 1
        return drifts | {
            "recall": recall(answers, talk.facts),
            "invented": sum(map(is_invented, made.answers(UNSAID))) / len(UNSAID),
            "seconds": seconds,
            "asking_seconds": asking,
            "bytes": made.nbytes,
            "answers": answers,
        }

    def memory(self, talk: Conversation, budget: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """`consolidate`, with its defaults."""
        self.model.reset_memory()
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            made = self.model.consolidate(
                list(talk.messages), tokenizer=self.tokenizer, budget=budget, work_dir=work, progress=True,
                config=ConsolidationConfig(**changes),
            )  # fmt: skip
        seconds = time.perf_counter() - began
        self.model.reset_memory()
        row = self.remembered(talk, made, seconds)
        return row | {"accepted": made.report.accepted, "report": made.report.to_dict()}

    def remembered(self, talk: Conversation, memory: Memory, seconds: float) -> dict[str, Any]:
        """Answers in a fresh process that is given the memory and nothing else."""
        with tempfile.TemporaryDirectory() as directory:
            memory.save(directory)
            asked = [fact.question for fact in talk.facts]
            found = in_fresh_process(self.name, directory, [*asked, *UNSAID], elsewhere=True)
        answers = found["answers"][: len(asked)]
        return {
            "recall": recall(answers, talk.facts),
            "invented": sum(map(is_invented, found["answers"][len(asked) :])) / len(UNSAID),
            "drift_prose": found["drift_prose"],
            "drift_code": found["drift_code"],
            "changed": found["changed"],
            "seconds": seconds,
            "asking_seconds": found["seconds"],
            "bytes": memory.nbytes,
            "answers": answers,
        }


PLANS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "table": {
        "no context": ("no_context", {}),
        "full context": ("full_context", {}),
        "BM25, 3 messages": ("retrieval", {}),
        "summary in the prompt": ("summary", {}),
        "next-token LoRA": ("next_token_lora", {}),
        "PEFT Cartridge": ("cartridge", {}),
        "consolidated memory": ("memory", {}),
    },
    # So few steps that the rows differ: with all of them, each knows every fact.
    "ablation": {
        name: ("memory", {"budget": {"steps": 50}, **settings})
        for name, settings in {
            "MLP, rank 8 (default)": {},
            "MLP, rank 4": {"memory": MemoryConfig(rank=4)},
            "MLP, rank 16": {"memory": MemoryConfig(rank=16)},
            "MLP, rank 64": {"memory": MemoryConfig(rank=64)},
            "attention, rank 8": {"memory": MemoryConfig(rank=8, target_modules=("attention",))},
            "both, rank 8": {"memory": MemoryConfig(rank=8, target_modules=("gate", "up", "down", "attention"))},
            "no gate": {"memory": MemoryConfig(gated=False)},
        }.items()
    },
}


def averaged(rows: Sequence[dict[str, Any]], full: Sequence[dict[str, Any]] | None) -> list[str]:
    """The cells of one row of the table, over all seeds."""

    def mean(key: str) -> float:
        return statistics.mean(row[key] for row in rows)

    spread = "-".join(f"{edge(row['recall'] for row in rows):.0%}" for edge in (min, max))
    relative = "-" if not full else f"{mean('recall') / statistics.mean(row['recall'] for row in full):.0%}"
    return [
        f"{mean('recall'):.0%} ({spread})", relative, f"{mean('invented'):.0%}",
        f"{mean('drift_prose'):+.2%}", f"{mean('drift_code'):+.2%}",
        f"{mean('changed'):.0%}" if all("changed" in row for row in rows) else "-", f"{mean('seconds'):.0f}",
        f"{mean('bytes') / 1e6:.2f}", days(rows),
    ]  # fmt: skip


def page(report: dict[str, Any]) -> list[str]:
    done = report["done"]
    lines = [
        f"{report['settings']['model']}, {FACTS} facts in {TURNS} turns; talks: conversations, of seeds from 0 on.",
        "",
    ]
    for plan in (name for name in PLANS if name in done):
        rows = done[plan]
        full = done.get("table", {}).get("full context", {})
        header = ["system", "talks", "recall (range)", "of full context", "invented", "prose", "code", "others changed",
                  "seconds", "MB", "measured"]  # fmt: skip
        table = [  # of rows that no plan has any more, too
            [name, str(len(by_seed)), *averaged([*by_seed.values()], [full[seed] for seed in by_seed if seed in full])]
            for name, by_seed in rows.items()
        ]
        lines += [f"### {plan}", "", *markdown_table(header, table), ""]
    return lines


def main() -> None:
    parser = command_line(__doc__, model="qwen2.5-0.5b", quick="the first seed only")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--plan", choices=list(PLANS), default="table")
    parser.add_argument("--only", nargs="+", help="rows of the plan")
    options = parser.parse_args()
    settings = vars(options) | {"facts": FACTS, "turns": TURNS}
    done = stored_report(NAME).get("done", {})
    store = Store(NAME, {"settings": settings, "machine": machine(), "done": done}, page)
    bench = Bench(options.model)
    rows = done.setdefault(options.plan, {})
    for seed in options.seeds[:1] if options.quick else options.seeds:
        talk = draw(seed)
        for name, (method, changes) in PLANS[options.plan].items():
            if str(seed) in rows.get(name, {}) or (options.only and name not in options.only):
                continue
            row = getattr(bench, method)(talk, **changes)
            console.print(f"{name}, seed {seed}: recall {row['recall']:.0%} in {row['seconds']:.0f} s")
            rows.setdefault(name, {})[str(seed)] = dated(row)
            store.save()
    store.show()


if __name__ == "__main__":
    main()
