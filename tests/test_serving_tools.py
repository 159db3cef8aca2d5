"""Calls of tools: what a request says of them, and what is read out of an answer."""

import json

import pytest
from bpe import family
from served import HELLO, ask, client, quick, served
from transformers.cli.serving.utils import get_response_template
from words import TEMPLATE, tokenizer

from ttt_retrofit import InputError
from ttt_retrofit.serving.tools import CallReader, response_template
from ttt_retrofit.util.messages import prompt_ids

LOOK = {"type": "function", "function": {"name": "look", "parameters": {"properties": {"n": {"type": "integer"}}}}}
QWEN = get_response_template(tokenizer(), type("", (), {"config": type("", (), {"model_type": "qwen2"})}))
CALL = '<tool_call>\n{"name": "look", "arguments": {"n": "7"}}\n</tool_call>'


def read(*pieces, whole=True, **settings):
    """The text, the calls, and how many deltas there were."""
    reader = CallReader(QWEN, "<|im_start|>assistant\n", [LOOK], ["<|im_end|>"], ["<|im_end|>"], **settings)
    deltas = [delta for piece in pieces for delta in reader.feed(piece)] + reader.end(whole)
    text = "".join(delta.get("content", "") for delta in deltas)
    assert reader.message.get("content") == (text or (None if reader.calls else ""))
    return text, [call["function"] for call in reader.calls], len(deltas)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_calls_are_told_from_text_however_the_answer_is_cut(size):
    answer = f"Let me see.\n{CALL}\n{CALL}<|im_end|>"
    text, calls, _ = read(*(answer[n : n + size] for n in range(0, len(answer), size)))
    assert text == "Let me see." and calls == [{"name": "look", "arguments": '{"n": 7}'}] * 2


def test_text_is_passed_on_as_it_comes_and_thoughts_apart():
    assert read("a", " b", " c")[2] == 3
    reader = CallReader(QWEN, "", [LOOK], [], [])
    assert reader.feed("<think>hm</think>ok") == [{"reasoning_content": "hm"}, {"content": "ok"}]


@pytest.mark.parametrize("wrong", ["{no", "[1]", '{"arguments": {}}', "7"])
def test_what_is_no_call_stays_text(wrong):
    text, calls, _ = read("Well.", f"<tool_call>{wrong}", "</tool_call>", " Yes<|im_end|>")
    assert calls == [] and text == f"Well.<tool_call>{wrong}</tool_call> Yes"
    assert read(f"Well.<tool_call>{wrong}</tool_call> Yes<|im_end|>")[:2] == (text, []), "in one piece"
    assert read("<tool_call>", '{"name": "lo')[:2] == ('<tool_call>{"name": "lo', [])


def test_a_call_that_nothing_but_the_end_follows_is_one_and_a_cut_one_is_not():
    begun, rest = CALL[:26], CALL[26:].removesuffix("\n</tool_call>")
    assert read(rest, "<|im_end|>", begun=begun)[:2] == ("", [{"name": "look", "arguments": '{"n": 7}'}])
    assert read("ok", begun + rest, whole=False)[:2] == (f"ok{begun}{rest}", [])


def calling(opening):
    """A tokenizer whose template tells of tools, and whose model calls one when it says this word."""
    words = tokenizer()
    words.chat_template = "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}" + TEMPLATE
    words.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "assistant",
        "fields": {
            "tool_calls": {
                "open": opening, "close": "</s>", "content": "text", "repeats": True,
                "transform": {"type": "function", "function": {"name": "look", "arguments": {"at": "{content}"}}},
            },
            "content": {"content": "text"},
        },
    }  # fmt: skip
    return words


def test_a_server_answers_with_calls_and_takes_what_they_gave(tmp_path):
    model, asked = quick(), {"tools": [LOOK], "max_tokens": 16, "user": "ines"}
    with served(tmp_path / "text", model, words=calling("nothing")) as (url, service):
        reply = ask(client(url).chat.completions, **asked).choices[0]
        words = reply.message.content.split()
        assert reply.finish_reason == "length" and reply.message.tool_calls is None and len(words) > 8
        assert service.users.get("ines").waiting == 2
    _, opening, *_, last = dict.fromkeys(words)
    before, after = words[: words.index(opening)], words[words.index(opening) + 1 : words.index(last)]
    with served(tmp_path / "calls", model, words=calling(opening)) as (url, service):
        chat, ines = client(url).chat.completions, service.users.get("ines")
        reply = ask(chat, **asked, stop=last).choices[0]
        (call,) = reply.message.tool_calls
        assert (reply.finish_reason, reply.message.content.split()) == ("tool_calls", before)
        assert json.loads(call.function.arguments)["at"].split() == after
        pieces = [piece.choices[0] for piece in ask(chat, **asked, stop=last, stream=True)]
        (streamed,) = [one for piece in pieces for one in piece.delta.tool_calls or ()]
        assert (streamed.index, pieces[-1].finish_reason) == (0, "tool_calls")
        assert streamed.function.arguments == call.function.arguments
        assert ines.waiting == 0, "the answer is yet to come"
        result = {"role": "tool", "tool_call_id": call.id, "content": "four"}
        answer = ask(chat, [*HELLO, reply.message.model_dump(), result], user="ines", tools=[LOOK], tool_choice="none")
        asked, answered = ines.session.messages
        assert asked["content"] == HELLO[0]["content"] and answer.choices[0].message.content in answered["content"]


def test_models_that_are_told_nothing_of_tools_refuse_them():
    words, model = calling("x"), quick()
    assert response_template(words, model)["fields"]
    words.response_template = None
    with pytest.raises(InputError, match="how this model writes calls"):
        response_template(words, model)
    with pytest.raises(InputError, match="chat template does not tell"):
        response_template(tokenizer(), model)


def test_a_special_token_in_a_tool_is_text():
    words, end = family("chatml"), "<|im_end|>"
    words.chat_template = "{% for tool in tools or [] %}{{ tool.function | tojson }} {% endfor %}" + words.chat_template
    number = words.convert_tokens_to_ids(end)

    def ends(function, **settings):
        tools = [{"type": "function", "function": function}]
        return prompt_ids(words, HELLO, tools=tools, **settings).count(number)

    assert ends({"name": f"a{end}"}) == ends({"name": "a"})
    assert ends({"name": f"a{end}"}, split_special_tokens=False) == ends({"name": "a"}) + 1
    with pytest.raises(InputError, match="name of a tool's parameter spells a special token"):
        ends({"name": "a", "parameters": {"properties": {end: {}}}})
