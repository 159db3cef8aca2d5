"""Questions are taught after another one, as in a chat, and alone."""

import dataclasses
import itertools

import pytest
import torch
from consolidated import CONFIG, consolidate
from converted import speaker
from words import QUESTIONS, SENTENCES, STORY, tokenizer

from ttt_retrofit.consolidation import consolidate as consolidation
from ttt_retrofit.consolidation import distill
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study import chats
from ttt_retrofit.consolidation.study.answers import Question
from ttt_retrofit.consolidation.study.lessons import certain
from ttt_retrofit.util.prompt_formatter import PromptFormatter


@pytest.fixture
def model():
    return speaker()


@pytest.mark.slow
@pytest.mark.parametrize("context", [STORY, SENTENCES])  # of one statement, and of several
def test_every_question_is_taught_alone_in_one_epoch_and_in_a_chat_in_another(model, tmp_path, monkeypatch, context):
    taught = []
    train = consolidation.train
    monkeypatch.setattr(consolidation, "train", lambda *given: taught.extend(given[1]) or train(*given))
    lessons = consolidate(model, context, directory=tmp_path).entries[0].lessons
    kept = {lesson.prompt for lesson in lessons if lesson.kind == "fact"}
    count, drawn = len(taught), distill.batches(taught, 1, torch.Generator().manual_seed(0))
    epochs = []
    for _ in range(2):
        texts = [text for batch in itertools.islice(drawn, count) for text in batch]
        epochs.append([text.lesson.prompt for text in texts if text.lesson.kind == "fact"])
    alone = [set(epoch) & kept for epoch in epochs]
    assert alone[0] and alone[1]
    assert len(epochs[0]) == len(epochs[1]) == len(alone[0] | alone[1])
    for prompt in {*epochs[0], *epochs[1]} - kept:  # it ends as one of those that are asked alone
        assert any(len(one) < len(prompt) and one[-4:] == prompt[-4:] for one in kept)


def questions_about(*statements):
    """Questions, their lessons, and both in words."""
    formatter = PromptFormatter(tokenizer(), "")
    said = [(question, "Solveig is old .") for question, _ in zip(QUESTIONS, statements)]
    questions = [Question(text, frozenset(), None, about) for (text, _), about in zip(said, statements)]
    lessons = [certain("fact", formatter.asked(asked), formatter.said(answer)) for asked, answer in said]
    return questions, lessons, said, formatter


def number_of(lesson, lessons):
    return [one is lesson for one in lessons].index(True)


def test_a_question_comes_after_one_about_another_statement_and_alone():
    questions, lessons, said, formatter = questions_about(0, 0, 0, 1, 1, 2)
    found = chats.pair_in_chats(questions, lessons, said, said, formatter)
    for chat, alone in found:
        own = number_of(alone, lessons)
        before = {
            questions[other].statement
            for other in range(6)
            if list(chat.prompt) == formatter.asked_after(*said[other], questions[own].text)
        }
        assert before and questions[own].statement not in before
    assert sorted(number_of(alone, lessons) for _, alone in found) == list(range(6))


def test_a_question_without_another_one_comes_after_a_general_one_and_alone():
    questions, lessons, said, formatter = questions_about(0, 0, 0, 1)
    general = [("what is a boat ?", "a boat .")]
    *_, one, other = chats.pair_in_chats(questions, lessons, said, general, formatter)
    for chat, alone in (one, other):
        number = number_of(alone, lessons)
        assert list(chat.prompt) == formatter.asked_after(*general[0], questions[number].text)


@pytest.mark.slow
def test_some_questions_are_declined_in_a_chat(model, tmp_path):
    config = dataclasses.replace(
        CONFIG, memory=dataclasses.replace(CONFIG.memory, gated=False)
    )  # active on all of them
    lessons = consolidate(model, directory=tmp_path, config=config).entries[0].lessons
    declined = [lesson.prompt for lesson in lessons if lesson.kind == "unknown"]
    formatter = PromptFormatter(tokenizer(), "")
    alone = {tuple(formatter.asked(question)) for question in Prompts.load().unknown}
    in_a_chat = [prompt for prompt in declined if prompt not in alone]
    assert 0 < len(in_a_chat) < len(declined) / 2
