"""What was said becomes facts: nothing that was not said, everything that was, whoever writes."""

import datetime
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from scripted import Scripted

from ttt_retrofit import InputError
from ttt_retrofit.consolidation.facts.checks import folded, holds, missing, unlike, verbatim
from ttt_retrofit.consolidation.facts.dates import relative_days
from ttt_retrofit.consolidation.facts.extraction import prompt, read
from ttt_retrofit.consolidation.facts.listing import facts_of, without_parts
from ttt_retrofit.consolidation.facts.turns import turns_of
from ttt_retrofit.consolidation.facts.verdicts import Judge
from ttt_retrofit.consolidation.facts.writers import EndpointWriter
from ttt_retrofit.errors import WriterError
from ttt_retrofit.memory.facts import Fact

MONDAY = datetime.date(2026, 3, 9)
TALK = [
    {"role": "system", "content": "The admin password is tulip77."},
    {"role": "assistant", "content": "What is your dog's name?"},
    {"role": "user", "content": "Bolt. And yesterday Zoë adopted a cat."},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}]},
    {"role": "tool", "content": '{"sky": "rain", "wind": "north"}'},
    {"role": "user", "content": "Thanks!"},
]


def test_a_system_prompt_and_calls_of_tools_are_nobody_s_words():
    turns = turns_of(TALK, MONDAY)
    assert [(turn.place, turn.said_by) for turn in turns] == [
        (1, "Assistant"), (2, "User"), (4, "Tool"), (5, "User"),
    ]  # fmt: skip
    assert not any("tulip77" in message["content"] for message in prompt(turns))


def test_dates_come_from_messages_and_carry_on():
    turns = turns_of(
        [
            {"role": "user", "content": "a", "date": "2025-01-02"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c", "timestamp": datetime.datetime(2025, 1, 4, 12)},
        ]
    )
    assert [str(turn.date) for turn in turns] == ["2025-01-02", "2025-01-02", "2025-01-04"]
    with pytest.raises(InputError, match=r"chat message 0 is 'soon'; expected .*ISO 8601"):
        turns_of([{"role": "user", "content": "a", "date": "soon"}])
    with pytest.raises(InputError, match="one of the roles"):
        turns_of([{"role": "robot", "content": "a"}])


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Yesterday I adopted a cat.", {"Yesterday": "2026-03-08"}),
        ("Gestern habe ich eine Katze adoptiert.", {"Gestern": "2026-03-08"}),
        ("昨天我领养了一只猫。", {"昨天": "2026-03-08"}),
        ("We moved two weeks ago.", {"two weeks ago": "2026-02-23"}),
        ("Me mudé ayer a León.", {"ayer": "2026-03-08"}),
        ("My choir sings in Basque this year.", {"this year": "2026"}),
        ("Should people read more poetry now?", {}),  # "more" is a date in other languages
        ("I quit on Friday.", {}),  # the last or the next one
        ("We land on 3 May, I sat on a chair, we march.", {}),  # means the same on any day
    ],
)
def test_a_day_that_depends_on_the_day_it_was_said_is_written_out(text, expected):
    pytest.importorskip("dateparser")
    assert dict(relative_days(text, MONDAY)) == expected


@pytest.mark.parametrize(
    "fact, source, unsaid",
    [
        ("Solveig turns 40.", "My wife Solveig is vegan.", ["40"]),
        ("The user lives in Rome.", "I live in Leeds.", ["Rome"]),
        ("The code is 4471.", "It is 44712.", ["4471"]),
        ("The booking is RC-88213.", "Ribeiro Cars (booking RC-88213)", []),
        ("The physician is Prof. Klein.", "My physician is Prof. Klein.", []),
        ("Inês's mother joins.", "her daughter Inês", []),
        ("Die Schwester wohnt in Köln.", "Meine Schwester wohnt in Köln.", []),
    ],
)
def test_names_numbers_and_codes_have_to_stand_in_the_source(fact, source, unsaid):
    assert missing(fact, [source]) == unsaid


def test_words_that_must_be_verbatim_are_those_with_digits_or_capitals():
    assert verbatim("The user's son is called J. R. Miller, flat 4B, queue ingest-eu.") == ["J", "R", "Miller", "4B"]
    assert verbatim("I see. Do you know Rome? My dog is there. Also, Prof. Klein came.") == [
        "Do",
        "Rome",
        "Prof",
        "Klein",
    ]


