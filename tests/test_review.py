"""What may become memory: a policy and a person decide on facts before anything is studied."""

import dataclasses
import datetime
import threading

import pytest
from scripted import Scripted

from ttt_retrofit import Cancelled, InputError
from ttt_retrofit.chat.person_reviewer import PersonReviewer
from ttt_retrofit.consolidation.facts.extraction import prompt
from ttt_retrofit.consolidation.facts.turns import turns_of
from ttt_retrofit.consolidation.study.review import EVERYTHING, INSTRUCTION, Review
from ttt_retrofit.consolidation.study.statements import Statement
from ttt_retrofit_cli.reviewing import one_by_one, policy_of

TURNS = turns_of(
    [{"role": "user", "content": text} for text in ("I have asthma.", "My dog is Bolt.", "Yes, in Leeds.")],
    datetime.date(2026, 3, 9),
)
STATEMENTS = tuple(
    Statement(turn.text, turn.said_by, (("User", TURNS[0].text),) if turn.place == 2 else (), 0, turn.place)
    for turn in TURNS
)
NOBODY = Scripted(lambda asked: "")


def kept(review, writer=NOBODY):
    statements, refused = review.kept(STATEMENTS, TURNS, "a" * 64, writer)
    return [statement.text for statement in statements], refused


def test_what_is_neither_refused_nor_changed_stays_as_it_was():
    assert EVERYTHING.kept(STATEMENTS, TURNS, "a" * 64, NOBODY) == (STATEMENTS, 0)
    assert Review(reviewer=lambda facts: facts).kept(STATEMENTS, TURNS, "a" * 64, NOBODY) == (STATEMENTS, 0)
    assert not NOBODY.asked


def test_a_function_tells_of_each_fact_whether_it_may_be_kept():
    assert kept(Review(lambda fact: "asthma" not in fact.text)) == (["My dog is Bolt."], 2), "one was told with another"


def test_a_message_of_which_something_is_refused_is_not_shown_before_another():
    review = Review(reviewer=lambda facts: [fact for fact in facts if fact.messages != (0,)])
    statements, refused = review.kept(STATEMENTS, TURNS, "a" * 64, NOBODY)
    assert refused == 1 and [statement.before for statement in statements] == [(), ()]


def test_a_policy_in_words_is_read_by_the_writer_and_checked_fact_by_fact():
    writer = Scripted(lambda asked: "-" if "asthma" in asked else "1")
    review = Review("Nothing about health.")
    assert kept(review, writer) == (["My dog is Bolt."], 2)
    assert writer.asked[0] == "Policy: Nothing about health.\nFact: I have asthma."
    told = []
    reader = type("Reader", (), {"name": "r", "complete": lambda self, prompts, longest, seed=0: told.extend(prompts)})
    review.instructed(reader()).complete([prompt(TURNS)], 9)
    assert told[0][0]["content"].endswith(f"{INSTRUCTION}Nothing about health.")
    assert Review().instructed(writer) is writer


def test_what_a_check_does_not_allow_is_refused():
    assert kept(Review("Keep my work."), Scripted(lambda asked: "I am not sure")) == ([], 3)


def test_a_person_sees_what_the_policy_allows_and_may_change_it():
    seen = []

    def review(facts):
        seen.extend(fact.text for fact in facts)
        return [dataclasses.replace(facts[0], text="My dog is called Bolt.")]

    assert kept(Review(lambda fact: "Bolt" in fact.text, review)) == (["My dog is called Bolt."], 2)
    assert seen == ["My dog is Bolt."]


@pytest.mark.parametrize(
    "answer",
    [
        lambda facts: None,
        lambda facts: ["My dog is Bolt."],
        lambda facts: [dataclasses.replace(facts[0], id="other")],
        lambda facts: [dataclasses.replace(facts[0], text=" ")],
    ],
)
def test_a_reviewer_returns_facts_that_it_was_given(answer):
    with pytest.raises(InputError, match="review returned"):
        kept(Review(reviewer=answer))


@pytest.mark.parametrize("given", [{"policy": ""}, {"policy": 3}, {"reviewer": "yes"}])
def test_a_policy_is_words_or_a_function_and_a_reviewer_a_function(given):
    with pytest.raises(InputError, match="expected"):
        Review(**given)


def test_a_study_under_another_policy_has_another_name():
    assert len({EVERYTHING.name, Review("a").name, Review("b").name, Review(reviewer=one_by_one).name}) == 4


def test_a_policy_is_given_in_words_or_in_a_file(tmp_path):
    (tmp_path / "policy.txt").write_text("Nothing about health.\n")
    assert policy_of(str(tmp_path / "policy.txt")) == policy_of("Nothing about health.") == "Nothing about health."
    assert policy_of(None) is None
    with pytest.raises(InputError, match="says nothing"):
        policy_of(" ")


def test_facts_wait_for_a_person_while_the_conversation_goes_on():
    waiting, facts, found = PersonReviewer(), [statement.fact("a" * 64) for statement in STATEMENTS], []

    def ask():
        try:
            found.append(waiting(facts))
        except Cancelled as error:
            found.append(error)

    def begun():
        thread = threading.Thread(target=ask)
        thread.start()
        while not waiting.facts and thread.is_alive():
            pass
        return thread

    thread = begun()
    assert waiting.facts == facts
    waiting.keep([fact for fact in facts if "Bolt" in fact.text])
    thread.join(5)
    assert [fact.text for fact in found[0]] == ["My dog is Bolt."] and waiting.facts == []
    thread = begun()
    waiting.dismiss(close=True)
    thread.join(5)
    begun().join(5)
    assert [type(one) for one in found[1:]] == [Cancelled, Cancelled]
