"""What a candidate is asked, how its answers are judged, and what it must show to be accepted."""

import re

import pytest
from scripted import CONTROL, Formatter, Teacher

from ttt_retrofit import ConsolidationConfig
from ttt_retrofit.consolidation.study.answers import Question
from ttt_retrofit.consolidation.study.statements import TEXT, Statement
from ttt_retrofit.consolidation.study.studied import Studied
from ttt_retrofit.consolidation.verify.verification import (
    ASKED_AT_MOST,
    Drift,
    InChat,
    Verification,
    acceptance,
    chosen,
    inventions,
    recall,
)

STILL = Drift(0.0, 0.0)
CONFIG = ConsolidationConfig(min_recall=0.5, max_drift=0.01, max_changed=0.1)
DECLINED = "That I don't know. You have not told me."


def question(text, *value, statement=0, held_out=False):
    return Question(text, frozenset(value), None, statement, held_out)


def statements(count, said_by="User"):
    return tuple(Statement(f"Fact {number}.", said_by) for number in range(count))


def test_every_statement_is_asked_for_by_the_question_held_out_or_else_by_one_that_was_studied():
    studied = [question(f"{number} {again}?", "x", statement=number) for number in range(3) for again in "ab"]
    held_out = [question("1 held out?", "x", statement=1, held_out=True)]
    found = chosen(Studied(statements(3), (*studied, *held_out)), held_out)
    assert [q.text for q in found] == ["1 held out?", "0 a?", "2 a?"]


def test_questions_without_an_answer_decide_nothing_and_own_questions_about_no_statement_do():
    studied = (question("Nobody knows?"), question("Mine?", "x", statement=-1), question("Mine, too?", statement=-1))
    assert [q.text for q in chosen(Studied(statements(1), studied), [])] == ["Mine?"]
    assert chosen(Studied(()), []) == []


def test_of_a_document_s_statements_so_many_are_asked_for_from_all_its_parts():
    count = 3 * ASKED_AT_MOST
    studied = tuple(question(f"{number}?", "x", statement=number) for number in range(count))
    found = chosen(Studied(statements(count, TEXT), studied), [])
    assert len(found) == ASKED_AT_MOST and found[0].statement < 3 and found[-1].statement >= count - 3
    assert len(chosen(Studied(statements(count), studied), [])) == count, "of a conversation, for all"


def test_recall_is_the_share_of_answers_that_hold_all_of_their_value():
    asked = [question("?", "bolt"), question("?", "volta", "power"), question("?", "graz")]
    assert recall(["Bolt!", "Volta.", "In Graz."], asked) == pytest.approx(2 / 3)
    assert recall([], []) is None


@pytest.mark.parametrize(
    ("answer", "asked", "invented"),
    [
        ("Your cat is called Bolt.", "What is my cat called?", True),
        (DECLINED, "What is my cat called?", False),
        ("It is blue.", "What is my cat called?", False),  # a value so short tells nothing
        ("It is Bolt.", "Is it Bolt?", False),  # the question has it
        ("It is 7.", "How old is my cat?", True),
        ("I think of Volta.", "Who am I?", False),  # half of a value
    ],
)
def test_an_invention_is_something_remembered_in_answer_to_what_was_never_told(answer, asked, invented):
    known = [frozenset({"bolt"}), frozenset({"is"}), frozenset({"7"}), frozenset({"volta", "power"})]
    assert inventions([answer], [asked], known) == float(invented)
    assert inventions([], [], known) is None


