"""Facts found by words, without a model."""

from ttt_retrofit.memory.facts import Fact
from ttt_retrofit.memory.search import search


def fact(text, day="2026-03-09"):
    return Fact.of(text, "user", day, [0], "a" * 64)


def test_rare_words_count_more_and_a_word_is_found_at_the_beginning_of_a_longer_one():
    facts = [fact("My dog is called Bolt."), fact("My bike is red."), fact("I like dogs."), fact("Oslo rains.")]
    assert [one.text for one in search(facts, "What is MY dog called?")] == [facts[n].text for n in (0, 1, 2)]
    assert search(facts, "dog", most=1) == [facts[2]]  # of equals the newest
    assert search(facts, "cat?") == search(facts, "?!") == search([], "dog") == []


def test_scripts_without_spaces_are_searched_sign_by_sign():
    facts = [fact("私の犬はボルトです。"), fact("オスロに住んでいます。")]
    assert search(facts, "犬の名前は？", most=1) == [facts[0]]
