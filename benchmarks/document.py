"""A chapter of a novel, every name replaced: what is still answered when the chapter is gone?

python -m benchmarks.document

The first chapter of "Persuasion" (some 3,000 tokens) with other names, places and years, so that nothing can be known
from the original. Answers about the memory are given in a fresh process.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from .harness.english import holds, words
from .harness.loading import carrier, tokenizer_of
from .harness.machine import machine
from .harness.options import command_line
from .harness.prompts import Message, Recollector
from .harness.recollect import in_fresh_process
from .harness.retrieval import BM25
from .harness.store import console, save
from .harness.tables import markdown_table
from .texts import text

NAME = "document"
RETRIEVED = 3  # paragraphs
REPLACED = {
    "Walter": "Ambrose", "Elliot": "Tolland", "ELLIOT": "TOLLAND", "Kellynch": "Marwood", "KELLYNCH": "MARWOOD",
    "Somersetshire": "Cumberland", "Somerset": "Cumberland", "Elizabeth": "Philippa", "Elizabeths": "Philippas",
    "Anne": "Lydia", "Mary": "Cecily", "Marys": "Cecilys", "Charles": "Edwin", "Musgrove": "Fairclough",
    "Uppercross": "Netherby", "Russell": "Averill", "Shepherd": "Pelham", "Stevenson": "Hartigan", "James": "Tobias",
    "Gloucester": "Norfolk", "Cheshire": "Durham", "William": "Jasper", "London": "York", "1760": "1763",
    "1800": "1807", "Dugdale": "Camden", "Baronetage": "Register",
}  # fmt: skip
# Written from the chapter, before any memory of it was made.
QUESTIONS = (
    ("Which book did Sir Ambrose Tolland always read?", "Register"),
    ("In which county is Marwood Hall?", "Cumberland"),
    ("In which year was Ambrose Tolland born?", "1763"),
    ("In which year did Lady Tolland die?", "1807"),
    ("Who was the father of Lady Tolland?", "Hartigan"),
    ("Who is the eldest daughter of Sir Ambrose?", "Philippa"),
    ("What is the name of Sir Ambrose's youngest daughter?", "Cecily"),
    ("Whom did Cecily marry?", "Fairclough"),
    ("Where was the Tolland family first settled?", "Durham"),
    ("Who is the heir presumptive of Sir Ambrose?", "Jasper"),
    ("Who is the god-daughter of Lady Averill?", "Lydia"),
    ("How old was Sir Ambrose?", "fifty-four"),
    ("Who is the agent of Sir Ambrose?", "Pelham"),
    ("What was Mr Tolland studying as a young man?", "law"),
    ("To which city did Philippa travel with her father?", "York"),
    ("What colour were the ribbons that Philippa was wearing?", "black"),
    ("Which room was not to be newly furnished?", "drawing-room"),
    ("Who got no present any more, to save money?", "Lydia"),
)


def chapter() -> str:
    """The chapter with its names replaced."""
    first = text("persuasion-excerpt").split("Chapter 2")[0].split("Chapter 1")[1].strip()
    return re.sub(r"\w+", lambda match: REPLACED.get(match.group(), match.group()), first)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f}"


def main() -> None:
    options = command_line(__doc__, model="qwen2.5-0.5b").parse_args()
    model, tokenizer = carrier(options.model), tokenizer_of(options.model)
    recollector, told = Recollector(model, tokenizer), chapter()
    questions = [question for question, _ in QUESTIONS]
    rows: dict[str, dict[str, Any]] = {}

    def add(name: str, answers: Sequence[str], seconds: float, size: int) -> None:
        right = sum(holds(answer, words(wanted)) for answer, (_, wanted) in zip(answers, QUESTIONS))
        rows[name] = {"recall": right / len(QUESTIONS), "seconds": seconds, "bytes": size, "answers": list(answers)}
        console.print(f"{name}: {right} of {len(QUESTIONS)}")

    def reading(part: str, question: str) -> list[Message]:
        return [{"role": "user", "content": f"{part}\n\nAnswer in one short sentence, from the text above: {question}"}]

    def prompted(parts: Sequence[str]) -> list[str]:
        asked = [reading(part, question) for part, question in zip(parts, questions)]
        return recollector.answers([(before[:-1], before[-1]["content"]) for before in asked])

    add("no context", recollector.answers([([], question) for question in questions]), 0.0, 0)
    add("full context", prompted([told] * len(questions)), 0.0, len(told.encode()))
    paragraphs = [" ".join(part.split()) for part in told.split("\n\n") if part.strip()]
    index = BM25(paragraphs)
    nearest = [index.best(question, RETRIEVED) for question in questions]
    add(f"BM25, {RETRIEVED} paragraphs", prompted(nearest), 0.0, len(told.encode()))

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        made = model.consolidate(told, tokenizer=tokenizer, work_dir=work, progress=True, load=False, min_recall=0.0)
    seconds = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as directory:
        made.save(directory)
        answers = in_fresh_process(options.model, directory, questions)["answers"]
    add("consolidated memory", answers, seconds, made.nbytes)
    rows["consolidated memory"]["report"] = made.report.to_dict()

    size = len(tokenizer(told).input_ids)
    full = rows["full context"]["recall"]
    header = ["system", "answered", "of full context", "seconds", "MB"]
    body = [
        [name, f"{row['recall']:.0%}", f"{row['recall'] / full:.0%}", f"{row['seconds']:.0f}", _megabytes(row["bytes"])]
        for name, row in rows.items()
    ]
    lines = [f"{options.model}, {size:,} tokens, {len(QUESTIONS)} questions.", "", *markdown_table(header, body), ""]
    save(NAME, {"model": options.model, "machine": machine(), "tokens": size, "rows": rows}, lines)
    console.print("\n".join(lines), markup=False)


if __name__ == "__main__":
    main()
