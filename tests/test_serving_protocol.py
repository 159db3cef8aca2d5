"""The server as clients see it: OpenAI's protocol, its errors, its limits, and the authentication."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import openai
import pytest
import torch
from served import HELLO, NAME, ask, at_work, client, most_together, quick, said, served, until
from transformers import GenerationConfig
from words import STORY, tokenizer

from ttt_retrofit import ConfigError
from ttt_retrofit.serving.admission import Limits
from ttt_retrofit.serving.auth import check_exposure
from ttt_retrofit.serving.detokenizer import IncrementalDetokenizer
from ttt_retrofit.serving.sampling import Sampling


@pytest.fixture(scope="module")
def model():
    return quick()


@pytest.fixture(scope="module")
def endless():
    """A model whose answers never end by themselves."""
    model = quick()
    model.generation_config.eos_token_id = [10_000]
    return model


@pytest.fixture(scope="module")
def running(model, tmp_path_factory):
    """A server that is shared by tests which leave nothing behind."""
    with served(tmp_path_factory.mktemp("store"), model) as (url, service):
        yield SimpleNamespace(url=url, service=service, chat=client(url).chat.completions, model=model)


# ---------------------------------------------------------------------- the protocol


def test_an_answer_is_what_generate_gives(running):
    reply = ask(running.chat)
    ids = tokenizer().apply_chat_template(HELLO, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = running.model.generate(ids["input_ids"], max_new_tokens=8, do_sample=False, memories=[None])
    new = written[0, ids["input_ids"].shape[1] :]
    assert reply.choices[0].message.content == tokenizer().decode(new, skip_special_tokens=True)
    assert reply.usage.prompt_tokens == ids["input_ids"].shape[1] and reply.usage.completion_tokens == len(new)
    assert reply.choices[0].finish_reason == ("stop" if new[-1] == 2 else "length")


def test_a_stream_says_the_same_in_pieces(running):
    whole = ask(running.chat)
    pieces = list(ask(running.chat, stream=True, stream_options={"include_usage": True}))
    assert "".join(p.choices[0].delta.content or "" for p in pieces[:-1]) == whole.choices[0].message.content
    assert sum(bool(p.choices and p.choices[0].delta.content) for p in pieces) > 3
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert pieces[-1].choices == [] and pieces[-1].usage == whole.usage
    assert all(p.usage is None for p in ask(running.chat, stream=True))


def test_an_answer_ends_before_a_stop(running):
    whole = ask(running.chat).choices[0].message.content
    words = whole.split(" ")
    for stops in ([words[3]], [words[5], words[3]], [f" {words[3]}"], [words[2][-1] + " " + words[3]]):
        reply = ask(running.chat, stop=stops[0] if len(stops) == 1 else stops)
        expected = whole[: min(whole.find(stop) for stop in stops)]
        assert reply.choices[0].message.content == expected and reply.choices[0].finish_reason == "stop"
        streamed = "".join(p.choices[0].delta.content or "" for p in ask(running.chat, stop=stops, stream=True))
        assert streamed == expected


def test_a_seed_draws_the_same_alone_and_among_others(running):
    sampled = {"temperature": 1.5, "top_p": 0.9}

    def text(seed):
        return ask(running.chat, seed=seed, **sampled).choices[0].message.content

    alone = {seed: text(seed) for seed in range(4)}
    assert len(set(alone.values())) > 1
    with ThreadPoolExecutor(4) as pool:
        assert dict(zip(alone, pool.map(text, alone))) == alone


def test_models_and_health(running):
    api = client(running.url)
    assert [model.id for model in api.models.list()] == [NAME] and api.models.retrieve(NAME).id == NAME
    assert httpx.get(f"{running.url}/health").json() == {"status": "ok"}


def test_wrong_bodies_models_and_paths_are_errors_in_the_same_shape(running):
    def status(method, path, **kwargs):
        reply = httpx.request(method, running.url + path, **kwargs)
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        return reply.status_code

    chat, kind = "/v1/chat/completions", {"Content-Type": "application/json"}
    assert status("POST", chat, content=b"{", headers=kind) == 400
    assert status("POST", chat, content=b'{"user": "\\ud800"}', headers=kind) == 400
    assert status("POST", chat, content=b"{}", headers={"Content-Type": "text/plain"}) == 415
    assert status("POST", chat, json={"model": "another", "messages": HELLO}) == 404
    assert status("GET", chat) == 405
    assert status("GET", "/v1/nothing") == 404
    assert status("GET", "/v1/memories/nobody") == 404
    assert status("DELETE", "/v1/memories/nobody") == 404
    for host in ("evil.example", "localhost.evil.example", "[::1", "192.168.0.1:8000", ""):
        assert status("GET", "/v1/models", headers={"Host": host}) == 403
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "127.8.8.8"):
        assert httpx.get(f"{running.url}/v1/models", headers={"Host": host}).status_code == 200


# ---------------------------------------------------------------------- limits and authentication


def test_a_body_that_is_too_large_is_refused_announced_or_not(model, tmp_path):
    with served(tmp_path, model, limits=Limits(max_body=500, max_new_tokens=4)) as (url, _):
        large = {"model": NAME, "messages": [{"role": "user", "content": "a" * 500}]}
        with pytest.raises(openai.APIStatusError) as error:
            client(url).chat.completions.create(**large)
        assert error.value.status_code == 413 and "500 bytes" in error.value.message

        def parts():
            yield json.dumps(large).encode()

        kind = {"Content-Type": "application/json"}
        assert httpx.post(f"{url}/v1/chat/completions", content=parts(), headers=kind).status_code == 413
        assert ask(client(url).chat.completions, max_tokens=2).choices


def begun(chat, **settings):
    """A stream of an endless answer, which has begun."""
    stream = chat.create(model=NAME, messages=HELLO, stream=True, max_tokens=100_000, temperature=0, **settings)
    assert next(stream).choices[0].delta.role == "assistant" and next(stream).choices[0].delta.content
    return stream


ENDLESS = Limits(max_new_tokens=100_000)


def test_more_requests_than_may_wait_are_told_when_to_come_again(endless, tmp_path):
    with served(tmp_path, endless, most=1, limits=ENDLESS) as (url, service):
        chat = client(url).chat.completions
        stream = begun(chat)
        (written,) = at_work(service)
        with pytest.raises(openai.RateLimitError) as error:
            ask(chat)
        assert int(error.value.response.headers["Retry-After"]) > 0
        stream.close()
        until(lambda: written.finished, 20)
        assert ask(chat).choices


def test_a_client_that_goes_stops_its_answer(endless, tmp_path):
    with served(tmp_path, endless, limits=ENDLESS) as (url, service):
        stream = begun(client(url).chat.completions, user="ines")
        (written,) = at_work(service)
        stream.close()
        until(lambda: written.finished, 20)
        assert service.users.get("ines").waiting == 0


def test_a_client_that_waits_no_longer_stops_its_answer(endless, tmp_path):
    with served(tmp_path, endless, limits=ENDLESS) as (url, service):
        requests, submit = [], service.scheduler.submit
        service.scheduler.submit = lambda request: (requests.append(request), submit(request))
        impatient = client(url).with_options(timeout=0.5)
        with pytest.raises(openai.APITimeoutError):
            impatient.chat.completions.create(model=NAME, messages=HELLO, max_tokens=100_000, temperature=0)
        until(lambda: requests and requests[0].finished, 30)


def test_stopping_the_server_ends_what_is_being_written(endless, tmp_path):
    with served(tmp_path, endless, limits=ENDLESS) as (url, _):
        stream = begun(client(url).chat.completions)
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        list(stream)


def test_the_key_is_asked_for_everywhere_but_for_health(model, tmp_path):
    with served(tmp_path, model, key="sésame") as (url, _):
        for key in ("wrong", "sésam"):
            reply = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}".encode()})
            assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
        for method, path in (("POST", "/v1/chat/completions"), ("DELETE", "/v1/memories/ines"), ("GET", "/nothing")):
            assert httpx.request(method, url + path).status_code == 401
        assert httpx.get(f"{url}/health").status_code == 200
        right = {"Authorization": "Bearer sésame".encode(), "Host": "chat.example"}
        assert httpx.get(f"{url}/v1/models", headers=right).status_code == 200


def test_strangers_are_not_served_without_a_key():
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        check_exposure(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        check_exposure(host, "key")
        for key in (None, ""):
            with pytest.raises(ConfigError, match="no API key"):
                check_exposure(host, key)


def test_what_one_request_cannot_does_not_fail_its_neighbours(tmp_path):
    """Of learned positions there are only so many."""
    short = quick("gpt2")
    with served(tmp_path, short) as (url, service):
        chat = client(url).chat.completions
        alone = ask(chat).choices[0].message.content
        batches = most_together(service)

        def answer(messages):
            try:
                return ask(chat, messages).choices[0].message.content
            except openai.BadRequestError as error:
                return error.message

        with ThreadPoolExecutor(4) as pool:
            found = [*pool.map(answer, [HELLO, HELLO, said(" ".join(["Marek"] * 600)), HELLO])]
        assert max(batches) > 1 and "positions" in found.pop(2)
        assert found == [alone] * 3


# ---------------------------------------------------------------------- pieces


def test_text_is_decoded_as_a_whole_however_it_is_cut():
    words = tokenizer()
    ids = words(STORY, add_special_tokens=False).input_ids
    detokenizer = IncrementalDetokenizer(words)
    assert "".join([*(detokenizer.add(token) for token in ids), detokenizer.end()]) == words.decode(
        ids, skip_special_tokens=True
    )


class Bytes:
    """A tokenizer of bytes: what a character of several decodes to is not known at its first."""

    def decode(self, ids, skip_special_tokens):
        return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("stops", [(), ("né",), ("x",), ("ana", "nas"), ("🙂!",)])
def test_characters_are_never_cut_and_stops_never_shown(stops):
    text = "banane née 🙂 bananas"
    detokenizer = IncrementalDetokenizer(Bytes(), stops)
    pieces = [detokenizer.add(byte) for byte in text.encode()]
    shown = "".join([*pieces, detokenizer.end()])
    cut = min((text.find(stop) for stop in stops if stop in text), default=len(text))
    assert shown == text[:cut] and detokenizer.stopped == (cut < len(text))
    assert not any("�" in piece for piece in pieces)


def test_a_checkpoint_s_own_sampling_is_the_default():
    def sampling(*given, **recommended):
        made = Sampling.from_request(SimpleNamespace(generation_config=GenerationConfig(**recommended)), *given, None)
        return made.temperature, made.top_p, made.top_k

    recommended = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20}
    assert sampling(None, None) == (0.0, 1.0, 0)
    assert sampling(None, 0.5) == (1.0, 0.5, 0)
    assert sampling(None, None, **recommended) == (0.6, 0.9, 20)
    assert sampling(0.0, None, **recommended)[0] == 0.0
    assert sampling(1.0, 0.5, **recommended) == (1.0, 0.5, 20)


def test_draws_follow_the_distribution_and_the_nucleus():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    drawing = Sampling(1.0, seed=0)
    counts = torch.bincount(torch.tensor([int(drawing(logits).argmax()) for _ in range(4000)]), minlength=4) / 4000
    torch.testing.assert_close(counts, logits.exp(), atol=0.03, rtol=0)
    for narrow in (Sampling(1.0, top_p=0.75, seed=0), Sampling(1.0, top_k=2, seed=0)):
        assert {int(narrow(logits).argmax()) for _ in range(200)} == {0, 1}
    assert Sampling(1e-4, seed=0)(logits).argmax() == 0 and Sampling()(logits) is logits
