"""Questions that a model writes: each asks for a part of what was told, and those that do not are dropped."""

import pytest
from scripted import Scripted, script

from benchmarks.harness.recollect import GENERAL
from ttt_retrofit.consolidation.facts.languages import languages, shown
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.statements import TEXT, Statement
from ttt_retrofit.consolidation.study.questions import (
    PART,
    QuestionDraft,
    ask,
    ask_again,
    asking_for,
    distinct,
    drafts_of,
    is_sound,
    prompt,
)

MIRELA = Statement("My sister Mirela moved to Braga in May.", "User")
ENGLISH = languages()[:1]


def draft(question, part, statement=0, **more):
    return QuestionDraft(question, statement, part, **more)


@pytest.mark.parametrize(
    ("part", "question", "sound"),
    [
        ("Braga", "Where did my sister move to?", True),
        ("moved to Braga", "What did Mirela do in May?", True),
        ("in May", "When did I visit my sister Mirela?", True),
        ("Braga", "When did Mirela move to Braga?", False),  # gives its part away
        ("Mirela", "Is Mirela's flat in Braga?", False),  # … with an ending
        ("Lisbon", "Where did my sister move to?", False),  # the part was not told
        ("moved Braga", "Where did my sister go?", False),  # … not word for word
        ("Braga", "Where did Otto move to?", False),  # names what nobody told
        ("Braga", "Where did my sister move to in 2019?", False),
        ("Braga", "Where?", False),  # of one word
        (".", "Where did my sister move to?", False),  # no word
        ("Braga", "Where did my sister move to " + "and to " * 40 + "?", False),  # goes on and on
    ],
)
def test_a_question_asks_for_a_part_gives_it_not_away_and_names_nothing_else(part, question, sound):
    assert is_sound(draft(question, part), MIRELA) is sound


def test_a_short_reply_is_asked_for_by_the_words_of_the_question_before():
    reply = Statement("By tram.", "User", (("Assistant", "How do you get to work?"),))
    assert is_sound(draft("How do I get to work?", "tram"), reply)
    assert is_sound(draft("我怎么去上班？", "电车"), Statement("坐电车。", "User", (("Assistant", "你怎么去上班？"),)))


def test_german_nouns_name_nothing_and_numbers_do():
    statement = Statement("Meine Nichte Klara wird am 20. Juni sechs.", "User")
    assert is_sound(draft("Wann hat meine Nichte Geburtstag?", "20. Juni"), statement)
    assert not is_sound(draft("Wann wird meine Nichte 16 Jahre alt?", "20. Juni"), statement)


def test_lines_are_a_part_a_bar_and_a_question():
    found = drafts_of('"Braga" | Where is she?\nno bar\n | Where?\nMay |\nMirela|Who is it?', 3)
    assert list(found) == [draft("Where is she?", "Braga", 3), draft("Who is it?", "Mirela", 3)]


def test_a_statement_is_asked_about_in_several_wordings_and_no_question_twice():
    writer = Scripted(lambda asked: f"Braga {PART} Where did my sister move to?\nMirela {PART} Who moved to Braga?")
    found = ask([MIRELA], writer, ENGLISH, wordings=3)
    assert [(one.text, one.part) for one in found] == [
        ("Where did my sister move to?", "Braga"), ("Who moved to Braga?", "Mirela"),
    ]  # fmt: skip
    assert len(writer.asked) == 3 + 1  # and once for May


def test_names_and_numbers_that_no_question_asked_for_are_asked_for_in_a_second_round():
    writer = script({}, {"Mirela": f"Braga {PART} Where did my sister move to?"}, {
        "Mirela": "Which sister moved?\nand more", "May": "In which month did she move to Braga in May?",
    })  # fmt: skip
    found = ask([Statement("I own a boat.", "User"), MIRELA], writer, ENGLISH, wordings=1)
    assert [(one.statement, one.part, one.text) for one in found] == [
        (1, "Braga", "Where did my sister move to?"), (1, "Mirela", "Which sister moved?"),
    ]  # fmt: skip
    assert writer.asked[-2:] == [f"User: {MIRELA.text}\n→ {part}" for part in ("Mirela", "May")]


def test_a_question_for_verification_is_written_by_another_prompt_and_held_out():
    writer = script({}, {}, {"Braga": "In which town does my sister live now?", "May": "When?"})
    found = ask_again([MIRELA], [(0, "Braga"), (0, "May")], writer, ENGLISH, seed=1)
    assert found == [draft("In which town does my sister live now?", "Braga", held_out=True)]
    assert asking_for("Braga", MIRELA, ENGLISH)[0] != prompt(MIRELA, ENGLISH)[0]


def test_examples_are_in_the_language_of_what_is_read_and_those_of_documents_for_documents():
    spanish = shown("Mi hermana Mirela vive en Braga.")
    asked = [message["content"] for message in prompt(Statement("Mi hermana vive en Braga.", "User"), spanish)]
    assert any("Klara" in text for text in asked) and asked[-1] == "User: Mi hermana vive en Braga."
    document = [message["content"] for message in prompt(Statement("The mill burnt down.", TEXT), spanish)]
    assert len(document) == 1 + 2 * len(spanish) + 1 and document[1] == spanish[0].document[0]


def test_of_questions_that_are_alike_the_first_stays():
    drafts = [
        draft("Where does my sister live now?", "Braga"),
        draft("Where does my sister live now, please?", "Braga"),
        draft("In which town is my sister's flat?", "Braga"),
        draft("Where does my sister live now?", "in Braga"),
        draft("Where does my sister live now?", "Braga", statement=1),
    ]
    assert distinct(drafts) == [drafts[0], *drafts[2:]]
    chinese = [draft("我姐姐住在哪里？", "成都"), draft("我姐姐住在哪里呢？", "成都"), draft("谁住在成都？", "成都")]
    assert distinct(chinese) == [chinese[0], chinese[2]]


def test_gates_are_measured_on_other_general_questions_than_the_benchmarks_ask():
    asked = GENERAL.read_text().splitlines()
    assert len(set(asked)) == len(asked) >= 80 and not set(asked) & set(Prompts.load().general)