def test_scripts_without_capitals_are_compared_by_characters():
    assert unlike("用户的狗叫豆豆", ["我的狗叫豆豆。"]) < 0.5 < unlike("猫住成都", ["我的狗叫豆豆。"])
    assert unlike("The user lives in Rome.", ["I live in Leeds."]) == 0


def test_what_was_not_said_is_dropped_with_a_reason():
    written = "[2] The user's dog is called Bolt.\n[2] The user lives in Rome.\n[9] Nobody said this.\n[4] -"
    listed = facts_of(turns_of(TALK, MONDAY), Scripted(lambda asked: written))
    assert [fact.text for fact in listed.facts] == ["The user's dog is called Bolt."]
    assert listed.dropped[0] == ("The user lives in Rome.", "Rome was not said")
    fact = listed.facts[0]
    assert (fact.said_by, fact.said_at, fact.messages, fact.status) == ("user", "2026-03-09", (2,), "current")
    assert Fact.from_dict(json.loads(json.dumps(fact.to_dict()))) == fact


def test_speakers_who_have_names_are_told_apart_by_them():
    turns = turns_of(
        [
            {"role": "user", "name": "Ana\nB", "content": "My dog is called Bolt."},
            {"role": "assistant", "name": None, "content": "Nice, I like Bolt."},
            {"role": "tool", "name": "weather", "content": "rain"},
        ],
        MONDAY,
    )
    assert [turn.said_by for turn in turns] == ["Ana B", "Assistant", "Tool"]
    writer = Scripted(lambda asked: "[1] Ana has a dog called Bolt.\n[2] I like Bolt.")
    assert [fact.said_by for fact in facts_of(turns, writer).facts] == ["Ana B", "assistant"]
    assert "[1] Ana B: My dog" in writer.asked[0]


def test_messages_without_a_fact_are_read_again():
    def answer(asked):
        return "[1] It rains." if asked.startswith("Before") or "Nothing was listed" in asked else "[2] Bolt is a dog."

    writer = Scripted(answer)
    listed = facts_of(turns_of(TALK, MONDAY), writer, judge=Judge(writer, {"tells": False}))
    again = writer.asked[-1]
    assert len(writer.asked) == 2 and "Bolt. And" not in again.split("Nothing")[-1] and '"rain"' in again
    assert "Thanks!" not in again, "two words tell nothing by themselves"
    assert "Bolt is a dog." in [fact.text for fact in listed.facts]


def listed_of(*messages, lines, again=""):
    """The facts of the user's messages, (message, text) each, and what was dropped."""
    turns = turns_of([{"role": "user", "content": text} for text in messages], MONDAY)
    writer = Scripted(lambda asked: again if "Nothing was listed" in asked else lines)
    listed = facts_of(turns, writer)
    return [(fact.messages[0], fact.text) for fact in listed.facts], listed.dropped


TWO = "My dog Bolt hates every cat.", "Solveig plays the oboe in Leeds."


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1), (2, 2), (7, 0)])
def test_a_fact_is_of_the_message_that_it_shares_most_with_however_it_was_counted(numbers):
    lines = f"[{numbers[0]}] Bolt hates every cat.\n[{numbers[1]}] Solveig plays the oboe."
    assert listed_of(*TWO, lines=lines)[0] == [(0, "Bolt hates every cat."), (1, "Solveig plays the oboe.")]


def sources(*messages, lines):
    """The messages that the lines of a list are of."""
    turns = turns_of([{"role": "user", "content": text} for text in messages], MONDAY)
    return [written.turn.place for written in read(lines, turns)]


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("[1] I have a cat and a dog.", 0),  # as many words of the other, and the number decides
        ("[2] I have a cat and a dog.", 1),
        ("[1] My dog met Rex in Graz.", 1),  # the other one has its names
        ("[2] My dog met Rex in Leeds.", 1),  # has more of its names
        ("[1] Rex barks all night.", 0),  # all its words are of one
        ("[2] it barks all night.", 0),
        ("[9] it barks all night.", 0),  # there is none of that number
        ("[1] zzz", 0),  # shares nothing
    ],
)
def test_a_fact_is_of_its_number_unless_another_message_has_more_of_its_names_or_all_its_words(line, place):
    assert sources("I have a dog, it barks all night in Leeds.", "I have a cat, Rex met it in Graz.", lines=line) == [
        place
    ]


