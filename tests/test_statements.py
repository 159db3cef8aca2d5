"""What is studied: sentences that are not cut where none ends, and messages with what they need to be understood."""

import datetime
import time

import pytest
from words import tokenizer

from ttt_retrofit.consolidation.facts.listing import Listed
from ttt_retrofit.consolidation.facts.turns import turns_of
from ttt_retrofit.consolidation.study.pieces import parse_context
from ttt_retrofit.consolidation.study.sentences import sentences
from ttt_retrofit.consolidation.study.statements import TEXT, Statement, of_conversation, of_document
from ttt_retrofit.memory.facts import Fact

MONDAY = datetime.date(2026, 3, 9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("My physician is Prof. Klein.", ["My physician is Prof. Klein."]),
        ("I was born on Feb. 14, 1990 in Graz.", ["I was born on Feb. 14, 1990 in Graz."]),
        ("My aunt taught me to cook. I live in Rome.", ["My aunt taught me to cook.", "I live in Rome."]),
        ("M. Dupont habite à Lyon. Elle est là.", ["M. Dupont habite à Lyon.", "Elle est là."]),
        ("It is by J. R. R. Tolkien. My sister reads it.", ["It is by J. R. R. Tolkien.", "My sister reads it."]),
        ("I moved to Leeds. My brother stayed behind!", ["I moved to Leeds.", "My brother stayed behind!"]),
        ("Name: Ines\nAge: 4", ["Name: Ines", "Age: 4"]),
        (
            "This line is so long that it was wrapped by whoever wrote\nthe letter, and ends here.\n- A point",
            ["This line is so long that it was wrapped by whoever wrote the letter, and ends here.", "- A point"],
        ),
        ("我的姐姐叫米雷拉。“好！”他说。", ["我的姐姐叫米雷拉。", "“好！”他说。"]),
        ("私の犬はボルトです。猫はタマです。", ["私の犬はボルトです。", "猫はタマです。"]),
        ("मेरी बहन मिरेला है। वह लीड्स में है।", ["मेरी बहन मिरेला है।", "वह लीड्स में है।"]),
        ("اسم أختي ميريلا. أين تسكن؟ في ليدز.", ["اسم أختي ميريلا.", "أين تسكن؟", "في ليدز."]),
        ("Bolt.", ["Bolt."]),
        (" \n ", []),
    ],
)
def test_sentences_end_at_marks_and_lines_and_leave_no_fragment(text, expected):
    assert sentences(text) == expected


def test_a_message_of_blanks_is_read_at_once():
    began = time.perf_counter()
    sentences("a" * 60 + " " * 100_000 + "b")  # fifteen seconds if each blank is tried as the beginning of the rest
    assert time.perf_counter() - began < 2


def said(*messages):
    roles = {"U": "user", "A": "assistant", "T": "tool"}
    return turns_of([{"role": roles[who], "content": text} for who, text in messages], MONDAY)


def told(*messages, facts=()):
    """The statements of a conversation: (who, text, how much was said before), by message."""
    turns = said(*messages)
    listed = Listed(tuple(Fact.of(text, "user", str(MONDAY), [place], "x") for place, text in facts), ())
    return [(s.message, s.said_by, s.text, len(s.before)) for s in of_conversation(turns, listed)]


def test_a_message_that_left_no_fact_stands_as_it_is_and_one_that_did_by_its_facts():
    found = told(("U", "By the way: Bolt hates cats, and I moved to Graz."), ("U", "Otto plays the oboe."),
                 facts=[(0, "Bolt hates cats."), (0, "I moved to Graz.")])  # fmt: skip
    assert found == [
        (0, "User", "Bolt hates cats.", 0), (0, "User", "I moved to Graz.", 0), (1, "User", "Otto plays the oboe.", 1)
    ]  # fmt: skip


def test_a_short_reply_carries_the_question_before():
    statement = of_conversation(said(("A", "What is your dog called?"), ("U", "bolt")), None)[-1]
    assert statement.told == "Assistant: What is your dog called?\nUser: bolt"
    assert "dog" in statement.source and "bolt" in statement.source
    assert statement.messages == [
        {"role": "assistant", "content": "What is your dog called?"},
        {"role": "user", "content": "bolt"},
    ]
    assert statement.fact("x").text == "What is your dog called? – bolt"
    assert told(("A", "I see."), ("U", "sure")) == []


def test_what_says_nothing_of_its_speaker_carries_what_was_said_before_it():
    said_so = of_conversation(said(("A", "I see."), ("U", "My sister sings. She has two dogs. I like them.")), None)
    assert [statement.understood for statement in said_so] == [
        "My sister sings.", "My sister sings. – She has two dogs.", "I like them."
    ]  # fmt: skip
    found = of_conversation(
        said(("U", "Wie geht es?"), ("A", "Gut."), ("U", "Bolt bellt laut. Mein Hund ist rot.")), None
    )
    assert [len(statement.before) for statement in found] == [1, 0]


