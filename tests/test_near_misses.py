"""Questions with one word changed that nothing answers, and those that two statements answer."""

import torch
from scripted import Formatter
from words import tokenizer

from ttt_retrofit import ConsolidationConfig
from ttt_retrofit.consolidation.facts.languages import languages
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study.answers import Question
from ttt_retrofit.consolidation.study.asking import Asking
from ttt_retrofit.consolidation.study.near_misses import APART, UNLIKE, near_misses
from ttt_retrofit.consolidation.study.ranking import NO_QUESTION, answered_by_others
from ttt_retrofit.consolidation.study.statements import Statement
from ttt_retrofit.consolidation.writer import Answer

WORDS = tokenizer()


def ids(text):
    return WORDS(text, add_special_tokens=False).input_ids


class WordByWord(Formatter):
    def said(self, answer):
        return ids(answer)


class Teacher:
    """Finds some words likely next, a rest of a question as likely as `rests` says, and a word of an answer as
    `replies` says for the question before it.
    """

    def __init__(self, likely=(), rests=None, replies=None):
        self.likely, self.rests, self.replies = likely, rests or {}, replies or {}

    def text(self, answer):
        return WORDS.decode(answer.ids)

    def answer(self, prompts, longest, kept):
        row = torch.tensor([ids(" ".join(self.likely))], dtype=torch.int32)
        return [Answer((0,), row, torch.zeros(row.shape)) for _ in prompts]

    def likelihoods(self, prompts, answers):
        found = []
        for prompt, answer in zip(prompts, answers):
            if isinstance(prompt[0], int):  # a list of questions
                found.append(torch.tensor([self.rests.get(WORDS.decode(answer), 0.0)]))
            else:
                asked = prompt[-1]["content"]
                by_word = [self.replies.get((asked, WORDS.decode([token])), -12.0) for token in answer]
                found.append(torch.tensor(by_word))
        return found


def asking(teacher):
    return Asking(teacher, None, WordByWord(WORDS), Prompts.load(), languages()[0], ConsolidationConfig())


STATEMENTS = (Statement("my daughter lives in Leeds .", "User"), Statement("my wife plays cello .", "User"))
ASKED = [Question("where lives my daughter ?", frozenset({"leeds"}), Answer.certain(ids("daughter lives in Leeds")), 0)]
CLOSE = {("where lives my daughter ?", "daughter"): -1.0}


def test_one_word_is_changed_for_a_likely_one_that_was_not_told():
    found = near_misses(ASKED, STATEMENTS, asking(Teacher(["wife", "my", "son"], replies=CLOSE)))
    assert [(miss.text, miss.number) for miss in found] == [("where lives my son ?", 0)], "the wife was told of"


def test_a_gap_is_filled_with_few_words_and_keeps_what_is_behind_an_apostrophe():
    asked = [Question("what is my dog's name ?", frozenset({"bolt"}), Answer.certain(ids("Bolt")), 0)]
    told = (Statement("my dog is called Bolt .", "User"),)
    found = near_misses(asked, told, asking(Teacher(["son", "boss", "wife", "daughter", "vet"])))
    assert [miss.text for miss in found] == [f"what is my {word}'s name ?" for word in ("son", "boss", "wife")]


def test_the_word_after_which_the_rest_is_likeliest_is_taken_unless_none_makes_a_question():
    teacher = Teacher(["son", "dog"], {"son ?": -2.0, "dog ?": -1.0, "daughter ?": 0.0}, CLOSE)
    assert [miss.text for miss in near_misses(ASKED, STATEMENTS, asking(teacher))] == [
        "where lives my dog ?",
        "where lives my son ?",
    ]
    teacher.rests |= {"son ?": -UNLIKE - 1, "dog ?": -UNLIKE - 1}
    assert not near_misses(ASKED, STATEMENTS, asking(teacher))


def test_another_word_for_the_same_is_no_near_miss():
    close = CLOSE | {("where lives my son ?", "daughter"): -1.0 - APART / 2}
    assert not near_misses(ASKED, STATEMENTS, asking(Teacher(["son"], replies=close)))


def test_what_is_confirmed_is_changed_for_what_was_not_told():
    told = (Statement("my wife plays cello .", "User"),)
    said = Answer.certain(ids("wife plays cello"))
    yes = [Question("plays my wife cello ?", frozenset({"cello"}), said, 0)]
    apart = {("plays my wife cello ?", word): -1.0 for word in ("wife", "cello")}
    found = near_misses(yes, told, asking(Teacher(["oboe", "my"], replies=apart)))
    assert [miss.text for miss in found] == ["plays my oboe cello ?", "plays my wife oboe ?"]
    names = [Question("what plays my wife ?", frozenset({"cello"}), said, 0)]
    found = near_misses(names, told, asking(Teacher(["oboe"], replies={("what plays my wife ?", "wife"): -1.0})))
    assert [miss.text for miss in found] == ["what plays my oboe ?"], "of what it tells, nothing is changed"


def test_a_question_that_two_statements_answer_is_found():
    told = (Statement("daughter Runa lives in Leeds .", "User"), Statement("boss Runa lives in Braga .", "User"))
    questions = [
        Question("where lives Runa ?", frozenset({"leeds"}), None, 0),
        Question("where lives my daughter ?", frozenset({"leeds"}), None, 0),
    ]
    likely = {("where lives Runa ?", word): -1.0 for word in ("Leeds", "Braga", "daughter", "boss", "in", ".")}
    assert answered_by_others(questions, told, (), asking(Teacher(replies=likely))) == {0: [1]}
    assert not answered_by_others(questions, told, {1}, asking(Teacher(replies=likely))), (
        "the other one no longer holds"
    )
    unlikely = {key: value for key, value in likely.items() if key[1] in ("Leeds", "daughter")}
    assert not answered_by_others(
        questions, told, (), asking(Teacher(replies=unlikely | {(NO_QUESTION, "boss"): -4.0}))
    )
