"""What of a statement is asked for."""

import pytest

from ttt_retrofit.consolidation.facts.checks import names_in
from ttt_retrofit.consolidation.study.parts import parts_of, telling, trimmed


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("My physician is Prof. Klein, since 14 March.", ["Prof. Klein", "14 March"]),
        ("I work at Harlow Bakery and I'm with Volta.", ["Harlow Bakery", "Volta"]),
        ("The queue is ingest-eu2, and again ingest-eu2.", ["ingest-eu2"]),
        ("It leaves Leeds, Braga, and Graz at 7:40.", ["Leeds", "Braga", "Graz", "7:40"]),
        ("I like tea.", []),
        ("Mi sobrina Klara vive en Bad Tölz.", ["Klara", "Bad Tölz"]),
        ("Meine Nichte wohnt in Bad Tölz.", ["Nichte", "Bad Tölz"]),
        ("Моя сестра живёт в Казани.", ["Казани"]),
        ("我的狗叫豆豆，7岁。", ["7岁"]),
    ],
)
def test_names_numbers_and_codes_are_parts_and_words_of_one_name_stay_together(text, parts):
    assert parts_of(text) == parts


def test_a_name_at_the_beginning_of_a_sentence_is_known_by_another_one():
    names = names_in(["Bolt barks.", "My dog is called Bolt.", "Mein Hund wohnt in Köln."])
    assert {"bolt", "koln"} <= names and "barks" not in names
    assert parts_of("Bolt hates Rex.") == ["Rex"] and parts_of("Bolt hates Rex.", names) == ["Bolt", "Rex"]
    assert names_in(["Bolt barks."]) == frozenset()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'd say my sister plays the oboe.", ["say", "sister", "plays", "oboe"]),
        ("Meine Schwester spielt Oboe.", ["Schwester", "spielt", "Oboe"]),
        ("Mi hermana toca el oboe.", ["toca", "oboe"]),
        ("Я играю на гобое.", ["играю", "гобое"]),
        ("我姐姐会吹双簧管。", ["我姐姐会吹双簧管"]),
    ],
)
def test_words_that_any_text_of_the_language_has_tell_nothing(text, words):
    assert [*telling(text)] == words


@pytest.mark.parametrize(
    ("part", "own"),
    [("is Gideon", "Gideon"), ("in the spring", "spring"), ("a", ""), ("20 June", "20 June"), ("住在北京", "住在北京")],
)
def test_a_part_is_freed_of_the_words_of_any_text(part, own):
    assert trimmed(part) == own
