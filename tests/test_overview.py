"""What is answered to "What do you know about me?": what was told, word by word."""

from types import SimpleNamespace

import pytest
from words import tokenizer

from ttt_retrofit import ConsolidationConfig
from ttt_retrofit.consolidation.facts.languages import languages
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study import overview as module
from ttt_retrofit.consolidation.study.answers import Question
from ttt_retrofit.consolidation.study.asking import Asking
from ttt_retrofit.consolidation.study.overview import overview
from ttt_retrofit.consolidation.study.pieces import parse_context
from ttt_retrofit.consolidation.study.statements import of_conversation
from ttt_retrofit.consolidation.study.studied import Studied
from ttt_retrofit.util.prompt_formatter import PromptFormatter

PROMPTS = Prompts.load()
WORDS = tokenizer()
FORMATTER = PromptFormatter(WORDS, PROMPTS.plain)
TOLD = ["my dog is old.", "my wife has a cello.", "Runa has the code 7719.", "Otto plays chess in Leeds."]


class Teacher:
    """Writes the same sentence about every piece."""

    tokenizer = WORDS

    def __init__(self, says: str) -> None:
        self.says, self.asked = says, []

    def answer(self, asked, *args, **settings):
        self.asked += asked
        return [None] * len(asked)

    def text(self, answer):
        return self.says


def asking(teacher):
    return Asking(teacher, None, FORMATTER, PROMPTS, languages()[0], ConsolidationConfig())


CONTEXT = parse_context([{"role": "user", "content": text} for text in TOLD], WORDS, 64, "2026-03-09")


def retold(*numbers, outdated=None):
    """The lessons where questions were asked about these statements."""
    questions = tuple(Question("?", frozenset({"x"}), None, number) for number in numbers)
    studied = Studied(of_conversation(CONTEXT.turns, None), questions, outdated or {})
    return overview(CONTEXT, studied, asking(Teacher("")), SimpleNamespace())


def test_a_conversation_is_retold_word_by_word_and_in_order():
    lessons = retold(2, 0, 1, 0)
    assert [lesson.prompt for lesson in lessons] == [tuple(FORMATTER.asked(text)) for text in PROMPTS.overview]
    assert {lesson.answer for lesson in lessons} == {
        tuple(FORMATTER.said('I remember this: "my dog is old. my wife has a cello. Runa has the code 7719."'))
    }


def test_what_no_longer_holds_is_not_retold():
    lessons = retold(0, 1, 2, outdated={1: 2})
    assert lessons[0].answer == tuple(FORMATTER.said('I remember this: "my dog is old. Runa has the code 7719."'))
    assert retold() == []


def test_names_and_numbers_have_precedence_where_there_is_no_room_for_all(monkeypatch):
    size = len(WORDS(TOLD[2], add_special_tokens=False).input_ids)
    monkeypatch.setattr(module, "MOST_TOKENS", size)
    assert retold(0, 1, 2)[0].answer == tuple(FORMATTER.said(f'I remember this: "{TOLD[2]}"'))


@pytest.mark.parametrize(
    ("says", "kept"), [("Otto plays chess in Leeds.", True), ("I'm sorry.", False), ("Hello.", False)]
)
def test_a_document_is_summed_up_piece_by_piece_if_something_was_taken_from_it(says, kept):
    context = parse_context(" ".join(TOLD), WORDS, 12)
    teacher = Teacher(says)
    control = SimpleNamespace(at=lambda *args: None)
    lessons = overview(context, Studied(context.statements), asking(teacher), control)
    assert len(teacher.asked) == min(len(context.pieces), module.MOST_TOKENS // module.SUMMARY_TOKENS) > 1
    assert bool(lessons) == kept
    if kept:
        assert lessons[0].answer == tuple(FORMATTER.said(says))  # of the piece that says so