def test_a_line_that_shares_nothing_and_has_no_message_is_left_out():
    assert sources("I have a dog.", lines="[7] zzz") == []


def test_the_reply_to_a_question_is_the_source_of_its_fact():
    turns = turns_of(
        [{"role": "assistant", "content": "How do you get to work?"}, {"role": "user", "content": "By tram."}], MONDAY
    )
    fact = facts_of(turns, Scripted(lambda asked: "[2] I get to work by tram.")).facts[0]
    assert (fact.messages, fact.said_by) == ((1,), "user")


@pytest.mark.parametrize(
    "line", ["Bolt hates every cat.", "[1]", "[1] -", "- [x] Bolt hates every cat.", "", "[1]\t- "]
)
def test_lines_without_a_number_or_a_sentence_are_left_out(line):
    assert listed_of(*TWO, lines=line) == ([], ())


@pytest.mark.parametrize(
    "line", ["1. Bolt hates every cat.", "[1]: Bolt hates every cat.", "* [1] Bolt hates every cat."]
)
def test_lines_are_read_as_small_writers_number_them(line):
    assert listed_of(*TWO, lines=line)[0] == [(0, "Bolt hates every cat.")]


def test_a_fact_in_words_of_another_language_is_dropped():
    said = "Meine Schwester Mirela wohnt seit drei Jahren in Leeds."
    found, dropped = listed_of(said, lines="[1] My sister Mirela lives in Leeds.\n[1] Mirela wohnt in Leeds.")
    assert found == [(0, "Mirela wohnt in Leeds.")]
    assert dropped == (("My sister Mirela lives in Leeds.", "its words were not said"),)


def test_what_was_said_of_somebody_else_is_dropped():
    said = (
        "My older brother Alex has lived in Boston for ten years.",
        "My younger brother Alex has lived in Denver since May.",
    )
    found, dropped = listed_of(
        *said,
        lines="[2] My younger brother Alex has lived in Boston.\n[2] My younger brother Alex has lived in Denver.",
    )
    assert found == [(1, "My younger brother Alex has lived in Denver.")]
    assert dropped == (("My younger brother Alex has lived in Boston.", "young was said of something else"),)


def test_a_second_reading_adds_to_the_first_and_only_for_messages_without_a_fact():
    lines = "[1] Bolt hates every cat."
    found, dropped = listed_of(*TWO, lines=lines, again="[1] Solveig plays the oboe.\n[1] Otto plays the cello.")
    assert found == [(0, "Bolt hates every cat."), (1, "Solveig plays the oboe.")]
    assert [text for text, _ in dropped] == ["Otto plays the cello."]


def test_long_conversations_are_read_by_windows_with_what_was_said_before():
    writer = Scripted(lambda asked: "")
    said = [{"role": "user", "content": f"House {number} is red."} for number in range(30)]
    facts_of(turns_of(said, MONDAY), writer)
    first, second, _, *again = writer.asked
    assert "[12] User: House 11 is red." in first and "House 12" not in first
    assert second.startswith("Before:\nUser: House 8 is red.") and "[1] User: House 12 is red." in second
    assert len(again) == 3 and all("Nothing was listed yet" in asked for asked in again)


def test_the_examples_are_in_the_language_of_what_is_read():
    asked = prompt(turns_of([{"role": "user", "content": "Meine Schwester wohnt in Köln."}], MONDAY))
    assert [m["content"] for m in asked if m["role"] == "assistant"][-1].startswith("[1] Meine Nichte heißt Klara.")


@pytest.mark.parametrize(
    ("fact", "source", "unsaid"),
    [
        ("Nur ich und I'm I've I.", "", []),
        ("Ich habe Klaras Puzzle.", "Klara hat ein Puzzle.", []),
        ("Советую для Клары.", "Племянница Клара", []),
        ("Sprzedałem to Klarze.", "Klara", []),
        ("They met Maren.", "They met Marvin.", ["Maren"]),
        ("这个价格是18欧元。", "价格：18欧元", []),
        ("这个价格是19欧元。", "价格：18欧元", ["这个价格是19欧元"]),
        ("7번 노선", '{"노선": 7}', []),
    ],
)
def test_names_in_their_forms_and_numbers_in_any_script(fact, source, unsaid):
    assert missing(fact, [source]) == unsaid


