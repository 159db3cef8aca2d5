"""Requests take turns: a long prompt keeps nobody waiting, can be given up while it is read, and has limits."""

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import mean

import httpx
import openai
import pytest
from served import HELLO, NAME, ask, at_work, client, most_together, quick, said, served, until
from words import tokenizer

from ttt_retrofit.serving import app
from ttt_retrofit.serving.admission import AdmissionControl, Limits, Overloaded

WIDE = Limits(max_body=1 << 22, max_prompt=1 << 20, max_new_tokens=100_000, max_per_user=100)


def long(words):
    return said(" ".join(["Marek"] * words))


@pytest.fixture(scope="module")
def model():
    return quick()


def reading(url, messages, **settings):
    """A request whose prompt is being read, and the stream of its reply."""
    body = {"model": NAME, "messages": messages, "stream": True, **settings}
    return httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"learn_from": "prompt"}, {"learn_from": "none"}])
def test_whoever_comes_later_is_answered_as_alone_and_so_is_who_was_there(settings, tmp_path):
    """Prompts are read apart and answers written together; nothing of it is to be seen in a greedy answer."""
    model = quick()
    model.configure_ttt(**settings)
    model.generation_config.repetition_penalty = 1.3  # of the whole answer, not of a turn
    asked = [HELLO, long(30), said("who ?", "Otto", "what is blue ?"), long(9), long(200)]
    with served(tmp_path, model, limits=WIDE) as (url, service):
        chat = client(url).chat.completions

        def answer(messages):
            return ask(chat, messages, max_tokens=24).choices[0].message.content

        alone = [answer(messages) for messages in asked]
        batches = most_together(service)
        for _ in range(10):  # how many are written together depends on who is quick
            with ThreadPoolExecutor(len(asked)) as pool:
                assert list(pool.map(answer, asked)) == alone
            if max(batches) > 2:
                break
        assert max(batches) > 2


def test_least_tokens_are_counted_from_the_beginning_of_an_answer(tmp_path):
    """The settings of a checkpoint mean in turns what they mean to `generate`."""
    model, words = quick(), tokenizer()
    ids = words.apply_chat_template(HELLO, add_generation_prompt=True, return_tensors="pt", return_dict=True).input_ids

    def written(**settings):
        return model.generate(ids, do_sample=False, memories=[None], **settings)[0, ids.shape[1] :]

    free = written(max_new_tokens=24)
    model.generation_config.eos_token_id = [int(free[1])]
    model.generation_config.min_new_tokens = 6
    expected = written(max_new_tokens=24)
    with served(tmp_path, model, limits=WIDE) as (url, _), reading(url, long(40_000)):
        reply = ask(client(url).chat.completions, max_tokens=24)
    assert reply.usage.completion_tokens == len(expected) > 5
    assert reply.choices[0].message.content == words.decode(expected, skip_special_tokens=True)


@pytest.mark.slow
def test_a_long_prompt_keeps_nobody_waiting(model, tmp_path):
    """Twenty users with short prompts wait at most twice as long beside a long one as alone."""
    with served(tmp_path, model, most=64, limits=WIDE) as (url, service):
        chat = client(url).chat.completions

        def wait(number):
            begun = time.monotonic()
            ask(chat, said(f"where is Marek {number} ?"), user=f"user {number}", max_tokens=16)
            return time.monotonic() - begun

        def waits():
            with ThreadPoolExecutor(20) as pool:
                return list(pool.map(wait, range(20)))

        waits()
        alone = waits()
        with reading(url, long(40_000)):
            until(lambda: at_work(service))
            beside = waits()
            assert at_work(service), "The long prompt was read before the others were answered."
        print(
            f"alone {mean(alone):.2f} s (most {max(alone):.2f}), beside {mean(beside):.2f} s (most {max(beside):.2f})"
        )
        assert mean(beside) < 2 * mean(alone) + 0.2 and max(beside) < 2 * max(alone) + 0.5


def test_several_long_prompts_keep_nobody_waiting(model, tmp_path):
    with served(tmp_path, model, batch=2, limits=WIDE) as (url, service):
        chat = client(url).chat.completions
        ask(chat)
        with reading(url, long(20_000)), reading(url, long(20_000)), reading(url, long(20_000)):
            until(lambda: len(at_work(service)) + len(service.scheduler._waiting) == 3)
            begun = time.monotonic()
            ask(chat)
            assert time.monotonic() - begun < 3


def test_a_client_that_goes_while_its_prompt_is_read_is_read_for_no_longer(model, tmp_path):
    with served(tmp_path, model, limits=WIDE) as (url, service):
        for stream in (True, False):
            with pytest.raises((httpx.ReadTimeout, StopIteration)):
                body = {"model": NAME, "messages": long(40_000), "stream": stream}
                with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=1.5) as reply:
                    lines = reply.iter_lines()  # which closes the stream when it is let go
                    next(lines)
                    until(lambda: at_work(service), 5)
                    (request,) = at_work(service)
                    raise StopIteration
            until(lambda: not at_work(service), 5)
        assert request.finished and not request.tokens
        assert service.admission._in_use.total() == 0


@pytest.mark.slow
def test_a_stream_is_kept_alive_while_its_prompt_is_read(model, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "KEEP_ALIVE", 0.05)
    with served(tmp_path, model, limits=WIDE) as (url, _):
        with reading(url, long(40_000)) as stream:
            lines = (line for line in stream.iter_lines() if line)
            assert next(lines).startswith("data: ")
            assert next(lines) == ": keep-alive"
        pieces = ask(client(url).chat.completions, long(500), stream=True, max_tokens=4)  # which reads over them
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces)


