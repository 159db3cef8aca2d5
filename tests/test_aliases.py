"""A user may ask for Solveig or for "my wife": the study asks for both."""

import pytest

from ttt_retrofit.consolidation.aliases import by_user, pairs, renamed, resolved, unchanged
from ttt_retrofit.consolidation.prompts import Prompts

NAMED = Prompts.load().named


@pytest.mark.parametrize(
    ("said", "pair"),
    [
        ("My aunt Petra grows pumpkins.", ("my aunt", "Petra")),
        ("Our plumber, Dorota, comes on Monday.", ("our plumber", "Dorota")),
        ("My best friend is called Ewan.", ("my best friend", "Ewan")),
        ("Our cat is a tabby named Olive.", ("our cat", "Olive")),
        ("My tutor's name is Mr Bell.", ("my tutor", "Mr Bell")),
        ("The captain of our club is Ida.", ("the captain of our club", "Ida")),
    ],
)
def test_a_relation_and_its_name_are_found(said, pair):
    assert pairs([said], NAMED) == [pair]


@pytest.mark.parametrize(
    "said",
    [
        "My train to Leeds is late.",
        "The name of my dog is Bolt.",
        "The roof of our old house is Victorian.",
        "I live in Graz.",
    ],
)
def test_what_only_stands_beside_a_name_is_no_relation(said):
    assert pairs([said], NAMED) == []


def test_a_question_is_asked_by_the_other_name():
    known = [("my aunt", "Petra")]
    assert renamed("What does Petra grow?", known) == ["What does my aunt grow?"]
    assert renamed("What does my aunt grow?", known) == ["What does Petra grow?"]
    assert renamed("What does my aunt Petra grow?", known) == ["What does my aunt grow?", "What does Petra grow?"]


@pytest.mark.parametrize(
    ("question", "before", "asked"),
    [
        ("Which instrument does he play?", "We have a son. Otto hates figs.", ["Which instrument does Otto play?"]),
        ("What is her job?", "My mother lives in Cork.", ["What is my mother's job?"]),
        ("What is its number?", "I rent a boat.", ["What is the number?", "What is my number?"]),
        ("What do they eat?", "I keep hens.", ["What do they eat?"]),
        ("What is my job?", "My mother lives in Cork.", ["What is my job?"]),
    ],
)
def test_a_pronoun_is_replaced_by_what_was_spoken_of(question, before, asked):
    assert resolved(question, before) == asked


def test_what_the_user_was_told_of_himself_names_his_own():
    assert pairs([by_user("Your aunt is Petra."), by_user("The coach of your team is Lev.")], NAMED) == [
        ("my aunt", "Petra"),
        ("the coach of my team", "Lev"),
    ]


def test_a_relation_that_goes_with_another_name_now_is_not_taken_from_before():
    before = [("my coach", "Lev"), ("my aunt", "Petra")]
    assert unchanged(before, [("my coach", "Ida")]) == [("my aunt", "Petra")]