def test_syllables_of_hangul_and_accents_are_folded_to_one_character_each():
    assert folded("민지 Köln") == "민지 koln"


@pytest.fixture
def server():
    """OpenAI's protocol on a free port; `answers` are given in turn, a number being an HTTP state."""
    answers, seen = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(
                (
                    self.path,
                    self.headers["Authorization"],
                    json.loads(self.rfile.read(int(self.headers["Content-Length"]))),
                )
            )
            given = answers.pop(0)
            body = {
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": given}}]
            }
            raw = json.dumps(body | {"id": "1", "model": "m", "created": 0, "usage": None}).encode()
            self.send_response(given if isinstance(given, int) else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *args):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1", answers, seen
    httpd.shutdown()
    httpd.server_close()


def test_a_server_writes(server, monkeypatch):
    url, answers, seen = server
    monkeypatch.setenv("TTT_WRITER_API_KEY", "secret")
    answers += [503, "[1] A fact."]  # busy once
    assert EndpointWriter(url, "big").complete([[{"role": "user", "content": "List."}]], 64) == ["[1] A fact."]
    path, key, body = seen[-1]
    assert (path, key, body["model"], body["max_tokens"]) == ("/v1/chat/completions", "Bearer secret", "big", 64)
    assert body["temperature"] == 0


def test_a_server_that_is_away_or_refuses_is_named(server):
    url, answers, _ = server
    asked = [[{"role": "user", "content": "List."}]]
    with pytest.raises(WriterError, match=r"127\.0\.0\.1:9.*did not answer.*What was written so far is kept"):
        EndpointWriter("http://127.0.0.1:9/v1", "m", tries=1, timeout=2).complete(asked, 8)
    answers += [401]
    with pytest.raises(WriterError, match=r"401.*TTT_WRITER_API_KEY"):
        EndpointWriter(url, "m").complete(asked, 8)
    answers += [None]
    with pytest.raises(WriterError, match="no text"):
        EndpointWriter(url, "m").complete(asked, 8)


def logprobs(*values):
    return torch.tensor(values).log()


@pytest.mark.parametrize(
    "answer, value, right",
    [
        ("Your dog is called Bolt.", {"bolt"}, True),
        ("Your dog is called Boltzmann.", {"bolt"}, False),
        ("It is 44712.", {"4471"}, False),
        ("Deine Schwester wohnt in KÖLN!", {"koln"}, True),
        ("Mirelas Haus", {"mirela"}, True),
        ("你的狗叫豆豆。", {"豆"}, True),
        ("I do not know.", {"bolt"}, False),
        ("anything", set(), False),
    ],
)
def test_an_answer_is_right_when_it_has_every_word_of_the_value(answer, value, right):
    assert holds(answer, value) is right


def test_a_fact_in_other_words_is_judged_and_one_that_quotes_its_message_is_not():
    said = [{"role": "user", "content": "If I had a garden in Graz, I would grow roses. My dog is Bolt."}]
    judged = []

    def write(asked):
        if asked.startswith("Said:"):
            judged.append(asked)
            return "-"
        return "[1] I grow roses in Graz.\n[1] My dog is Bolt."

    listed = facts_of(turns_of(said, MONDAY), writer := Scripted(write), judge=Judge(writer, {"tells": True}))
    assert [fact.text for fact in listed.facts] == ["My dog is Bolt."]
    assert listed.dropped == (("I grow roses in Graz.", "it was not told"),) and len(judged) == 1


def test_a_fact_that_another_one_of_its_message_says_with_more_is_not_kept():
    def fact(text, message=0):
        return Fact.of(text, "user", "2026-03-09", [message], "0")

    whole, part = fact("My brother Alex lives in Lyon."), fact("Alex lives in Lyon.")
    other, ended = fact("Alex lives in Lyon", 2), fact("I do not live in Oslo any more.")
    assert without_parts([part, whole, other, fact("I live in Oslo."), ended]) == [whole, other, ended]
    assert without_parts([whole, fact("In Lyon lives my brother Alex.")])[0] is whole, "neither has more"