def test_a_server_that_is_stopped_while_it_reads_ends_soon_and_in_words(model, tmp_path, caplog):
    def streamed(url):
        with reading(url, long(40_000)) as stream:
            return [line for line in stream.iter_lines() if line.startswith("data: ")][-1]

    with ThreadPoolExecutor(2) as pool:
        with served(tmp_path, model, limits=WIDE) as (url, service):
            body = {"model": NAME, "messages": long(40_000)}
            whole = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=body, timeout=60)
            pieces = pool.submit(streamed, url)
            until(lambda: service.admission._in_use.total() == 2 and at_work(service))
            begun = time.monotonic()
        assert time.monotonic() - begun < 6
        assert "being stopped" in pieces.result() and whole.result().status_code == 503
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.slow
def test_a_server_that_closes_reads_no_further_and_writes_to_the_end(tmp_path):
    endless = quick()
    endless.generation_config.eos_token_id = [10_000]
    with served(tmp_path, endless, limits=WIDE) as (url, service):
        expected = ask(client(url).chat.completions, max_tokens=100).choices[0].message.content
        stream = ask(client(url).chat.completions, max_tokens=100, stream=True)
        text = "".join(next(stream).choices[0].delta.content or "" for _ in range(3))
        with reading(url, long(40_000)) as unread:
            until(lambda: len(at_work(service)) == 2)
            service.scheduler.close()
            assert "being stopped" in unread.read().decode()
        with pytest.raises(openai.InternalServerError, match="being stopped"):
            ask(client(url).chat.completions)
        assert text + "".join(piece.choices[0].delta.content or "" for piece in stream) == expected


# ---------------------------------------------------------------------- limits


def test_prompts_that_are_too_long_are_refused_before_anything_is_read(model, tmp_path):
    narrow = Limits(max_prompt=50, max_new_tokens=8)
    with served(tmp_path, model, limits=narrow) as (url, service):
        chat = client(url).chat.completions
        counted = []
        prompt = service.scheduler.prompt
        service.scheduler.prompt = lambda messages, tools: (counted.append(messages), prompt(messages, tools))[1]
        for messages, told in (
            (long(60), "50"),
            (said("a" * 500), "400 bytes"),
            ([*said(*["a"] * 99)], "messages"),
        ):
            with pytest.raises(openai.BadRequestError) as error:
                ask(chat, messages)
            assert error.value.code == "context_length_exceeded" and error.value.param == "messages"
            assert told in error.value.message
        assert len(counted) == 1
        assert ask(chat).choices


def test_one_user_cannot_take_all_slots(model, tmp_path):
    endless = quick()
    endless.generation_config.eos_token_id = [10_000]
    limits = Limits(max_new_tokens=100_000, max_per_user=2)
    with served(tmp_path, endless, limits=limits) as (url, service):
        chat = client(url).chat.completions
        with reading(url, HELLO, user="ines"), reading(url, HELLO, user="ines"):
            until(lambda: service.admission._in_use["ines"] == 2)
            with pytest.raises(openai.RateLimitError, match="2 requests of this user") as error:
                ask(chat, user="ines")
            assert int(error.value.response.headers["Retry-After"]) > 0
            assert ask(chat, user="otto").choices and ask(chat).choices
        until(lambda: not service.admission._in_use)
        assert ask(chat, user="ines").choices


def test_a_slot_is_released_once():
    admission = AdmissionControl(Limits(max_concurrent=2, max_per_user=1))
    first, _ = admission.admit("ines"), admission.admit(None)
    with pytest.raises(Overloaded, match="as many as may be"):
        admission.admit("otto")
    first.release()
    first.release()
    admission.admit("ines")
    with pytest.raises(Overloaded):
        admission.admit(None)


def test_a_user_with_too_much_to_learn_is_told_to_be_silent(model, tmp_path):
    with served(tmp_path, model, limits=Limits(max_unlearned=3, max_new_tokens=8)) as (url, _):
        chat = client(url).chat.completions
        ask(chat, user="ines")
        ask(chat, said("who ?"), user="ines")
        with pytest.raises(openai.RateLimitError, match="4 messages of this user wait"):
            ask(chat, said("what is blue ?"), user="ines")
        assert ask(chat, user="otto").choices


# ---------------------------------------------------------------------- learned positions


@pytest.mark.slow
def test_an_answer_that_runs_out_of_positions_ends_and_its_neighbours_go_on(tmp_path):
    short = quick("gpt2")
    short.generation_config.eos_token_id = [10_000]
    positions = short.learned_positions
    with served(tmp_path, short, limits=WIDE) as (url, _):
        chat = client(url).chat.completions
        near = long(positions - 15)

        def answer(case):
            messages, most = case
            reply = ask(chat, messages, max_tokens=most)
            return reply.choices[0].message.content, reply.choices[0].finish_reason, reply.usage

        cases = [(HELLO, 30), (near, 30), (HELLO, 30)]
        alone = [answer(case) for case in cases]
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(answer, cases)) == alone
        assert [reason for _, reason, _ in alone] == ["length"] * 3
        assert alone[1][2].total_tokens == positions + 1 and alone[0][2].completion_tokens == 30
        with pytest.raises(openai.BadRequestError, match="positions"):
            ask(chat, long(positions + 1))
