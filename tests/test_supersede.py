"""Which earlier answers a new context changes: rules over words, no model."""

from dataclasses import replace

import pytest
import torch

from ttt_retrofit.consolidation.earlier_lessons import LessonText
from ttt_retrofit.consolidation.pieces import Statement
from ttt_retrofit.consolidation.study import Question
from ttt_retrofit.consolidation.supersede import (
    LaterStatements,
    changes,
    is_stale,
    latest,
    lost,
    of_same_speaker,
    superseded,
)
from ttt_retrofit.consolidation.writer import Answer

NO_ANSWER = Answer((), torch.zeros(0, 1, dtype=torch.int32), torch.zeros(0, 1))
SAID = ["I work as a tailor.", "My dog is called Comet.", "The exam is on Friday.", "My sister lives in Braga."]
STATEMENTS = [Statement(text, "", 0) for text in SAID]
NEW = [Question("What is my job?", frozenset({"tailor"}), NO_ANSWER, 0)]


@pytest.mark.parametrize(
    ("question", "answer", "about"),
    [
        ("What is my job?", "I am a florist.", 0),  # asked of the new context, too
        ("What is my dog called?", "My dog is called Pepper.", 1),
        ("When is the exam?", "The exam is on Monday.", 2),
        ("What is my cat called?", "My cat is called Pepper.", -1),
        ("What is my sister's name?", "My sister's name is Ines.", -1),  # another thing about her is told
        ("What is it?", "It is a lamp.", -1),
    ],
)
def test_an_earlier_question_finds_the_statement_that_answers_it_now(question, answer, about):
    assert LaterStatements(NEW, STATEMENTS).about(LessonText(question, answer)) == about


@pytest.mark.parametrize(
    ("question", "statement", "same"),
    [
        ("Where do I live?", "Zelda lives in Basel.", False),
        ("Where do I live?", "My sister lives in Basel.", False),
        ("Where do I live?", "I have moved and live in Cork.", True),
        ("Which car do I drive?", "My car is a Volvo now.", True),
        ("What is my job?", "Lorcan's job is baker.", False),
        ("What is my job?", "I work as a tailor.", True),
        ("What is my dog called?", "The dog is called Rex now.", True),
        ("When is the exam?", "The exam is on Friday.", True),
    ],
)
def test_what_others_do_changes_nothing_of_mine(question, statement, same):
    assert of_same_speaker(question, statement) == same


def test_a_statement_about_somebody_else_is_not_about_an_earlier_question_of_mine():
    told = LessonText("Where do I live?", "I live in Malmo.")
    assert LaterStatements([], [Statement("Zelda lives in Basel.", "", 0)]).about(told) == -1
    assert LaterStatements([], [Statement("I live in Basel now.", "", 0)]).about(told) == 0


def test_what_was_lost_is_what_the_new_answer_no_longer_gives():
    before = LessonText("What is my dog called?", "My dog is called Pepper.")
    assert lost(before, "My dog is called Comet.") == {"pepper"}
    assert changes(before, "My dog is called Comet.") and not changes(before, "It is Pepper.")


def test_other_wordings_of_what_changed_are_stale_and_other_things_of_that_value_are_not():
    exam, said = LessonText("When is the exam?", "The exam is on Monday."), {"exam", "frida"}
    gone = lost(exam, "The exam is on Friday.")
    assert is_stale(LessonText("What is on Monday?", "The exam is on Monday."), exam, gone, said)
    assert not is_stale(LessonText("When does the plumber come?", "The plumber comes on Monday."), exam, gone, said)
    job = LessonText("What is my job?", "I am a florist.")
    assert is_stale(LessonText("What is my profession?", "I am a florist."), job, {"florist"}, {"tailor"})


def test_a_lesson_that_gives_nothing_but_what_changed_is_stale():
    code, said = (
        LessonText("What is the code of the garage?", "The code of the garage is 7145."),
        {"cod", "garag", "9926"},
    )
    empty = LessonText("Who built the code of the code?", "The code is built by the garage.")
    assert is_stale(empty, code, {"7145"}, said)
    assert not is_stale(LessonText("What colour is the garage?", "The garage is blue."), code, {"7145"}, said)
    assert not is_stale(LessonText("What is my dog called?", "Biscuit."), code, {"7145"}, said)


