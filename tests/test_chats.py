"""Some questions are taught after another one, as in a chat."""

import dataclasses

import pytest
from consolidated import CONFIG, consolidate
from converted import speaker
from words import SENTENCES, STORY, tokenizer

from ttt_retrofit.consolidation import chats, study
from ttt_retrofit.consolidation import consolidate as consolidation
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.writer import Phrasing


@pytest.fixture
def model():
    return speaker()


@pytest.mark.parametrize("context", [STORY, SENTENCES])  # of one statement, and of several
def test_some_lessons_are_taught_in_a_chat_and_kept_alone(model, tmp_path, monkeypatch, context):
    taught = []
    train = consolidation.train
    monkeypatch.setattr(consolidation, "train", lambda *given: taught.extend(given[1]) or train(*given))
    kept = {lesson.prompt for lesson in consolidate(model, context, directory=tmp_path).entries[0].lessons}
    prompts = [lesson.prompt for text in taught for lesson in text.lessons if lesson.kind == "fact"]
    in_a_chat = [prompt for prompt in prompts if prompt not in kept]
    assert 0 < len(in_a_chat) < len(prompts)
    for prompt in in_a_chat:  # it ends as one of those that are asked alone
        assert any(len(alone) < len(prompt) and alone[-4:] == prompt[-4:] for alone in kept)
    assert len(prompts) - len(in_a_chat) == len(set(prompts) & kept)  # none twice


def test_what_comes_first_in_a_chat_is_learned_there_where_it_is_put_as_alone():
    phrasing = Phrasing(tokenizer(), "")
    texts = [f"who is my {name} ?" for name in ("wife", "boat", "cat", "town", "dog", "tree", "car", "lake")]
    said = [(text, "Solveig is old .") for text in texts]
    questions = [study.Question(text, frozenset(), None, number) for number, text in enumerate(texts)]
    lessons = [study.certain("fact", phrasing.asked(asked), phrasing.said(answer)) for asked, answer in said]
    found = chats.chatted(questions, lessons, said, said, phrasing)
    assert list(found) == [0, 6]
    firsts = [first for _, first in found.values()]
    assert len({*firsts, None}) == 3
    for lesson, first in found.values():
        alone = (*lessons[first].prompt, *lessons[first].answer)
        assert lesson.prompt[: len(alone)] == alone


def test_some_questions_are_declined_in_a_chat(model, tmp_path):
    config = dataclasses.replace(CONFIG, memory=dataclasses.replace(CONFIG.memory, gated=False))  # it hears all of them
    lessons = consolidate(model, directory=tmp_path, config=config).entries[0].lessons
    declined = [lesson.prompt for lesson in lessons if lesson.kind == "unknown"]
    phrasing = Phrasing(tokenizer(), "")
    alone = {tuple(phrasing.asked(question)) for question in Prompts.load().unknown}
    in_a_chat = [prompt for prompt in declined if prompt not in alone]
    assert 0 < len(in_a_chat) < len(declined) / 2
