"""Facts found by words, without a model."""

import pytest

from ttt_retrofit.memory.facts import Fact
from ttt_retrofit.memory.search import search


def found(facts, query):
    return [fact for fact, _ in search(facts, query)]


def fact(text, day="2026-03-09"):
    return Fact.of(text, "user", day, [0], "a" * 64)


DOG, BIKE, DOGS, OSLO = map(fact, ("My dog is called Bolt.", "My bike is red.", "I like dogs.", "Oslo rains."))
FACTS = [DOG, BIKE, DOGS, OSLO]


def test_rare_words_count_more_and_another_form_of_a_word_counts_in_part():
    assert found(FACTS, "What is MY dog called?") == [DOG, BIKE, DOGS]
    assert found(FACTS, "dog") == [DOG, DOGS]
    assert found(FACTS, "dogs") == [DOGS, DOG]
    assert found(FACTS, "my") == [BIKE, DOG], "of equals the newest first"
    assert found(FACTS, "cat?") == found(FACTS, "?!") == found([], "dog") == []


def test_a_score_is_the_share_of_the_query_that_a_fact_has():
    assert search(FACTS, "oslo RAINS") == [(OSLO, 1.0)]
    assert dict(search(FACTS, "rains tomorrow"))[OSLO] == pytest.approx(0.5)
    assert all(0 < score < 1 for _, score in search(FACTS, "is my dog red or called Bolt?"))


def test_accents_and_case_are_no_difference_and_a_number_has_no_forms():
    facts = [fact("Ich wohne in Zürich."), fact("The code is 4711.")]
    assert found(facts, "zurich") == facts[:1] and found(facts, "471") == []


def test_scripts_without_spaces_are_searched_by_signs_and_pairs_of_signs():
    facts = [fact("私の犬はボルトです。"), fact("オスロに住んでいます。"), fact("หมาของฉันชื่อโบลต์")]
    assert found(facts, "犬の名前は？")[0] == facts[0]
    assert found(facts, "オスロ")[0] == facts[1]
    assert found(facts, "หมา")[0] == facts[2]


def test_korean_is_written_in_words_that_have_forms():
    facts = [fact("나는 서울에 살아요."), fact("내 개는 볼트예요.")]
    assert found(facts, "서울에서") == facts[:1]
