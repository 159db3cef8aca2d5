"""Questions are taught after another one, as in a chat, and alone."""

import itertools

import pytest
import torch
from consolidated import consolidate
from converted import speaker
from words import QUESTIONS, SENTENCES, STORY, tokenizer

from ttt_retrofit.consolidation import consolidate as consolidation
from ttt_retrofit.consolidation.study import chats
from ttt_retrofit.consolidation.study.answers import Question
from ttt_retrofit.consolidation.study.lessons import certain
from ttt_retrofit.consolidation.train import distill
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


def test_a_question_comes_after_chats_that_do_not_tell_its_statement_and_alone():
    questions, lessons, said, formatter = questions_about(0, 0, 0, 1, 1, 2)
    general = [("what is a boat ?", "a boat .")]
    before = chats.chats(questions, said, general, [])
    assert {len(chat.turns) for chat in before} == {1, 2, 3, 4, 5}
    assert any(general[0] in chat.turns for chat in before if chat.numbers)
    for number, turns in enumerate(chats.in_chats(questions, lessons, before, formatter)):
        own = questions[number]
        assert turns[1] is turns[3] is lessons[number]
        for turn in (turns[0], turns[2]):
            assert turn.answer == lessons[number].answer
            told = [chat for chat in before if list(turn.prompt) == formatter.asked(own.text, chat.messages)]
            assert told and own.statement not in told[0].statements


def test_a_statement_that_every_chat_tells_is_asked_about_after_the_world():
    questions, lessons, said, formatter = questions_about(0, 0, 0)
    general = [("what is a boat ?", "a boat .")]
    before = chats.chats(questions, said, general, [])
    world = [chat.messages for chat in before if not chat.statements]
    for number, turns in enumerate(chats.in_chats(questions, lessons, before, formatter)):
        assert list(turns[0].prompt) in [formatter.asked(questions[number].text, told) for told in world]


def test_chats_hold_turns_that_were_declined():
    questions, _, said, _ = questions_about(0, 1, 2)
    declined = ("who is old ?", "that i do not know .")
    kinds = chats.chats(questions, said, [("what is a boat ?", "a boat .")], [declined])
    assert any(declined in chat.turns[:-1] for chat in kinds) and any(declined == chat.turns[-1] for chat in kinds)


def test_some_of_what_is_declined_comes_after_a_chat():
    questions, _, said, formatter = questions_about(0, 1, 2)
    before = chats.chats(questions, said, [("what is a boat ?", "a boat .")], [])
    asked = [f"who is Ines {'old ' * number}?" for number in range(13)]
    found = chats.partly_in_chats(dict.fromkeys(asked, (2,)), before, formatter)
    told = [numbers for numbers in found.values() if numbers != (2,)]
    assert len(found) == 13 and len(told) >= 3 and all(numbers[0] == 2 for numbers in found.values())
