"""The study of a conversation as a whole: facts, questions, answers, what no longer holds, what is held out."""

import dataclasses

import pytest
from scripted import CONTROL, Formatter, Teacher, script
from words import tokenizer

from ttt_retrofit import ConsolidationConfig
from ttt_retrofit.consolidation.facts.languages import nearest
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study.answers import Question
from ttt_retrofit.consolidation.study.asking import Asking
from ttt_retrofit.consolidation.study.lessons import GAP, with_gap
from ttt_retrofit.consolidation.study.pieces import parse_context
from ttt_retrofit.consolidation.study.questions import ALIKE, resemblance
from ttt_retrofit.consolidation.study.statements import Statement
from ttt_retrofit.consolidation.study.studied import Studying, held_out, without_one_held_out
from ttt_retrofit.consolidation.study.unknown import unanswered

PROMPTS = Prompts.load()
TALK = [
    {"role": "user", "content": "I work at Harlow Bakery as you know."},
    {"role": "user", "content": "By the way my dog is called Bolt."},
    {"role": "user", "content": "I quit at Harlow Bakery and work for Volta Power."},
]
FACTS = {
    "as you know": "I work at Harlow Bakery.",
    "By the way": "My dog is called Bolt.",
    "I quit": "I quit at Harlow Bakery and work for Volta Power.",
}
QUESTIONS = {
    "called Bolt": "Bolt | What is my dog called?\nBolt | What is my dog called?\nRex | What is my dog called?",
    "for Volta": "Volta Power | Where do I work now?",
    "at Harlow": "Harlow Bakery | Where do I work?",
}
AGAIN = {"Bolt": "How do I call my dog?", "Volta Power": "Who do I work for?", "Harlow Bakery": "Where was I before?"}
CHANGES = {"I work at Harlow": "I quit"}
STILL = {"I quit": "Do I still work at Harlow Bakery?"}


@pytest.fixture(autouse=True)
def unranked(monkeypatch):
    """The teacher here is no model, which could tell how likely a statement is."""
    monkeypatch.setattr("ttt_retrofit.consolidation.study.ranking.gains", lambda drafts, *_: [0.0] * len(drafts))


def says(asked, told):
    if "still" in asked:
        return "No, you quit."
    if "before" in asked:
        return "You quit at Harlow Bakery."
    if "dog" in asked:
        return "Your dog is called Bolt."
    return "You work for Volta Power." if "Volta" in told else "You work at Harlow Bakery."


def studying(context, writer, teacher):
    config = ConsolidationConfig(wordings=1)
    asking = Asking(teacher, None, Formatter(tokenizer()), PROMPTS, nearest(context.words), config)
    return Studying(context, writer, asking, CONTROL)


def study(own_questions=(), talk=TALK, writer=None, **settings):
    context = parse_context(talk, tokenizer(), 256, "2026-03-09")
    writer = writer or script(FACTS, QUESTIONS, AGAIN, CHANGES, STILL)
    done = studying(context, writer, Teacher(says))
    asking = dataclasses.replace(done.asking, config=dataclasses.replace(done.asking.config, **settings))
    return dataclasses.replace(done, asking=asking).study(own_questions), writer


def test_facts_are_asked_about_and_one_that_a_later_one_changes_is_outdated():
    studied, _ = study()
    assert [statement.text for statement in studied.statements] == list(FACTS.values())
    assert studied.outdated == {0: 2}
    assert [(q.text, set(q.value), q.statement) for q in studied.asked if q.statement == 1] == [
        ("How do I call my dog?", {"bolt"}, 1)
    ]
    assert [statement.text for statement in studied.holding] == list(FACTS.values())[1:]


def test_what_was_asked_about_what_no_longer_holds_is_answered_by_what_does_and_so_is_whether_it_still_does():
    studied, writer = study()
    assert {q.statement for q in studied.questions} == {1, 2}
    of = {q.text: set(q.value) for q in studied.questions if q.statement == 2}
    assert of["Where do I work?"] == {"volta", "power"} and of["Do I still work at Harlow Bakery?"] == {"no"}
    assert f"Still? User: {FACTS['I quit']}" in writer.asked


def test_every_statement_is_asked_for_in_verification_by_a_question_that_is_not_studied():
    studied, _ = study()
    assert [q.text for q in studied.held_out] == ["What is my dog called?", "Where do I work now?"]
    for held in studied.held_out:
        same = [q.text for q in studied.asked if q.statement == held.statement]
        assert same and all(resemblance(held.text, text) <= ALIKE for text in same)


def test_a_question_for_verification_that_is_studied_already_is_tried_again_and_then_left():
    writer = script(FACTS, QUESTIONS, {**AGAIN, "Bolt": "What is my dog called?"}, CHANGES)
    studied, _ = study(writer=writer)
    assert [q.statement for q in studied.held_out] == [2]
    assert [q.text for q in studied.asked if q.statement == 1] == ["What is my dog called?"]
    asked = [f"User: {fact}" for fact in FACTS.values()]
    assert [writer.asked.count(one) for one in asked] == [1, 2, 1], "and not of what no longer holds"


