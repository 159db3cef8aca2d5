"""A memory of three facts on a tiny model, whose study is given: what is asked and answered of each."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from consolidated import CONFIG, FEWER
from words import tokenizer

from ttt_retrofit.consolidation.study.answers import Question
from ttt_retrofit.consolidation.study.statements import Statement
from ttt_retrofit.consolidation.study.studied import Studied, Studying
from ttt_retrofit.consolidation.writer import Answer
from ttt_retrofit.util.prompt_formatter import PromptFormatter

TALK = [
    {"role": "user", "content": "my dog is called Bolt .", "date": "2026-03-05"},
    {"role": "assistant", "content": "who lives in Antwerp ?"},
    {"role": "user", "content": "Marek lives in Antwerp ."},
    {"role": "user", "content": "the old museum is in Leeds ."},
]
BOLT, ANTWERP, LEEDS = (TALK[place]["content"] for place in (0, 2, 3))
# Of each sentence: what it is asked, and the answer; the last question is held out.
ASKED = {
    BOLT: ["what is my dog called ?", "what is the name of my dog ?", "who is called Bolt ?", "how is my dog called ?"],
    ANTWERP: ["where lives Marek ?", "who lives in Antwerp ?", "in what lives Marek ?"],
    LEEDS: ["where is the museum ?", "what is in Leeds ?", "where is the old museum ?"],
    "my dog is called Panda .": ["what is my dog called ?", "the dog is called what ?", "who is called Panda ?"],
}
VALUES = {BOLT: "bolt", ANTWERP: "antwerp", LEEDS: "leeds", "my dog is called Panda .": "panda"}
WORDS = tokenizer()
FORMATTER = PromptFormatter(WORDS, "")


def answer(text: str) -> Answer:
    ids = FORMATTER.said(text)
    indices = torch.tensor(ids, dtype=torch.int32)[:, None]
    return Answer(tuple(ids), indices, torch.zeros(len(ids), 1, dtype=torch.float16))


def study(self: Studying, own_questions: Any) -> Studied:
    """In the place of `Studying.study`."""
    statements = self.context.statements or tuple(
        Statement(turn.text, turn.said_by, message=turn.place, said_at=turn.date.isoformat())
        for turn in self.context.turns
        if turn.text in ASKED
    )
    questions = [
        Question(text, frozenset({VALUES[one.text]}), answer(one.text), number, text == ASKED[one.text][-1])
        for number, one in enumerate(statements)
        for text in ASKED[one.text]
    ]
    return Studied(statements, tuple(questions))


STUDY = Studying.study
# Gates of a random model open for nothing. One without gates is always active, and all that is declined is studied.
RECIPE = dataclasses.replace(CONFIG, memory=dataclasses.replace(CONFIG.memory, gated=False))
PROMPTS = dataclasses.replace(FEWER, general=FEWER.general[:12], unknown=FEWER.unknown[:14])
SETTINGS: dict[str, Any] = {"tokenizer": WORDS, "budget": {"steps": 2}, "prompts": PROMPTS}


def remembered(model: Any, directory: Any, monkeypatch: Any, **changes: Any) -> Any:
    """The memory of the talk; it is loaded."""
    monkeypatch.setattr(Studying, "study", study)
    config = dataclasses.replace(RECIPE, **changes)
    return model.consolidate(TALK, config=config, work_dir=directory, **SETTINGS)


def ids(memory: Any) -> dict[str, str]:
    return {fact.text: fact.id for fact in memory.facts(None)}


def tells(memory: Any, *words: str) -> list[str]:
    """The lessons of a memory that hold one of these words, in words."""
    told = (WORDS.decode([*x.prompt, *x.answer]) for entry in memory.entries for x in entry.lessons)
    return [text for text in told if any(word in text.split() for word in words)]


def made_with(model, directory):
    """The memory that a module's tests share; the model is left without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Studying, "study", STUDY)
        memory = remembered(model, directory, patch)
    model.reset_memory()
    return memory
