"""What the user said, told back: it has all that was said, and speaks to the user."""

import pytest
from scripted import Formatter
from words import tokenizer

from ttt_retrofit import ConsolidationConfig
from ttt_retrofit.consolidation.facts.languages import languages
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study.asking import Asking
from ttt_retrofit.consolidation.study.retelling import tells, told_back
from ttt_retrofit.consolidation.study.statements import Statement
from ttt_retrofit.consolidation.writer import Answer

WORDS = tokenizer()


class Ids(Formatter):
    def said(self, answer):
        return WORDS(answer, add_special_tokens=False).input_ids


class Says:
    """Tells back what it is given an answer for; answers are texts."""

    def __init__(self, given):
        self.given, self.asked, self.written = given, [], []

    def answer(self, prompts, *how, **named):
        self.asked += [prompt[-1]["content"] for prompt in prompts]
        first = len(self.written)
        self.written += [self.given.get(prompt[-1]["content"], "I do not know.") for prompt in prompts]
        return [Answer.certain([number]) for number in range(first, len(self.written))]

    def text(self, answer):
        return self.written[answer.ids[0]]


def asking(given):
    return Asking(Says(given), None, Ids(WORDS), Prompts.load(), languages()[0], ConsolidationConfig())


def user(text, *before):
    return Statement(text, "User", before)


@pytest.mark.parametrize(
    ("said", "told", "right"),
    [
        ("My mother comes from Trieste.", "Your mother comes from Trieste.", True),
        ("My mother comes from Trieste.", "You come from Trieste.", False),  # not said of the user
        ("My mother comes from Trieste.", "Your mother comes from Trieste in Italy.", False),  # was not said
        ("My mother comes from Trieste.", "", False),
        ("Oh, and my choir sings in Basque.", "Your choir sings in Basque.", True),
        ("By the way, my choir sings in Basque.", "You get to work by tram.", False),  # an example
        ("我的狗叫豆豆。", "你的狗叫豆豆。", True),
        ("Our accountant is Gideon.", "Your accountant is Gideon.", True),
        ("Our accountant is Gideon.", "我们的 accountant is Gideon.", False),
    ],
)
def test_all_that_tells_something_is_told_and_nothing_else(said, told, right):
    assert tells(told, user(said), asking({})) is right


def test_a_reply_is_told_with_its_question_and_an_opening_is_left_out_where_it_confuses():
    reply = user("Bolt.", ("Assistant", "What is your dog called?"))
    given = {
        "What is your dog called? – Bolt.": "Your dog is called Bolt.",
        "Just so you know: my sister sings.": "Just so: I sing.",
        "My sister sings.": "Your sister sings.",
    }
    one = asking(given)
    statements = [reply, user("Just so you know: my sister sings."), user("Do you know Leeds?"), user("I bake bread.")]
    found = {number: one.text(answer) for number, answer in told_back(statements, one).items()}
    assert found == {0: "Your dog is called Bolt.", 1: "Your sister sings."}
    assert "Do you know Leeds?" not in one.teacher.asked, "a question is nothing to tell back"


def test_what_others_said_is_told_as_it_stands_and_a_speaker_with_a_name_by_it():
    statements = [Statement("I suggest Tallis.", "Assistant"), Statement("I live in Leeds.", "Ines")]
    found = told_back(statements, asking({}))
    assert [found[n].ids for n in (0, 1)] == [
        tuple(Ids(WORDS).said(text)) for text in ("I suggest Tallis.", "Ines: I live in Leeds.")
    ]
    assert all(
        (answer.logprobs == 0).all() and answer.indices.shape == (len(answer.ids), 1) for answer in found.values()
    )