def test_what_no_writer_finds_changed_holds():
    studied, _ = study(writer=script(FACTS, QUESTIONS, AGAIN))
    assert studied.outdated == {} and studied.holding == [*studied.statements]


SAID = [Statement(text, "User") for text in ("i sing", "i dance", "i swim", "i walk")]


def question(text, statement=0, value="x", held=False):
    return Question(text, frozenset({value}), None, statement, held)


def held(*questions):
    return [q.text for q in held_out(questions, SAID) if q.held_out]


def test_one_question_of_each_statement_is_held_out_the_first_that_may_be_and_is_worded_as_no_other():
    free = question("Where does she live?", held=True), question("Who is in Braga?", held=True)
    assert held(*free, question("In which town is her flat?")) == ["Where does she live?"]
    assert held(*free, question("Where does she live ?")) == ["Who is in Braga?"]
    assert held(*free, question("Which code?", 1), question("The code?", 1, held=True)) == [free[0].text, "The code?"]
    assert held(*free) == [free[0].text]
    assert held(free[0]) == [], "the only one is studied"


def test_of_several_studied_questions_for_the_same_the_last_can_be_spared():
    asked = question("Where?"), question("What town?"), question("Who is there?", value="y")
    assert held(*asked) == ["What town?"]
    assert held(*asked[1:]) == [], "both are needed"
    assert [q.held_out for q in held_out([asked[0], dataclasses.replace(asked[0], held_out=True)], SAID)] == [
        False,
        False,
    ]


def test_statements_that_hold_and_have_no_question_to_hold_out_are_named():
    asked = [question("Where?", held=True), question("What town?"), question("Who?", 1), question("What?", 2)]
    assert without_one_held_out(asked, SAID, {2: 3}) == [1, 3]


def test_own_questions_take_the_place_of_all_that_a_writer_writes():
    studied, writer = study(["What is my dog called?", "Where do I work?", "Who am I?"])
    assert writer.asked == [] and not studied.held_out and studied.dropped == 0
    found = {q.text: set(q.value) for q in studied.questions}
    assert found["What is my dog called?"] == {"bolt"} and found["Where do I work?"] == {"volta", "power"}


def test_what_failed_a_check_is_counted():
    lines = {**FACTS, "By the way": "My cat is called Rex."}
    studied, _ = study(writer=script(lines, QUESTIONS))
    assert studied.dropped == 1
    assert [s.text for s in studied.statements][1] == "By the way my dog is called Bolt.", "it stands as it was said"


def test_of_too_many_statements_those_with_names_and_numbers_are_studied_in_their_order():
    said = "i like tea and toast.", "My dog is Bolt.", "I sing a lot.", "We live in Graz."
    talk = [{"role": "user", "content": text} for text in said]
    studied, _ = study(talk=talk, writer=script({}, {}), most_statements=2)
    assert [s.text for s in studied.statements] == ["My dog is Bolt.", "We live in Graz."]


def test_a_document_s_sentences_are_the_statements_and_no_facts_are_listed():
    writer = script({}, {"1843": "1843 | When did the old mill burn down?"}, {"1843": "In which year was the fire?"})
    text = "The old mill burnt down in 1843. Orlov fled to Riga with his brother."
    context = parse_context(text, tokenizer(), 256)
    studied = studying(context, writer, Teacher(lambda asked, told: "In 1843.")).study(())
    assert [s.text for s in studied.statements] == [
        "The old mill burnt down in 1843.",
        "Orlov fled to Riga with his brother.",
    ]
    assert [q.text for q in studied.asked] == ["In which year was the fire?"]
    assert [q.text for q in studied.held_out] == ["When did the old mill burn down?"]
    assert not any("[1]" in asked for asked in writer.asked)


@pytest.mark.parametrize(
    ("told", "declined", "known"),
    [
        ("My favourite dish is borscht.", "What is my favourite film?", "Which dish do I like?"),
        ("The number of my flight is YL583.", "What is my account number?", "What is my flight number?"),
        ("My landlady works at the bank.", "Who is my dentist?", "Which bank do I use?"),
        ("", "Who is my dentist?", None),
    ],
)
def test_what_nothing_was_told_about_is_declined_though_it_shares_common_words(told, declined, known):
    stock = [*PROMPTS.unknown, "Which dish do I like?"]
    asked = unanswered(stock, told)
    assert declined in asked and known not in asked
    assert len(asked) > len(stock) / 2


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("My dog Bolt hates cats.", f"My dog {GAP} hates cats."),
        ("My dog hates cats.", f"My dog hates {GAP}."),
        ("It leaves at 7:40 sharp.", f"It leaves at {GAP} sharp."),
        ("…", "…"),
    ],
)
def test_a_statement_that_nothing_asks_about_asks_for_itself(text, asked):
    assert with_gap(text) == asked


def test_the_study_of_the_same_conversation_is_the_same():
    one, other = (study()[0] for _ in range(2))
    assert dataclasses.asdict(one) == dataclasses.asdict(other)
