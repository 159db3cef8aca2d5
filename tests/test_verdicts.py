"""What a writer judges, and of whom: a fact is ended by a later one of somebody who may end it."""

import pytest
from scripted import CHANGES, SUPPORTS, Scripted

from ttt_retrofit.consolidation.facts.languages import languages
from ttt_retrofit.consolidation.facts.related import now, said_again, said_anew
from ttt_retrofit.consolidation.facts.verdicts import Judge, _asked, judging

CODE = "The code of the garage is 3308."
NEW = "The code of the garage is 7145 now."


def compared(*told, yes=lambda earlier, later: True):
    """What is judged to have changed, and the pairs that a writer was asked about."""
    pairs = []

    def write(asked):
        earlier, later = CHANGES.fullmatch(asked).groups()
        pairs.append((earlier, later))
        return "1" if yes(earlier, later) else "-"

    return Judge(Scripted(write), {"changes": True}).changed(told), pairs


def test_a_fact_that_a_later_one_ends_no_longer_holds():
    assert compared((0, "User", CODE), (1, "User", NEW)) == ({0: 1}, [(CODE, NEW)])
    assert compared((0, "User", CODE), (1, "User", NEW), yes=lambda *pair: False) == ({}, [(CODE, NEW)])


@pytest.mark.parametrize(
    ("earlier", "later", "may"),
    [
        ("User", "User", True),
        ("Assistant", "User", True),
        ("Assistant", "Assistant", True),
        ("Tool", "Tool", True),
        ("User", "Assistant", False),
        ("User", "Tool", False),
        ("Ana", "Ben", False),
        ("Ana", "Ana", True),
        ("Tool", "Assistant", False),
    ],
)
def test_what_somebody_said_is_changed_by_them_or_the_user(earlier, later, may):
    found, pairs = compared((0, earlier, CODE), (1, later, NEW))
    assert (found, len(pairs)) == (({0: 1}, 1) if may else ({}, 0))


def test_what_one_message_says_holds_together():
    assert compared((3, "User", CODE), (3, "User", NEW)) == ({}, [])


def test_only_facts_that_share_words_are_compared_and_of_those_the_nearest_three():
    told = [(n, "User", f"My boat number {n} is blue.") for n in range(5)]
    _, pairs = compared(*told, (7, "User", "Solveig sings."), (8, "User", "My boat number 4 is red."))
    last = [earlier for earlier, later in pairs if later.endswith("red.")]
    assert len(last) == 3 and told[4][2] in last
    assert not any("Solveig sings." in pair for pair in pairs)


def test_of_several_that_end_a_fact_the_last_one_counts():
    told = (0, "User", CODE), (1, "User", NEW), (2, "User", "The code of the garage is 9001 now.")
    assert compared(*told)[0] == {0: 2, 1: 2}


@pytest.mark.parametrize(
    ("verdict", "yes"), [("1", True), (" 1\n", True), ("1.", True), ("-", False), ("", False), ("No 1", False)]
)
def test_an_answer_is_supported_where_the_writer_says_so(verdict, yes):
    writer = Scripted(lambda asked: verdict)
    assert Judge(writer, {"supports": True}).supported([(CODE, "Which code?", "It is 3308.")]) == [yes]
    assert SUPPORTS.fullmatch(writer.asked[0])
    assert Judge(Scripted(pytest.fail)).supported([]) == []


KNOWN = {kind: {tuple(case[:-1]): case[-1] for case in _asked()[kind]["known"]} for kind in ("changes", "supports")}


def judging_rightly(wrong):
    """A writer that judges all known cases but so many rightly, and everything else with a dash."""
    left = dict.fromkeys(KNOWN, wrong)

    def write(asked):
        kind = "changes" if CHANGES.fullmatch(asked) else "supports"
        form = _asked()[kind]["form"].strip()
        verdict = next((v for parts, v in KNOWN[kind].items() if form.format(*parts) == asked), None)
        if verdict is not None and left[kind]:
            left[kind] -= 1
            return "-" if verdict == "1" else "1"
        return verdict or "-"

    return Judge(Scripted(write))


