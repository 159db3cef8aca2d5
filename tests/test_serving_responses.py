"""The Responses API, as OpenAI's own client sees it: the same answers as chat completions, as items and as events."""

import json
from types import SimpleNamespace

import httpx
import openai
import pytest
from served import HELLO, NAME, ask, client, quick, said, served
from test_serving_tools import LOOK, calling
from words import tokenizer

from ttt_retrofit.errors import LONGEST
from ttt_retrofit.serving.protocol import ApiError
from ttt_retrofit.serving.responses import ResponseReply, ResponseRequest

FUNCTION = {"type": "function", "strict": False, **LOOK["function"]}
OF_A_TEXT = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done"]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with served(tmp_path_factory.mktemp("store"), quick(), user_header="X-User") as (url, service):
        api = client(url)
        yield SimpleNamespace(url=url, service=service, api=api, chat=api.chat.completions)


def respond(api, said=HELLO[0]["content"], **settings):
    return api.responses.create(**{"model": NAME, "input": said, "max_output_tokens": 8, "temperature": 0, **settings})


def kinds(events):
    """The types of events, each run of one only once."""
    found = [event.type.removeprefix("response.") for event in events]
    return [kind for index, kind in enumerate(found) if found[index - 1 : index] != [kind]]


def test_a_response_is_what_chat_completions_answer(running):
    whole, expected = respond(running.api), ask(running.chat)
    reason = {"stop": "completed", "length": "incomplete"}[expected.choices[0].finish_reason]
    assert whole.output_text == expected.choices[0].message.content and whole.status == reason
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (
        expected.usage.prompt_tokens, expected.usage.completion_tokens,
    )  # fmt: skip
    cut = respond(running.api, max_output_tokens=1)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_messages_and_instructions_say_what_messages_say(running):
    system = {"role": "system", "content": "be kind"}
    expected = ask(running.chat, [system, *said("a", "b", "c")]).choices[0].message.content
    given = [{**message, "type": "message"} for message in said("a", "b", "c")]
    assert respond(running.api, given, instructions="be kind").output_text == expected
    assert respond(running.api, [system, *said("a", "b", "c")]).output_text == expected
    parts = [{"role": "user", "content": [{"type": "input_text", "text": HELLO[0]["content"]}]}]
    first = respond(running.api, parts)
    thoughts = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "?"}]}
    again = respond(running.api, [*parts, thoughts, *first.output, {"role": "user", "content": "c"}])
    expected = ask(running.chat, said(HELLO[0]["content"], first.output_text, "c")).choices[0].message.content
    assert again.output_text == expected


def test_a_stream_says_the_same_in_events(running):
    whole = respond(running.api)
    events = list(respond(running.api, stream=True))
    end = "completed" if whole.status == "completed" else "incomplete"
    assert kinds(events) == ["created", "in_progress", *OF_A_TEXT, "output_item.done", end]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type.endswith("delta")) == whole.output_text
    assert events[-1].response.output_text == whole.output_text and events[-1].response.usage == whole.usage
    assert {event.item_id for event in events if event.type.endswith(("delta", "text.done"))} == {
        events[-1].response.output[0].id
    }


def test_a_user_has_their_memory_by_name_and_by_header(running):
    respond(running.api, user="ines")
    respond(running.api, safety_identifier="otto", stream=True).response.read()
    respond(running.api, extra_headers={"X-User": "eva"})
    assert [running.service.users.get(name).waiting for name in ("ines", "otto", "eva")] == [2, 2, 2]
    with pytest.raises(openai.BadRequestError, match="the header says 'eva'"):
        respond(running.api, user="ines", extra_headers={"X-User": "eva"})


