"""Conversations hold what is asked once, LoCoMo is read as published, and answers are judged for what they are."""

import json

import pytest

from benchmarks import memory_over_turns, sessions
from benchmarks.conversations import FIRST, PETS
from benchmarks.harness.english import holds, words
from benchmarks.memory_over_turns import lags, lines
from benchmarks.sessions import Asked, Sessions, draw, locomo
from benchmarks.turns_rows import ROWS, Answered, declines, f1, f1_of_parts, scored

pytestmark = pytest.mark.slow


def said(speaker, dia_id, text, **more):
    return {"speaker": speaker, "dia_id": dia_id, "text": text, **more}


SAMPLE = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ada",
        "speaker_b": "Bela",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            said("Bela", "D1:1", "Hi Ada!"),
            said("Ada", "D1:2", "I moved in 2022.", img_url=["u"], blip_caption="a photo of a red house", query="q"),
            said("Ada", "D1:3", "To Graz."),
            said("Bela", "D1:4", "Lovely."),
        ],
        "session_2_date_time": "9:00 am on 1 June, 2023",  # a date without its session
        "session_10": [said("Bela", "D10:1", "I play the oboe now.")],
        "session_10_date_time": "3:00 pm on 2 July, 2023",
        "session_3": [said("Ada", "D3:1", "My cat is ill."), said("Bela", "D3:2", "Oh no.")],
        "session_3_date_time": "8:00 am on 3 June, 2023",
    },
    "qa": [
        {"question": "When did Ada move?", "answer": 2022, "evidence": ["D1:2"], "category": 2},
        {"question": "Who plays the oboe?", "answer": "Bela", "evidence": ["D1:1; D10:1"], "category": 1},
        {"question": "Is Ada kind?", "answer": "Likely yes; she helps", "evidence": [], "category": 3},
        {"question": "Where does Ada live?", "answer": "Graz", "evidence": ["D1:3", "D"], "category": 4},
        {"question": "What does Ada play?", "adversarial_answer": "the oboe", "evidence": ["D10:1"], "category": 5},
        {"question": "Who is ill?", "answer": "Ada", "adversarial_answer": "Bela", "evidence": ["D3:1"], "category": 5},
    ],
    "event_summary": {},
    "observation": {},
    "session_summary": {},
}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "locomo10.json"
    file.write_text(json.dumps([SAMPLE, SAMPLE]))
    return file


def test_locomo_keeps_the_order_of_sessions_and_who_said_what_when(path):
    talk, _ = locomo(path, 20)
    assert talk.sessions == 3
    assert [message["role"] for message in talk.messages] == ["assistant", "user", "assistant", "user", "assistant"]
    assert talk.messages[0]["content"] == "(8 May 2023) Bela: Hi Ada!"
    assert "I moved in 2022. (shows a photo of a red house)\nAda: To Graz." in talk.messages[1]["content"]
    assert talk.messages[-1]["content"].endswith("(2 July 2023) Bela: I play the oboe now.")


def test_locomo_answers_may_be_numbers_and_adversarial_questions_have_none(path):
    asked = {one.question: one for one in locomo(path, 20)[0].asked}
    assert len(asked) == 6
    assert asked["When did Ada move?"] == Asked("temporal", "When did Ada move?", ("2022",), 0)
    assert asked["Who plays the oboe?"] == Asked("multi-hop", "Who plays the oboe?", ("Bela",), 2)
    assert asked["Is Ada kind?"] == Asked("open-domain", "Is Ada kind?", ("Likely yes",), -1)
    assert asked["Where does Ada live?"] == Asked("single-hop", "Where does Ada live?", ("Graz",), 0)
    for question in ("What does Ada play?", "Who is ill?"):
        assert asked[question].kind == "abstention" and asked[question].answers == ()


def test_as_many_questions_of_locomo_as_asked_for_always_the_same(path):
    drawn = [[one.question for one in talk.asked] for talk in locomo(path, 3)]
    assert [len(asked) for asked in drawn] == [3, 3]
    assert drawn == [[one.question for one in talk.asked] for talk in locomo(path, 3)]


def test_what_is_retrieved_of_a_conversation_is_an_exchange_with_its_date(path):
    talk = locomo(path, 20)[0]
    assert [len(exchange) for exchange in talk.exchanges] == [1, 2, 2]
    assert talk.exchanges[1][0]["content"].startswith("(8 May 2023) Ada: I moved")
    assert talk.exchanges[2][0]["content"] == "(3 June 2023) Ada: My cat is ill."
    again = Sessions(tuple(message for exchange in talk.exchanges for message in exchange), talk.asked, 3, talk.dates)
    assert again.exchanges == talk.exchanges  # a date is not put before itself


@pytest.fixture
def chatter(monkeypatch):
    """Small talk without a network: of two people who say much that is planted, and of two who do not."""
    loud = [*PETS, *FIRST, *map(str, range(30))]
    dialogues = [[f"Yes , {word} it is" for word in loud], ["Ah , well , I see", "And so it goes , does it"]]
    monkeypatch.setattr(sessions, "dialogues", lambda: dialogues)