@pytest.mark.parametrize(("wrong", "believed"), [(0, True), (3, True), (4, False)])
def test_a_writer_that_judges_known_cases_wrongly_is_not_believed(wrong, believed):
    judge = judging_rightly(wrong)
    assert judge.supported([(CODE, "Which code?", "It is 7145.")]) == [not believed]
    assert judge.changed([(0, "User", CODE), (1, "User", NEW)]) == {}
    assert judge.believed == {"supports": believed, "changes": believed}


def test_the_known_cases_are_asked_once():
    judge = judging_rightly(0)
    for _ in range(2):
        judge.supported([(CODE, "Which code?", "It is 3308.")])
    assert len(judge.writer.asked) == len(KNOWN["supports"]) + 2


def test_known_cases_are_no_examples_and_say_both_as_often():
    for kind, known in KNOWN.items():
        shown = {tuple(example[:-1]) for example in _asked()[kind]["examples"]}
        assert not shown & set(known) and sorted(known.values()).count("1") == len(known) / 2


@pytest.mark.parametrize(("kind", "parts"), [("changes", 2), ("supports", 3)])
def test_examples_of_verdicts_have_the_form_of_what_is_asked_and_say_both(kind, parts):
    system, *examples, last = judging(kind, *"abc"[:parts])
    assert system["role"] == "system" and last["role"] == "user"
    form = {"changes": CHANGES, "supports": SUPPORTS}[kind]
    assert all(form.fullmatch(message["content"]) for message in (*examples[::2], last))
    assert {message["content"] for message in examples[1::2]} == {"1", "-"}


def test_braces_in_what_was_told_stay():
    assert judging("changes", '{"a": 1}', "{0}")[-1]["content"] == '[1] {"a": 1}\nNew: {0}'


@pytest.mark.parametrize(
    ("earlier", "later", "again"),
    [
        ("I work at Harlow Bakery.", "I no longer work at Harlow Bakery, I quit on Friday.", True),
        ("Mein Hund wohnt in Köln.", "Mein Hund wohnt nicht mehr in Köln.", True),
        ("My brother Alex lives in Lyon.", "My brother Ben lives in Lyon.", False),
        ("I swim.", "I swim in Leeds.", False),  # says too little
    ],
)
def test_without_a_judge_a_later_fact_with_all_that_an_earlier_one_tells_takes_its_place(earlier, later, again):
    assert said_again([(0, "User", earlier), (2, "User", later)]) == ({0: 1} if again else {})
    assert said_again([(0, "User", earlier), (0, "User", later)]) == {}, "one message holds together"
    assert said_again([(0, "User", earlier), (1, "Assistant", later)]) == {}
    assert said_again([(0, "User", earlier), (1, "User", later)], since=2) == {}, "nothing new is asked about"


@pytest.mark.parametrize(
    ("earlier", "later", "anew"),
    [
        ("I live in Gdynia.", "I live in Oslo now.", True),
        ("Ich wohne in Danzig.", "Ich wohne jetzt in Oslo.", True),
        ("Mieszkam w Gdyni.", "Teraz mieszkam w Krakowie.", True),
        ("J'habite à Lyon.", "J'habite à Nantes maintenant.", True),
        ("My sister Mirela works at Harlow Bakery.", "My sister Mirela works at Deloitte now.", True),
        ("My locker is number 318.", "My locker is now number 4410.", True),
        ("I live in Gdynia.", "I live in Oslo.", False),  # nobody says that it has changed
        ("I like Mozart.", "I like Bach, too.", False),
        ("My brother Alex lives in Lyon.", "My brother Ben lives in Lyon now.", False),
        ("My dog is called Bolt.", "My cat is called Tom now.", False),
        ("I live in Gdynia.", "I live in Gdynia now.", False),  # the same
    ],
)
def test_without_a_judge_what_is_otherwise_now_takes_the_place_of_what_was(earlier, later, anew):
    assert said_anew([(0, "User", earlier), (2, "User", later)]) == ({0: 1} if anew else {})
    assert said_anew([(0, "User", earlier), (0, "User", later)]) == {}
    assert said_anew([(0, "User", earlier), (1, "User", later)], since=2) == {}


def test_every_language_has_a_word_for_now():
    assert all(now(language) for language in languages())