def test_calls_are_items_and_what_they_gave_is_sent_back(tmp_path):
    model, asked = quick(), {"tools": [FUNCTION], "max_output_tokens": 16, "user": "ines"}
    with served(tmp_path / "text", model, words=calling("nothing")) as (url, _):
        words = respond(client(url), **asked).output_text.split()
    _, opening, *_, last = dict.fromkeys(words)
    before, after = words[: words.index(opening)], words[words.index(opening) + 1 : words.index(last)]
    model.generation_config.eos_token_id = [tokenizer().convert_tokens_to_ids(last)]
    with served(tmp_path / "calls", model, words=calling(opening)) as (url, service):
        api = client(url)
        whole = respond(api, **asked)
        text, call = whole.output
        assert text.content[0].text.split() == before and (call.type, call.name) == ("function_call", "look")
        assert json.loads(call.arguments)["at"].split() == after and service.users.get("ines").waiting == 0
        events = list(respond(api, **asked, stream=True))
        assert kinds(events)[2:] == [
            *OF_A_TEXT, "output_item.done", "output_item.added", "function_call_arguments.delta",
            "function_call_arguments.done", "output_item.done", "completed",
        ]  # fmt: skip
        with api.responses.stream(model=NAME, input=HELLO, temperature=0, tools=[FUNCTION]) as stream:
            assert stream.get_final_response().output[1].arguments == call.arguments
        given = {"type": "function_call_output", "call_id": call.call_id, "output": "four"}
        talk = [*HELLO, *whole.output, given]
        answer = respond(api, talk, user="ines", tools=[FUNCTION], tool_choice="none")
        asked, answered = service.users.get("ines").session.messages
        assert asked["content"] == HELLO[0]["content"] and answer.output_text in answered["content"]


HARMLESS = [
    {"store": False}, {"previous_response_id": None}, {"previous_response_id": ""}, {"truncation": "disabled"},
    {"text": {"format": {"type": "text"}, "verbosity": "medium"}}, {"reasoning": {"effort": None, "summary": "auto"}},
    {"include": []}, {"metadata": {}}, {"background": False}, {"tools": []}, {"tool_choice": "auto"},
    {"service_tier": "auto"}, {"stream_options": {"include_obfuscation": False}}, {"instructions": ""},
    {"max_output_tokens": 8, "top_logprobs": 0},
]  # fmt: skip


@pytest.mark.parametrize("changes", HARMLESS, ids=str)
def test_what_asks_for_nothing_is_taken(running, changes):
    assert respond(running.api, **changes).output_text == respond(running.api).output_text


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"input": []}, "input", "at least 1"),
        ({"input": "  "}, "input", "says nothing"),
        ({"input": said("a", "b")}, "input", "role 'assistant'"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0", "'message', 'function_call'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input.0.message.content.0.type", "'input_text'"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "tools", "not supported"),
        ({"input": [*HELLO, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{no"}]},
         "input.1.function_call.arguments", "property name"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "no response is stored"),
        ({"conversation": {"id": "c"}}, "conversation", "no response is stored"),
        ({"store": True}, "store", "not supported"),
        ({"background": True}, "background", "not supported"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.name", "Field required"),
        ({"tools": [FUNCTION]}, "tools", "chat template does not tell"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice", "'name': NAME"),
        ({"tool_choice": "required"}, "tool_choice", "with tools 'required'"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format", "can only be {'type': 'text'}"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", "can only be 'medium'"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"user": "a", "safety_identifier": "b"}, "user", "contradict"),
        ({"messages": HELLO}, "messages", "not supported"),
        ({"conversation": "x" * 500_000}, "conversation", "no response is stored"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_and_named(running, changes, param, message):
    reply = httpx.post(f"{running.url}/v1/responses", json={"model": NAME, "input": "a", **changes})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param) and message in error["message"]
    assert len(reply.content) < LONGEST


def test_thoughts_are_an_item_and_an_answer_that_fails_is_an_event():
    asked = ResponseRequest(model=NAME, input="a")
    reply = ResponseReply(asked)
    reply.piece({"reasoning_content": "hm"})
    reply.piece({"content": "ok"})
    failed = json.loads(reply.failed(ApiError(503, "The server is being stopped.")).split("data: ")[1])
    assert failed["type"] == "response.failed" and failed["response"]["error"]["code"] == "server_error"
    assert [(item["type"], item["content"][0]["text"]) for item in failed["response"]["output"]] == [
        ("reasoning", "hm"), ("message", "ok"),
    ]  # fmt: skip
    whole = ResponseReply(asked).whole({"content": None}, "stop", 1, 0)
    assert [item["content"][0]["text"] for item in whole["output"]] == [""]