def test_no_answer_is_said_anywhere_but_where_it_was_planted(chatter):
    for seed in range(40):
        talk = draw(seed)
        for one in talk.asked:
            # A day may be given as "13th" or as "13", of which the first is said.
            for value in (*one.answers[:1], *filter(None, [one.stale])):
                said = [m["content"] for m in talk.messages if holds(m["content"], words(value))]
                assert len(said) == 1, (seed, one, said)


def test_a_conversation_asks_about_every_kind_and_dates_of_early_and_late_sessions(chatter):
    talk = draw(0)
    assert sum(one.kind != "abstention" for one in talk.asked) == 20
    assert [one.session for one in talk.asked if one.kind == "temporal"] == [0, 2, 4]
    assert len(talk.dates) == len(talk.messages)
    for one in (one for one in talk.asked if one.kind == "temporal"):
        (told,) = (n for n, m in enumerate(talk.messages) if one.question.partition(": ")[2] in m["content"])
        assert f" {one.answers[0]} " in talk.dates[told]
    assert draw(0) == talk != draw(1) and draw(0).digest == talk.digest != draw(1).digest


TALK = Sessions(
    (),
    (
        Asked("knowledge update", "Which city do I live in?", ("Graz",), 4, "Turku"),
        Asked("single-session, user", "What is my dog called?", ("Pickle",), 1),
        Asked("abstention", "What do I weigh?", (), -1),
    ),
    6,
)


def marks(answers, name):
    return [one[name] for one in scored(TALK, answers)]


def test_an_answer_is_right_stale_mixed_up_or_none_of_them():
    assert marks(["You live in Graz.", "Your dog is Pickle.", "I don't know."], "right") == [True, True, True]
    assert marks(["You live in Turku.", "Graz.", "As much as Pickle."], "right") == [False, False, False]
    assert marks(["You live in Turku.", "Graz.", "As much as Pickle."], "stale") == [True, False, False]
    assert marks(["You live in Turku.", "Graz.", "As much as Pickle."], "mixed") == [False, True, True]
    assert marks(["Lyon.", "Rex.", "70 kg."], "mixed") == [False, False, False]
    assert marks(["", "", ""], "lag") == [1, 4, None]


def test_an_abstention_may_be_put_in_many_words_but_silence_is_none():
    declined = (
        "I'm sorry, I don't know.", "You did not mention your weight.", "That isn't stated in our conversation.",
        "There is no information about that.", "You never told me.", "It is not specified.", "Unknown.",
    )  # fmt: skip
    assert all(map(declines, declined))
    assert not any(map(declines, ("", " ", "70 kg.", "Not a doctor, but you told me 70 kg.", "Nokia.", "You know it.")))


def test_articles_are_not_wanted_of_an_answer():
    talk = Sessions((), (Asked("single-hop", "Where?", ("the beach and a lake",), 0), Asked("x", "Who?", ("A",), 0)), 1)
    assert [one["right"] for one in scored(talk, ["Beach, lake.", "No."])] == [True, False]
    assert [one["right"] for one in scored(talk, ["A beach.", "A."])] == [False, True]


def test_f1_of_several_things_is_the_mean_over_what_each_gets():
    assert f1_of_parts("yoga, tennis", "Yoga, kick boxing") == pytest.approx(0.5)
    assert f1_of_parts("I like yoga", "yoga") == f1("I like yoga", "yoga") == pytest.approx(0.5)
    talk = Sessions((), (Asked("multi-hop", "Which sports?", ("Yoga, kick boxing",), 0),), 1)
    assert scored(talk, ["yoga, tennis"])[0]["f1"] == pytest.approx(0.5)


def test_f1_is_that_of_stems_without_articles():
    assert f1("the adoption agencies", "Adoption agency") == 1.0
    assert f1("She went to Graz", "Graz") == pytest.approx(2 / 5)
    assert f1("nothing", "Graz") == 0.0


def test_lags_are_single_sessions_or_groups_of_them():
    assert [len(lag) for lag in lags(6)] == [1] * 6
    assert lags(32)[0] == range(0, 6) and lags(32)[-1] == range(30, 32)


