"""BM25 as the benchmarks use it."""

from benchmarks.harness.retrieval import BM25


def test_the_text_with_the_words_of_the_question_comes_first():
    index = BM25(["The harbour opens at nine.", "My dog is called Bolt.", "The door code is 7719."])
    ranked = index.ranked("What is my dog called?")
    assert ranked[0][0] == 1 and sorted(number for number, _ in ranked) == [0, 1, 2]
    assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
    assert index.best("Which code has the door?", 1) == "The door code is 7719."