def test_superseded_lessons_are_answered_anew_and_what_has_no_new_answer_is_dropped():
    told = [
        LessonText("When is the exam?", "The exam is on Monday."),
        LessonText("What is on Monday?", "The exam is on Monday."),
        LessonText("What is my job?", "I work as a tailor."),
        LessonText("What is my cat called?", "My cat is called Tofu."),
    ]
    says = {"When is the exam?": "The exam is on Friday.", "What is my job?": "I am a tailor."}

    def answered(asked):
        texts = [one.text for one in asked if one.text in says]
        return {text: (Question(text, frozenset({"x"}), NO_ANSWER, 0), says[text]) for text in texts}

    changed = superseded(told, NEW, STATEMENTS, answered)
    assert {one.question: new and new[1] for one, new in changed.items()} == {
        "When is the exam?": "The exam is on Friday.",
        "What is on Monday?": None,
        "What is my job?": "I am a tailor.",
    }


def test_of_one_conversation_what_holds_at_its_end_is_studied():
    said = ["My door code is 4431.", "I live in Graz.", "The code of the shed is 77.", "My door code is 2413."]
    studied = [  # question, answer, statement
        ("What is my door code?", "It is 4431.", 0),
        ("What is 4431?", "Your door code is 4431.", 0),
        ("Where do I live?", "You live in Graz.", 1),
        ("What is the code of the shed?", "It is 77.", 2),
        ("What is my door code?", "It is 2413.", 3),
    ]
    questions = [Question(text, frozenset({"x"}), NO_ANSWER, number) for text, _, number in studied]
    words = {id(question): answer for question, (_, answer, _) in zip(questions, studied)}
    asked_again = []

    def answered(asked):
        asked_again.extend((one.text, one.statement) for one in asked)
        return {one.text: (replace(questions[4], text=one.text), "It is 2413.") for one in asked}

    statements = [Statement(text, "", 0) for text in said]
    holding, gone = latest(questions, statements, lambda question: words[id(question)], answered)
    assert asked_again == [("What is my door code?", 3)]
    assert [(question.text, question.statement) for question in holding] == [
        ("Where do I live?", 1), ("What is the code of the shed?", 2), ("What is my door code?", 3)
    ]  # fmt: skip
    assert gone == {0}


def test_what_was_said_twice_alike_is_studied_as_it_was():
    statements = [Statement("My door code is 4431.", "", 0), Statement("My door code is 4431.", "", 1)]
    questions = [Question("What is my door code?", frozenset({"4431"}), NO_ANSWER, number) for number in (0, 1)]

    def answered(asked):
        return {one.text: (questions[1], "It is 4431.") for one in asked}

    assert latest(questions, statements, lambda question: "It is 4431.", answered) == (questions, frozenset())


def test_a_new_answer_to_a_vague_question_changes_nothing_of_what_it_does_not_speak_of():
    told = [
        LessonText("What is the password?", "The password of the printer is domino37."),
        LessonText("What is the password of the printer?", "The password of the printer is domino37."),
        LessonText("What is domino37?", "The password of the printer is domino37."),
        LessonText("What is my job?", "I am a florist."),
        LessonText("What is my profession?", "I am a florist."),
    ]
    statements = [Statement("The password of the wifi is nimbus82.", "", 0), Statement("I work as a tailor.", "", 0)]
    new = [Question(one.question, frozenset({"x"}), NO_ANSWER, at) for one, at in ((told[0], 0), (told[3], 1))]
    says = {told[0].question: "The password is nimbus82.", told[1].question: "nimbus82", told[3].question: "A tailor."}

    def answered(asked):
        return {one.text: (new[0], says[one.text]) for one in asked if one.text in says}

    changed = superseded(told, new, statements, answered)
    assert {one.question for one in changed} == {
        "What is the password?", "What is domino37?", "What is my job?", "What is my profession?"
    }  # fmt: skip