def test_the_page_of_turns_gives_the_known_question_a_column_and_drift_and_wins():
    wrong, right = ["You live in Turku.", "Graz.", "As Pickle."], ["Graz.", "Pickle.", "I don't know."]

    def row(answers, **drift):
        return {"0": {"answers": scored(TALK, answers), "bytes": 4e6, "drift": drift}}

    rows = {
        "BM25": row(right), "SnapKV": row(wrong), "SnapKV, question known": row(right),
        "consolidated memory": row(["Graz.", "Rex.", "I don't know."], drift_prose=0.001, drift_code=-0.004),
    }  # fmt: skip
    rows["consolidated memory"]["0"] |= {"changed": 0.25, "remark": "not accepted: drift"}
    page = page_of(rows)
    assert "| SnapKV | 2 | 0.00 | 1.00 | 0.00 | 0.00 |" in page
    assert "| consolidated memory | 2 | 0.50 | - |" in page and "| -0.4% | 25% | 1.00 | 4.00 |" in page
    assert "- BM25 wins on single-session, user: 1.00, " in page
    assert (
        "| consolidated memory | SnapKV | +0.50 (+0.00 to +1.00) | 2 | more, within chance (fewer than 100 pairs) "
        "| 4.00 / 4.00 |" in page
    )
    assert "consolidated memory: as many bytes as --state 416." in page
    assert page.index("| SnapKV |") < page.index("| BM25 |")  # in one order, whatever was asked first
    assert "- consolidated memory, conversation 0: not accepted: drift" in page


def page_of(rows):
    return "\n".join(lines({"settings": {"model": "m", "state": 416, "sinks": 4}, "rows": rows, "sessions": 6}))


def test_the_page_says_where_bytes_differ_and_what_is_missing():
    answered = {"answers": scored(TALK, ["Graz.", "Pickle.", "No idea."]), "drift": {}}
    rows = {
        "next-token LoRA": {"0": answered | {"bytes": 3e6}, "1": {"failed": "no memory"}},
        "consolidated memory + notepad": {"0": answered | {"bytes": 6e6}},
        "PEFT Cartridge": {"0": {"failed": "diverged"}},
    }
    page = page_of(rows)
    assert "| consolidated memory + notepad | next-token LoRA |" in page and "| 6.00 / 3.00, unequal |" in page
    assert "- next-token LoRA, conversation 1: cannot answer, no memory" in page and "| next-token LoRA | 2 |" in page
    assert "- PEFT Cartridge, conversation 0: cannot answer, diverged" in page and "| PEFT Cartridge |" not in page
    assert "- Not asked so far." in page and "- Not asked: no context; full context;" in page


def test_where_everything_wins_is_said_of_the_same_conversations_only():
    right, wrong = (
        {"answers": scored(TALK, given), "drift": {}, "bytes": 1}
        for given in (["Graz.", "Pickle.", "-"], ["-", "-", "-"])
    )
    rows = {"BM25": {"0": right}, "SnapKV": {"0": wrong}, "H2O": {"1": right}}
    assert "- BM25 wins on all questions: 1.00, SnapKV 0.00" in page_of(rows)
    assert "- Not asked so far." in page_of({"BM25": {"0": right}, "H2O": {"1": wrong}})
    assert "- Of those asked, none does." in page_of({"BM25": {"0": wrong}, "H2O": {"0": right}})


class NoModel:
    """In the place of `Bench`."""

    def __init__(self, *settings):
        pass

    def take(self, talk):
        self.talk = talk

    def start_again(self):
        pass


@pytest.fixture
def stored(chatter, monkeypatch, tmp_path):
    """Runs the benchmark with rows that need no model, and returns what it stored."""
    monkeypatch.setattr(memory_over_turns, "Bench", NoModel)
    monkeypatch.setattr("benchmarks.harness.store.DIRECTORY", tmp_path)
    monkeypatch.setattr(memory_over_turns, "plot", lambda report, path: None)

    def run(rows, *arguments, file="memory_over_turns"):
        for name, row in rows.items():
            monkeypatch.setitem(ROWS, name, row)
        memory_over_turns.main(["--conversations", "2", "--only", *rows, *arguments])
        return json.loads((tmp_path / f"{file}.json").read_text())["rows"]

    return run


def silent(bench):
    return Answered(["I don't know."] * len(bench.talk.asked), 1)


def refused(bench):
    raise FloatingPointError("diverged in /somewhere/else.py\nat step 3")


def test_a_row_that_fails_says_why_loses_nothing_of_the_others_and_is_asked_again(stored):
    rows = stored({"H2O": refused, "SnapKV": silent})
    assert [rows["H2O"][n] for n in "01"] == [{"failed": "FloatingPointError: diverged in else.py"}] * 2
    assert all(len(rows["SnapKV"][n]["answers"]) == 24 for n in "01")
    again = stored({"H2O": silent, "SnapKV": refused})  # SnapKV's are kept
    assert again["SnapKV"] == rows["SnapKV"]
    assert all(len(again["H2O"][n]["answers"]) == 24 for n in "01")


def test_answers_of_other_settings_or_conversations_are_neither_mixed_nor_written_over(stored, monkeypatch):
    stored({"BM25": silent})
    assert stored({"BM25": silent}, "--state", "624", file="memory_over_turns_624")
    with pytest.raises(SystemExit, match="another sinks"):
        stored({"BM25": silent}, "--sinks", "5")
    monkeypatch.setattr(sessions, "UNKNOWN", 3)
    with pytest.raises(SystemExit, match="another conversation"):
        stored({"BM25": silent})
