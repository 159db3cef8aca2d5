"""Needles in haystacks: RULER's single needle 1 to 3 and multikey 1 and 2, and passkey, at depths that take turns.

RULER's (Hsieh et al. 2024, arXiv 2404.06654) are samples of lm-evaluation-harness, to the letter (`ruler.py`), picked
by where their needle lies. Passkey is that of LongLoRA, in the noise of single needle 1. Prompts are cut in two where
the question begins.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import ruler

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
PASSKEY = "The pass key is {value}. Remember it. {value} is the pass key."
PASSKEY_BEFORE = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you about "
    "the important information there.\n"
)
PASSKEY_QUESTION = "\nWhat is the pass key? The pass key is"
PASSKEYS = 500  # as many as lm-eval makes of its tasks
TASKS = ("passkey", *ruler.TASKS)
INSIDE = "inside"
STRATA = 5  # of depth outside the window


@dataclass(frozen=True)
class Needle:
    """One prompt: what is read, what is asked afterwards, and what a right answer holds."""

    task: str
    context: str
    question: str
    value: str
    depth: float  # where the needle begins, 0 at the beginning of the context, 1 at its end


def of_task(task: str, model: str, tokens: int, count: Callable[[str], int]) -> list[Needle]:
    """All needles of a task in contexts of at most `tokens` tokens, room for RULER's answer included."""
    if task in ruler.TASKS:
        return [from_sample(task, sample) for sample in ruler.samples(model, task, tokens)]
    generator = random.Random(task)
    lines = (tokens - ruler.ANSWER_TOKENS - count(passkey("50000", 0, 0).context)) // count(NOISE + "\n")
    return [
        passkey(str(generator.randint(1, 50_000)), lines, generator.randint(0, lines)) for _ in range(PASSKEYS)
    ]  # fmt: skip


def from_sample(task: str, sample: ruler.Sample) -> Needle:
    """lm-eval's sample, cut before its last line."""
    context, _, question = sample["input"].rpartition("\n")
    (value,) = sample["outputs"]
    begins = context.rindex("One of the special magic", 0, context.index(value))
    asked = f"\n{question} {sample['gen_prefix']}"
    return Needle(task, context, asked, value, begins / len(context))


def passkey(value: str, lines: int, place: int) -> Needle:
    noise = [NOISE] * lines
    noise.insert(place, PASSKEY.format(value=value))
    context = PASSKEY_BEFORE + "\n".join(noise)
    return Needle("passkey", context, PASSKEY_QUESTION, value, context.index("The pass key is") / len(context))


def stratified(
    needles: Iterable[Needle], window: int, count: Callable[[str], int], wanted: int
) -> list[tuple[str, Needle]]:
    """The first `wanted` needles such that strata take turns, five of depth and one inside the window; with these.

    Raises
    ------
    ValueError
        When there are not enough of a stratum.
    """
    found: dict[str, list[Needle]] = {name: [] for name in (*map(str, range(STRATA)), INSIDE)}
    size = 0
    for needle in needles:
        size = size or count(needle.context)  # those of one task are equally long but for a few tokens
        if (name := stratum(needle.depth, size, window)) is not None:
            found[name].append(needle)
    per_stratum = -(-wanted // len(found))
    for name, of_it in found.items():
        if len(of_it) < per_stratum:
            raise ValueError(
                f"{wanted} samples need {per_stratum} needles of stratum {name}, and there are {len(of_it)}. Ask for "
                f"at most {len(of_it) * len(found)} samples, or for another window."
            )
    return [(name, found[name][turn]) for turn in range(per_stratum) for name in found][:wanted]


def stratum(depth: float, tokens: int, window: int) -> str | None:
    """Which fifth of what is surely outside the window, or surely inside; None between the two."""
    if (1 - depth) * tokens <= window / 2:
        return INSIDE
    outside = 1 - 1.5 * window / tokens
    return str(int(STRATA * depth / outside)) if depth < outside else None


def found(needle: Needle, answer: str) -> bool:
    """RULER's score: the value is somewhere in the answer."""
    return needle.value.lower() in answer.lower()
