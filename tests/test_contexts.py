"""What becomes memory of a conversation, in whatever form it comes, and how files are told apart."""

import codecs
import io
import json
import os
import threading

import pytest
from converted import speaker
from test_agent import session
from words import OTHER_STORY, STORY, tokenizer

from ttt_retrofit import InputError
from ttt_retrofit.chat.days import without_days
from ttt_retrofit.consolidation.study.pieces import parse_context
from ttt_retrofit.serving.turns import turns
from ttt_retrofit.util.messages import studied
from ttt_retrofit_cli.contexts import STDIN, read_context, read_text

CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": '{"key": "violet"}'}}]}
SECRETS = [
    {"role": "system", "content": "the code is 7719 ."},
    {"role": "developer", "content": [{"type": "text", "text": "the key is violet ."}]},
    CALL,
    {**CALL, "content": None},
    {"role": "tool", "content": '{"code": "7719"}'},
    {"role": "function", "name": "look", "content": '{"code": "7719"}'},
]
TOLD = [{"role": "user", "content": STORY}, {"role": "assistant", "content": OTHER_STORY}]
WITH_SECRETS = [*SECRETS[:2], TOLD[0], *SECRETS[2:], TOLD[1]]


def test_what_an_application_wrote_is_studied_by_no_way(tmp_path):
    model = speaker()
    assert studied(WITH_SECRETS) == TOLD
    untold = [message for message in WITH_SECRETS if message["role"] not in ("tool", "function")]
    context = parse_context(untold, tokenizer(), 200)
    assert context.text == parse_context(TOLD, tokenizer(), 200).text and json.loads(context.text) == TOLD
    chat = session(model, tmp_path)
    chat.note(*WITH_SECRETS)
    assert without_days(chat.messages) == TOLD
    served = [{**message, "content": "the code is 7719"} for message in SECRETS if message["role"] != "assistant"]
    assert turns([*served, *TOLD]) == turns(TOLD)
    (tmp_path / "said").write_text(json.dumps(WITH_SECRETS))
    assert studied(read_context(tmp_path / "said")) == TOLD


def test_a_context_in_which_nobody_says_anything_is_refused():
    with pytest.raises(InputError, match="no message of the user, the assistant or a tool"):
        parse_context(SECRETS[:4], tokenizer(), 200)


def test_what_a_tool_returned_is_told_by_the_tool():
    context = parse_context(SECRETS, tokenizer(), 200)
    assert [(turn.place, turn.said_by, turn.text) for turn in context.turns] == [
        (4, "Tool", '{"code": "7719"}'),
        (5, "Tool", '{"code": "7719"}'),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a b", "a b"),
        (["a", "b"], "a b"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": None}, {"text": "b"}], "a b"),
        ([{"type": "input_text", "text": "a"}, "b"], "a b"),
        ([{"type": "tool_result", "content": "7719"}, {"type": "text", "text": "a"}], "a"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "output_text", "text": "a"}], "a"),
        ([], None),
    ],
)  # fmt: skip
def test_words_are_taken_out_of_parts(content, expected):
    found = studied([{"role": "user", "content": content}])
    assert [" ".join(message["content"].split()) for message in found] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "'image_url', expected text"),
        (
            {"role": "user", "content": ["a", {"type": "input_audio"}]},
            "'input_audio', expected text",
        ),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "'text', expected text"),
        ({"role": "user", "content": [None]}, None),
        ({"role": "user"}, "with a text"),
        ({"role": "user", "content": None}, "with a text"),
        ({"role": "User", "content": "a"}, "roles"),
        ({"content": "a"}, "roles"),
        ("a", "roles"),
    ],
)
def test_what_cannot_be_studied_is_named(message, said):
    if said is None:
        assert studied([message]) == []
        return
    with pytest.raises(InputError, match=said) as raised:
        studied([*TOLD, message])
    assert "Chat message 2" in str(raised.value)


SHARE = {"conversations": [{"from": "system", "value": "7719"}, {"from": "human", "value": STORY},
                           {"from": "gpt", "value": OTHER_STORY}]}  # fmt: skip
LINES = "\n".join(json.dumps(message) for message in TOLD)
FORMS = {
    "a list": json.dumps(TOLD),
    "a list, indented": json.dumps(TOLD, indent=2),
    "messages": json.dumps({"model": "x", "messages": TOLD}),
    "lines of messages": LINES,
    "lines of messages with empty ones": LINES.replace("\n", "\r\n\r\n") + "\n",
    "lines of conversations": "\n".join(json.dumps({"messages": [message]}) for message in TOLD),
    "ShareGPT": json.dumps(SHARE),
    "ShareGPT, a list of them": json.dumps([SHARE]),
    "ShareGPT, in lines": "\n".join(json.dumps({"conversations": [part]}) for part in SHARE["conversations"]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["said.json", "said.JSON", "said.jsonl", "said.txt", "said"])
def test_a_conversation_is_known_by_what_a_file_holds(form, name, tmp_path):
    (tmp_path / name).write_text(FORMS[form])
    assert studied(read_context(tmp_path / name)) == TOLD


def test_a_conversation_comes_from_stdin_and_from_a_pipe_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LINES.encode())))
    assert studied(read_context(STDIN)) == TOLD
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=lambda: (tmp_path / "pipe").write_text(FORMS["a list"])).start()
    assert studied(read_context(tmp_path / "pipe")) == TOLD


@pytest.mark.parametrize("text", [STORY, "[1] See the notes.", "{curly} words", "[draft] of {it}", '"a", he said.'])
def test_prose_stays_prose(text, tmp_path):
    (tmp_path / "notes.md").write_text(text)
    assert read_context(tmp_path / "notes.md") == text


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"role": "user"', "is no JSON"),
        ("a.txt", '[{"role": "user", "content": "a"}', "is no JSON"),
        ("a.json", "some prose", "is no JSON"),
        ("a.txt", '{"code": 7719}', "no chat messages.*'code'"),
        ("a.json", "[1, 2, 3]", "no chat messages.*found 1"),
        ("a.json", "[]", "no chat messages"),
        ("a.jsonl", '{"role": "user", "content": "a"}\n{"role":', "is no JSON"),
    ],
)
def test_json_that_is_no_conversation_is_refused(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said) as raised:
        read_context(tmp_path / name)
    assert name in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be with a mark"])
def test_marked_encodings_are_read(encoding, tmp_path):
    name, marked, _ = encoding.partition(" with")
    (tmp_path / "a").write_bytes((codecs.BOM_UTF16_BE if marked else b"") + "Bragança 7719".encode(name))
    assert read_text(tmp_path / "a") == "Bragança 7719"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("Bragança".encode("latin-1"), "no UTF-8 text .* at byte 6"),
        ("Braga".encode("utf-16-le"), "a zero at byte 1"),
        (codecs.BOM_UTF16_LE + b"a\x00b", "no UTF-16 text .* at byte 4"),
        (b" \n", "is empty"),
    ],
)
def test_other_encodings_are_refused_with_their_place(data, said, tmp_path):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(InputError, match=said) as raised:
        read_text(tmp_path / "a")
    assert str(tmp_path / "a") in str(raised.value)