@pytest.mark.parametrize(
    ("known", "drift", "chat", "accepted", "said"),
    [
        (0.5, STILL, None, True, r"^recall 50% of 8 questions, loss on unrelated text \+0\.00%"),
        (0.9, STILL, InChat(0.1, 0.0), True, "recall 90%"),
        (None, STILL, None, False, "nothing could be verified"),
        (0.49, STILL, None, False, "recall 49% of 8 questions is below min_recall 50%"),
        (0.9, Drift(0.02, 0.1), None, False, r"moved by \+2\.00%, more than max_drift 1\.00%"),
        (0.9, Drift(-0.02, 0.1), None, False, r"moved by -2\.00%, more than max_drift 1\.00%"),
        (0.9, STILL, InChat(0.11, 0.0), False, "11% of general requests in a chat .* more than max_changed 10%"),
    ],
)
def test_acceptance_says_which_bar_was_missed(known, drift, chat, accepted, said):
    found, reason = acceptance(known, 8, drift, chat, CONFIG)
    assert found is accepted and re.search(said, reason)


GENERAL = "Who wrote Hamlet?", "What is 3 times 4?", "Spell cat.", "What is a fjord?"


def verification(remembered, general=GENERAL, chat=True, **changes):
    """A base that knows nothing personal beside a candidate that answers by a function."""

    def base(asked, told):
        return f"Answer to {asked}" if asked in general else "I cannot know."

    formatter = Formatter()
    formatter.chat = chat
    settings = {
        "questions": [
            question("What is my dog called?", "bolt", held_out=True),
            question("Where do I live?", "graz", statement=1),
            question("In which town do I live?", "graz", statement=1),
        ],
        "unknown": ["What is my cat called?", "Who is my dentist?"],
        "said": [("What is my dog called?", "Bolt."), ("Where do I live?", "In Graz.")],
        **changes,
    }  # fmt: skip
    given = Verification(
        Teacher(base),
        Teacher(lambda asked, told: remembered(asked, told, base)),
        formatter,
        **settings,
        general=general,
        abstention=DECLINED,
        moved=lambda: STILL,
    )
    return given, *given.report(ConsolidationConfig(min_recall=0.5, keep_text=True), CONTROL)


def test_a_report_tells_what_is_known_by_statement_and_what_failed():
    def remembered(asked, told, base):
        if asked in ("What is my dog called?", "What is my cat called?"):
            return "Bolt."
        return "In Graz." if asked == "Where do I live?" else base(asked, told)

    _, report, known = verification(remembered)
    assert known == {0: True, 1: False}, "right once and wrong once"
    assert (report.recall_before, report.recall, report.questions) == (0.0, pytest.approx(2 / 3), 3)
    assert (report.false_memories_before, report.false_memories) == (0.0, 0.5)
    assert report.failures == (("In which town do I live?", "graz", "I cannot know."),)
    assert (report.chat_changed, report.chat_refused) == (0.0, 0.0) and report.accepted


def test_general_requests_in_a_chat_come_after_one_to_three_personal_turns():
    given, *_ = verification(lambda asked, told, base: base(asked, told))
    seen = []
    given.remembering.says = lambda asked, told: seen.append((asked, told.splitlines())) or ""
    given.in_chat()
    turns = [told for _, told in seen]
    assert [len(told) // 2 for told in turns] == [1, 2, 3, 1]
    assert turns[0] == ["What is my dog called?", "Bolt."] and turns[1][:2] == ["Where do I live?", "In Graz."]


def test_a_memory_that_declines_general_requests_after_personal_turns_is_not_accepted():
    def remembered(asked, told, base):
        if told:
            return DECLINED if asked != "Spell cat." else "K A T"
        return {"What is my dog called?": "Bolt."}.get(asked, "In Graz.")

    _, report, _ = verification(remembered)
    assert (report.chat_changed, report.chat_refused) == (1.0, 0.75)
    assert not report.accepted and "general requests in a chat" in report.reason


@pytest.mark.parametrize("changes", [{"chat": False}, {"general": ()}, {"said": []}])
def test_there_is_no_chat_without_a_template_without_requests_and_without_turns(changes):
    _, report, _ = verification(lambda asked, told, base: "Bolt, Graz.", **changes)
    assert report.chat_changed is None and report.chat_refused is None and report.accepted
