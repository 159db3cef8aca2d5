"""A consolidation of a few steps on a tiny model."""

import dataclasses

from words import QUESTIONS, STORY, tokenizer

from ttt_retrofit import ConsolidationConfig, MemoryConfig
from ttt_retrofit.consolidation.prompts import Prompts

CONFIG = ConsolidationConfig(
    memory=MemoryConfig(rank=2, layers=(2, 3)),
    answer_tokens=12,
    min_recall=0.0,
    max_drift=10.0,
    max_changed=1.0,
    wordings=1,
)

# Fewer reference questions than the library's: a random model takes each of them for any other.
LIBRARY = Prompts.load()
FEWER = dataclasses.replace(
    LIBRARY, general=LIBRARY.general[::4], unknown=LIBRARY.unknown[::4], unrelated=LIBRARY.unrelated[:3]
)


def consolidate(model, context=STORY, chat=True, directory=None, **changes):
    settings = {
        "questions": QUESTIONS,
        "budget": {"steps": 3},
        "config": CONFIG,
        "prompts": FEWER,
        "work_dir": directory,
        **changes,
    }
    return model.consolidate(context, tokenizer=tokenizer(chat), **settings)
