"""How the benchmarks judge answers in English: words in any of their forms, function words aside."""

import pytest

from benchmarks.harness.english import content_stems, holds, sentences, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is here. Two is there!", ["One is here.", "Two is there!"]),
        ("Name: Ines\nAge: 4", ["Name: Ines", "Age: 4"]),
        ("Mr. Harlow met Dr. Ines. They left.", ["Mr. Harlow met Dr. Ines.", "They left."]),
        (
            "This line is so long that it was wrapped by whoever wrote\nthe letter, and ends here.\n- A point",
            ["This line is so long that it was wrapped by whoever wrote the letter, and ends here.", "- A point"],
        ),
        ("我的姐姐叫米雷拉。“好！”他说。", ["我的姐姐叫米雷拉。", "“好！”他说。"]),
        ("मेरी बहन मिरेला है। वह लीड्स में है।", ["मेरी बहन मिरेला है।", "वह लीड्स में है।"]),
    ],
)
def test_sentences_end_at_stops_and_lines_but_not_at_abbreviations_or_wraps(text, expected):
    assert sentences(text) == expected


def test_vowel_signs_and_accents_of_their_own_belong_to_their_word():
    assert words("मेरी बहन का नाम") == ["मेरी", "बहन", "का", "नाम"]
    assert words("Mu\u0308ller") == words("M\u00fcller") == ["m\u00fcller"]


def test_an_answer_holds_a_word_in_any_of_its_forms_and_no_other_word():
    assert holds("On Thursdays she studies nine bees.", ["thursday", "study", "9", "bee"])
    assert not holds("He lives in Braga.", ["ines"])


def test_a_function_word_that_is_a_name_within_a_sentence_informs():
    assert content_stems("May I come in?") == {"com"} and content_stems("I was born in May") == {"born", "may"}
