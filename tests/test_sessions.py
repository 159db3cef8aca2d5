"""LoCoMo is read as it is published, and answers about a conversation are judged for what they are."""

import json

import pytest

from benchmarks.memory_over_turns import lags, lines
from benchmarks.sessions import Asked, Sessions, locomo
from benchmarks.turns_rows import f1, scored


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
        {"question": "Is Ada kind?", "answer": "Likely yes", "evidence": [], "category": 3},
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
    assert talk.messages[0]["content"] == "(1:56 pm on 8 May, 2023) Bela: Hi Ada!"
    assert "I moved in 2022. [shares a photo of a photo of a red house]\nAda: To Graz." in talk.messages[1]["content"]
    assert talk.messages[-1]["content"].endswith("(3:00 pm on 2 July, 2023) Bela: I play the oboe now.")


def test_locomo_answers_may_be_numbers_and_adversarial_questions_have_none(path):
    asked = {one.question: one for one in locomo(path, 20)[0].asked}
    assert len(asked) == 6
    assert asked["When did Ada move?"] == Asked("temporal", "When did Ada move?", ("2022",), 0)
    assert asked["Who plays the oboe?"] == Asked("multi-hop", "Who plays the oboe?", ("Bela",), 2)
    assert asked["Is Ada kind?"].session == -1
    assert asked["Where does Ada live?"] == Asked("single-hop", "Where does Ada live?", ("Graz",), 0)
    for question in ("What does Ada play?", "Who is ill?"):
        assert asked[question].kind == "abstention" and asked[question].answers == ()


def test_as_many_questions_of_locomo_as_asked_for_always_the_same(path):
    drawn = [[one.question for one in talk.asked] for talk in locomo(path, 3)]
    assert [len(asked) for asked in drawn] == [3, 3]
    assert drawn == [[one.question for one in talk.asked] for talk in locomo(path, 3)]


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
        "consolidated memory": row(["Graz.", "Rex.", "I don't know."], drift_prose=0.001, drift_code=0.004),
    }  # fmt: skip
    settings = {"model": "m", "state": 332, "sinks": 4}
    page = "\n".join(lines({"settings": settings, "rows": rows, "conversations": 1, "sessions": 6}))
    assert "| SnapKV | 2 | 0.00 | 1.00 | 0.00 | 0.00 |" in page
    assert "| consolidated memory | 2 | 0.50 | - |" in page and "| +0.4% | 1.00 | 4.00 |" in page
    assert "- BM25 wins on single-session, user: 1.00, " in page
    assert (
        "| consolidated memory | SnapKV | +0.50 (+0.00 to +1.00) | 2 | more, within chance (fewer than 100 pairs)"
        in page
    )