def test_what_sentences_begin_with_again_and_again_is_left_out():
    said_so = [
        ("U", "Oh, and my dog limps. In winter, I ski."),
        ("U", "Oh, and my sister sings."),
        ("U", "By the way, our cat is old."),  # as in the examples of the language
        ("U", "Last week, my aunt moved. Bolt, my dog, limps."),
    ]
    assert [text for _, _, text, _ in told(*said_so)] == [
        "My dog limps.", "In winter, I ski.", "My sister sings.", "Our cat is old.", "Last week, my aunt moved.",
        "Bolt, my dog, limps.",
    ]  # fmt: skip


@pytest.mark.parametrize("reply", ["OK.", "Noted, thanks.", "Sure, I'm happy to help with that.", "What else?"])
def test_an_assistant_that_names_nothing_new_tells_nothing(reply):
    assert told(("U", "My dog is called Bolt."), ("A", reply)) == [(0, "User", "My dog is called Bolt.", 0)]


def test_an_assistant_that_names_something_new_tells_it():
    found = told(("U", "Which vet is good for Bolt?"), ("A", "I suggest the clinic of Dr Runa Brandt."))
    assert (1, "Assistant", "I suggest the clinic of Dr Runa Brandt.", 1) in found


def test_questions_tell_nothing_unless_they_name_something():
    assert told(("U", "what is the capital of that country?")) == []
    assert told(("U", "What do vets cost?"), ("U", "Is Solveig too old for it?"))[0][2] == "Is Solveig too old for it?"


def test_a_repeated_name_is_not_new():
    assert told(("U", "My dog is called Bolt."), ("A", "How old is Bolt?")) == [
        (0, "User", "My dog is called Bolt.", 0)
    ]


def test_of_a_message_with_facts_the_sentences_that_name_something_else_stand_too():
    message = "My dog Bolt has 3 brothers. We met Biscuit in Leeds. We sang on all those days. Bolt liked it."
    found = told(("U", message), facts=[(0, "My dog is called Bolt.")])
    assert found == [
        (0, "User", "My dog is called Bolt.", 0),
        (0, "User", "My dog Bolt has 3 brothers.", 0),
        (0, "User", "We met Biscuit in Leeds.", 0),
    ]


@pytest.mark.parametrize(
    ("message", "fact", "left"),
    [
        (
            "Mi perro se llama Pelícano. Siempre vive en Leeds.",
            "Mi perro se llama Pelícano.",
            ["Siempre vive en Leeds."],
        ),
        (
            "Mein Hund heißt Pelikan. Er mag den Garten meiner Schwester.",
            "Mein Hund heißt Pelikan.",
            [],
        ),  # nouns are no names
        (
            "Mein Hund heißt Pelikan. Er wohnt bei uns in 7 Zimmern.",
            "Mein Hund heißt Pelikan.",
            ["Er wohnt bei uns in 7 Zimmern."],
        ),
        ("我的狗叫豆豆。它住在7号楼。", "我的狗叫豆豆。", ["它住在7号楼。"]),
    ],
)
def test_names_and_numbers_that_no_fact_has_are_found_in_any_language(message, fact, left):
    assert [text for _, _, text, _ in told(("U", message), facts=[(0, fact)])] == [fact, *left]


def test_what_a_tool_returned_is_told_and_days_are_those_of_the_message():
    statements = of_conversation(said(("T", '{"stop": "Mill Square"}'), ("U", "I have moved to Graz.")), None)
    assert [(s.said_by, s.said_at) for s in statements] == [("Tool", "2026-03-09"), ("User", "2026-03-09")]


def test_a_statement_is_the_same_after_a_file():
    for statement in of_conversation(said(("A", "Where?"), ("U", "In Graz, since May.")), None):
        assert Statement.from_list(statement.to_list()) == statement


def test_the_sentences_of_a_document_know_their_piece():
    statements = of_document([["The mill burnt down in 1843.", "So"], ["Orlov fled to Riga."]], MONDAY)
    assert [(s.text, s.piece, s.said_by, s.said_at) for s in statements] == [
        ("The mill burnt down in 1843.", 0, TEXT, "2026-03-09"), ("Orlov fled to Riga.", 1, TEXT, "2026-03-09"),
    ]  # fmt: skip


@pytest.mark.parametrize("context", ["Marek has the key . " * 200, "Marek has the key , " * 200])
def test_pieces_are_bounded_however_long_a_sentence_is(context):
    count = tokenizer()
    understood = parse_context(context, count, 64)
    assert all(len(count(piece).input_ids) <= 2 * 64 for piece in understood.pieces)
    assert all(s.text in understood.pieces[s.piece] for s in understood.statements)
    assert " ".join(understood.pieces).split() == context.split()
