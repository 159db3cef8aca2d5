"""Of several questions, those that make their statement likelier are kept: whatever repeats its words."""

import pytest
import torch
from scripted import Formatter
from words import tokenizer

from ttt_retrofit import ConsolidationConfig
from ttt_retrofit.consolidation.facts.languages import languages
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study.asking import Asking
from ttt_retrofit.consolidation.study.questions import QuestionDraft
from ttt_retrofit.consolidation.study.ranking import KEPT, NO_QUESTION, best, gains

WORDS = tokenizer()
TOLD = {0: WORDS("Otto plays the oboe.", add_special_tokens=False).input_ids}


class WordByWord(Formatter):
    def said(self, answer):
        return WORDS(answer, add_special_tokens=False).input_ids


class Knows:
    """A model that finds each token so much likelier after some questions than after none."""

    def __init__(self, won):
        self.won = won

    def likelihoods(self, prompts, answers):
        asked = [prompt[-1]["content"] for prompt in prompts]
        return [torch.full((len(ids),), self.won.get(text, 0.0) - 3.0) for text, ids in zip(asked, answers)]


def asking(won):
    return Asking(Knows(won), None, WordByWord(WORDS), Prompts.load(), languages()[0], ConsolidationConfig())


def drafts(*texts, part="oboe"):
    return [QuestionDraft(text, 0, part) for text in texts]


def test_only_words_that_a_question_does_not_say_count():
    silent, telling = gains(
        drafts("What?", "Who plays the oboe?"), TOLD, asking({"What?": 1.0, "Who plays the oboe?": 1.0})
    )
    assert silent == pytest.approx(len(TOLD[0])) and 0 < telling < silent
    assert gains(drafts("Who plays?"), TOLD, asking({NO_QUESTION: 1.0}))[0] < 0


def test_of_two_questions_that_are_answered_as_well_that_of_the_user_is_better():
    own, anybodys = drafts("What is my rent?", "What is the rent?")
    assert best([anybodys, own], TOLD, asking({})) == [own, anybodys]


def test_of_each_part_the_best_are_kept_the_best_first_and_those_far_behind_are_not():
    won = {"a?": 1.0, "b?": 2.0, "c?": 1.5, "d?": 1.2, "e?": -9.0, "f?": -9.0}
    some = drafts("a?", "b?", "c?", "d?")
    assert [one.text for one in best(some, TOLD, asking(won))] == ["b?", "c?", "d?", "a?"]
    assert len(best(drafts(*"abcdefg"), TOLD, asking(won))) == KEPT
    assert [one.text for one in best(drafts("b?", "e?"), TOLD, asking(won))] == ["b?"]
    others = [*drafts("b?"), *drafts("e?", "f?", part="plays")]  # the best of its part, however bad
    assert {one.text for one in best(others, TOLD, asking(won))} == {"b?", "e?", "f?"}
