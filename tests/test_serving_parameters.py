"""What a request may say: what asks for nothing is taken, and what is not done is refused by name."""

from types import SimpleNamespace

import httpx
import openai
import pytest
from served import HELLO, NAME, ask, client, quick, said, served

from ttt_retrofit.errors import LONGEST


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A server that is shared by tests which leave nothing behind."""
    with served(tmp_path_factory.mktemp("store"), quick()) as (url, _):
        yield SimpleNamespace(url=url, chat=client(url).chat.completions)


def posted(running, **changes):
    body = {"model": NAME, "messages": HELLO, "max_tokens": 8, "temperature": 0, **changes}
    return httpx.post(f"{running.url}/v1/chat/completions", json=body)


def text(reply):
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


HARMLESS = [
    {"n": 1}, {"n": None}, {"frequency_penalty": 0}, {"presence_penalty": 0.0}, {"logprobs": False},
    {"top_logprobs": 0}, {"response_format": {"type": "text"}}, {"stop": None}, {"stop": ""}, {"stop": []},
    {"stop": [""]}, {"user": ""},
    {"user": None}, {"safety_identifier": ""}, {"tools": []}, {"tools": None}, {"tool_choice": None},
    {"tool_choice": "none"}, {"tool_choice": "auto"}, {"function_call": "auto"}, {"functions": []},
    {"parallel_tool_calls": True}, {"parallel_tool_calls": False}, {"metadata": {}}, {"metadata": None},
    {"service_tier": "auto"}, {"service_tier": "default"}, {"store": False}, {"logit_bias": {}},
    {"modalities": ["text"]}, {"prediction": None}, {"web_search_options": None}, {"reasoning_effort": None},
    {"seed": None}, {"top_p": None},
    {"stream": None}, {"stream": False}, {"stream_options": None}, {"stream_options": {}}, {"verbosity": "medium"},
    {"stream_options": {"include_usage": False}}, {"echo": False}, {"max_tokens": 8, "max_completion_tokens": None},
    {"prompt_cache_key": ""}, {"a_parameter_of_tomorrow": None}, {"temperature": 1e-9}, {"temperature": 1e-40},
]  # fmt: skip


@pytest.mark.parametrize("changes", HARMLESS, ids=str)
def test_what_asks_for_nothing_is_taken(running, changes):
    assert text(posted(running, **changes)) == text(posted(running))


def test_the_client_of_openai_may_say_them_too(running):
    plain = ask(running.chat).choices[0].message.content
    settings = {
        "tool_choice": "none", "parallel_tool_calls": False, "metadata": {}, "service_tier": "auto", "top_logprobs": 0,
        "stop": "", "user": "", "store": False, "logit_bias": {}, "temperature": 1e-38,
    }  # fmt: skip
    assert ask(running.chat, **settings).choices[0].message.content == plain
    pieces = ask(running.chat, **settings, stream=True, stream_options={"include_obfuscation": False})
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == plain


@pytest.mark.slow
@pytest.mark.parametrize("most", [65, 10**9, -1])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_more_tokens_than_may_be_are_as_many_as_may_be(running, name, most):
    body = {"model": NAME, "messages": HELLO, "temperature": 0}
    url = f"{running.url}/v1/chat/completions"
    given, plain = (httpx.post(url, json=sent).json() for sent in ({**body, name: most}, body))
    assert given["choices"] == plain["choices"] and given["usage"]["completion_tokens"] <= 64


def test_an_answer_can_be_sent_back_as_it_came(running):
    answer = ask(running.chat).choices[0].message
    assert ask(running.chat, [*HELLO, answer, {"role": "user", "content": "who ?"}]).choices


@pytest.mark.parametrize(
    "extra",
    [
        {"name": None},
        {"tool_calls": []},
        {"reasoning_content": None},
        {"refusal": None, "annotations": []},
        {"audio": None},
    ],
    ids=str,
)
def test_messages_may_hold_fields_that_say_nothing(running, extra):
    messages = said("a", "b", "c")
    expected = text(posted(running, messages=messages))
    assert text(posted(running, messages=[{**message, **extra} for message in messages])) == expected
    parts = [{**m, "content": [{"type": "text", "text": m["content"], "cache_control": None}]} for m in messages]
    assert text(posted(running, messages=parts)) == expected


def test_an_assistant_s_message_may_be_empty_in_every_way(running):
    def with_answer(**fields):
        return text(posted(running, messages=[*HELLO, {"role": "assistant", **fields}, *HELLO]))

    assert with_answer(content=None) == with_answer(content="") == with_answer(content=[]) == with_answer(tool_calls=[])


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role", "'system', 'developer'"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages.0.content", "says nothing"),
        ({"messages": said("a", "b")}, "messages", "role 'assistant', expected 'user' or 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages.0.content.0.type", "'text'"),
        ({"n": 2}, "n", "can only be 1"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "can only be 0"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "Field required"),
        ({"tools": [{"type": "function", "function": {"name": "look"}}]}, "tools", "not supported"),
        ({"messages": [*HELLO, {"role": "tool", "content": "x"}]}, "tools", "not supported"),
        ({"messages": [*HELLO, {"role": "user", "content": "x", "tool_call_id": "c"}]},
         "messages.1.tool_call_id", "only for messages of role 'tool'"),
        ({"best_of": 2}, "best_of", "not supported"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"temperature": "warm"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "contradict"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"user": "a", "safety_identifier": "b"}, "user", "contradict"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only for stream=true"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "says nothing"),
        ({"messages": [{"role": "user", "content": "a", "name": "ines"}]},
         "messages.0.name", "'ines' is not supported"),
        ({"n": 0}, "n", "can only be 1"),
        ({"max_tokens": -2}, "max_tokens", "greater than or equal to 1"),
        ({"tool_choice": "required"}, "tool_choice", "tool_choice is 'required'; expected 'auto', 'none'"),
        ({"metadata": {"a": "b"}}, "metadata", "not supported"),
        ({"top_logprobs": 2}, "top_logprobs", "not supported"),
        ({"store": True}, "store", "not supported"),
        ({"service_tier": "flex"}, "service_tier", "can only be 'default'"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_and_named(running, changes, param, message):
    body = {"model": NAME, "messages": HELLO, **changes}
    reply = httpx.post(f"{running.url}/v1/chat/completions", json=body)
    error = reply.json()["error"]
    assert reply.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"] == param and message in error["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "x" * 500_000},
        {"tool_choice": "x" * 500_000},
        {"y" * 500_000: 1},
        {"user": "x" * 500_000},
        {"user": "a" * 500, "safety_identifier": "b" * 500},
        {"messages": [{"role": "x" * 500_000, "content": "a"}]},
        {"messages": [{"role": "user", "content": "a", "name": "x" * 500_000}]},
        {"stop": ["x" * 100_000] * 5},
    ],
    ids=lambda changes: next(iter(changes))[:10],
)
def test_errors_do_not_repeat_what_they_were_sent(running, changes):
    reply = posted(running, **changes)
    assert reply.status_code in (400, 404) and len(reply.content) < LONGEST


def test_errors_do_not_repeat_long_paths_and_hosts(running):
    for path, headers in (
        (f"/v1/models/{'x' * 10_000}", {}),
        (f"/{'x' * 10_000}", {}),
        ("/v1/models", {"Host": "x" * 9000}),
    ):
        reply = httpx.get(running.url + path, headers=headers)
        assert reply.status_code in (403, 404) and len(reply.content) < 1000


def test_the_client_of_openai_sees_what_is_refused(running):
    with pytest.raises(openai.BadRequestError, match="tools are not supported") as error:
        ask(running.chat, tools=[{"type": "function", "function": {"name": "f"}}])
    assert error.value.param == "tools"
