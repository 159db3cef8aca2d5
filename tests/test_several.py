"""Questions that several statements answer, and questions about what was told that none does."""

import torch
from scripted import Formatter, Scripted
from words import tokenizer

from ttt_retrofit import ConsolidationConfig
from ttt_retrofit.consolidation.facts.languages import languages
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study.answers import Question
from ttt_retrofit.consolidation.study.apart import apart
from ttt_retrofit.consolidation.study.asking import Asking
from ttt_retrofit.consolidation.study.ranking import NO_QUESTION
from ttt_retrofit.consolidation.study.several import told_together
from ttt_retrofit.consolidation.study.statements import Statement
from ttt_retrofit.consolidation.study.untold import ASKED, asking_about, untold
from ttt_retrofit.consolidation.writer import Answer

WORDS = tokenizer()


def ids(text):
    return WORDS(text, add_special_tokens=False).input_ids


class Saying(Formatter):
    def said(self, answer):
        return ids(answer)


class Teacher:
    """Finds every reply more likely by a number of nats a word after some questions than after others."""

    def __init__(self, answered=()):
        self.answered = answered

    def text(self, answer):
        return WORDS.decode(answer.ids)

    def likelihoods(self, prompts, answers):
        asked = [prompt[-1]["content"] for prompt in prompts]
        return [
            torch.full((len(answer),), {NO_QUESTION: -5.0}.get(one, -1.0 if one in self.answered else -9.0))
            for one, answer in zip(asked, answers)
        ]


def asking(teacher, writer=None):
    return Asking(teacher, writer, Saying(WORDS), Prompts.load(), languages()[0], ConsolidationConfig())


def said(*texts):
    return tuple(Statement(text, "User") for text in texts)


def test_two_people_are_apart_and_what_changed_is_not():
    brothers = said("My brother Otto lives in Leeds.", "My brother Marek lives in Braga.")
    assert apart(0, {"leeds"}, 1, brothers) and apart(1, {"marek"}, 0, brothers)
    one_name = said("My wife Runa lives in Leeds.", "My boss Runa lives in Braga.")
    assert apart(0, {"leeds"}, 1, one_name)
    moved = said("I live in Leeds.", "I live in Braga now.")
    assert not apart(1, {"braga"}, 0, moved) and not apart(0, {"leeds"}, 1, moved)
    named_later = said("My sister lives in Leeds.", "My sister Runa lives in Braga.")
    assert not apart(1, {"braga"}, 0, named_later), "she moved"
    german = said("Ich wohne in Graz bei Otto.", "Ich wohne in Bremen bei Marek.")
    assert not apart(1, {"bremen"}, 0, german), "every noun looks like a name"


def test_what_two_statements_answer_is_told_of_both_once():
    told = said("My brother Otto lives in Leeds.", "My brother Marek lives in Braga.", "I live in Antwerp.")
    known = {n: Answer.certain(ids(s.text.replace("My", "wife").replace(".", " ."))) for n, s in enumerate(told)}
    questions = [
        Question("What is my brother called?", frozenset({"otto"}), known[0], 0),
        Question("What is my brother called?", frozenset({"marek"}), known[1], 1, held_out=True),
        Question("Where do I live?", frozenset({"antwerp"}), known[2], 2),
        Question("Where does he live?", frozenset({"antwerp"}), known[2], 2),
    ]
    both, alone = told_together(questions, {0: [1], 1: [0], 3: [0]}, told, asking(Teacher()), known)
    assert alone is questions[2], "what is not apart is not asked"
    words = WORDS.decode(both.answer.ids)
    assert words.index("Leeds") < words.index("Braga") and not both.held_out
    assert {"leeds", "braga"} <= both.value


def test_what_is_asked_of_a_subject_and_not_told_is_to_be_declined():
    told = said("My wife plays oboe.")
    answer = Answer.certain(ids("wife plays oboe"))
    questions = [Question("What does my wife play?", frozenset({"oboe"}), answer, 0)]
    lines = ["How old is my wife?", "Which instrument is my wife's?", "Who is my wife?", "How old is my boss?"]
    writer = Scripted(lambda subject: "\n".join(lines) if subject == "my wife" else "")
    about = asking(Teacher(["Which instrument is my wife's?"]), writer)
    found = untold(questions, told, "My wife plays oboe.", about)
    # The second is answered, the third asks for nothing that was not told, the fourth is about somebody else.
    assert [(miss.text, miss.number) for miss in found] == [("How old is my wife?", 0)]
    lines[:] = [f"When is word{n} of my wife?" for n in range(ASKED + 2)]
    assert len(untold(questions, told, "", about)) == ASKED
    assert not untold([], told, "", about)


def test_who_asks_about_a_subject_sees_examples_in_its_language():
    *examples, last = asking_about("meine Schwester", [languages()[0], languages()[1]])
    assert last == {"role": "user", "content": "meine Schwester"}
    replies = [message["content"] for message in examples if message["role"] == "assistant"]
    subjects = [message["content"] for message in examples if message["role"] == "user"]
    assert len(replies) > 2 and all(
        subject in line for subject, reply in zip(subjects, replies) for line in reply.splitlines()
    )
