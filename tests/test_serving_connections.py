"""Clients that send half of a request, too much of one, or from a browser: others are answered, and each is told."""

import http.client
import json
import select
import socket
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from types import SimpleNamespace

import httpx
import pytest
from served import HELLO, NAME, ask, client, quick, served, until

from ttt_retrofit import ConfigError
from ttt_retrofit.serving import connections
from ttt_retrofit.serving.admission import Limits
from ttt_retrofit.serving.auth import check_exposure

SMALL = Limits(max_body=100_000, max_new_tokens=64)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with served(tmp_path_factory.mktemp("store"), quick(), limits=SMALL) as (url, _):
        port = int(url.rpartition(":")[2])
        yield SimpleNamespace(url=url, port=port, chat=client(url).chat.completions)


def connected(running, sent=b""):
    one = socket.create_connection(("127.0.0.1", running.port), timeout=30)
    one.sendall(sent)
    return one


HALF_A_HEADER = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le"
HALF_A_BODY = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 1000\r\n\r\n{"model": '
)


@pytest.mark.parametrize("sent", [b"", HALF_A_HEADER, HALF_A_BODY], ids=["nothing", "half a header", "half a body"])
def test_half_a_request_keeps_nobody_out(running, sent):
    ask(running.chat)
    with ExitStack() as opened:
        for _ in range(300):
            opened.enter_context(connected(running, sent))
        begun = time.monotonic()
        assert ask(client(running.url).chat.completions).choices
        assert time.monotonic() - begun < 5


def test_of_too_many_that_ask_nothing_the_oldest_go(running, monkeypatch):
    monkeypatch.setattr(connections, "MAX_IDLE", 20)
    with ExitStack() as opened:
        half = [opened.enter_context(connected(running, HALF_A_HEADER)) for _ in range(60)]

        def gone():
            return [one for one in half if select.select([one], [], [], 0)[0]]

        until(lambda: len(gone()) >= 40, 10)
        assert gone() == half[: len(gone())] and len(gone()) <= 42


def test_who_sends_no_headers_is_let_go(running, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_TIMEOUT", 0.5)
    for sent in (b"", HALF_A_HEADER):
        with connected(running, sent) as one:
            assert one.recv(100) == b""
    with connected(running, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as one:  # and then nothing more
        assert b"200 OK" in one.recv(1000)
        one.sendall(HALF_A_HEADER)
        until(lambda: one.recv(1000) == b"", 10)


def test_headers_that_are_too_long_are_refused_in_words(running):
    with connected(running, b"GET /health HTTP/1.1\r\nHost: localhost\r\n") as one:
        one.sendall(b"X-Long: " + b"x" * 2_000_000)
        head, _, body = b"".join(iter(lambda: one.recv(10_000), b"")).partition(b"\r\n\r\n")
    assert b"400 Bad Request" in head and json.loads(body)["error"]["type"] == "invalid_request_error"


LARGE = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "a" * 8_000_000}]}).encode()


def through_urllib(url, headers, body):
    """A client that asks for the connection to be closed."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30)
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def through_http_client(url, headers, body):
    one = http.client.HTTPConnection(url.split("/")[2], timeout=30)
    one.request("POST", f"/{url.split('/', 3)[3]}", body, headers)
    reply = one.getresponse()
    return reply.status, reply.read()


def through_httpx(url, headers, body):
    reply = httpx.post(url, content=body, headers=headers)
    return reply.status_code, reply.content


def in_chunks(url, headers, body):
    """Nothing is announced."""
    reply = httpx.post(url, content=(body[at : at + 65536] for at in range(0, len(body), 65536)), headers=headers)
    return reply.status_code, reply.content


@pytest.mark.parametrize("through", [through_urllib, through_http_client, through_httpx, in_chunks])
def test_who_sends_too_much_is_told_so(running, through):
    kind = {"Content-Type": "application/json"}
    for path, headers, expected in (
        ("/v1/chat/completions", kind, 413),
        ("/v1/chat/completions", {"Content-Type": "text/plain"}, 415),
        ("/v1/chat/completions", {**kind, "Host": "evil.example"}, 403),
        ("/nowhere", kind, 404),
        ("/v1/models", kind, 405),
    ):
        status, body = through(running.url + path, headers, LARGE)
        assert status == expected and json.loads(body)["error"]["message"]
    assert ask(running.chat).choices


def test_a_key_is_taken_in_every_case_of_its_scheme(tmp_path):
    with served(tmp_path, quick(), key="secret") as (url, _):
        for scheme in ("Bearer", "bearer", "BEARER"):
            given = {"Authorization": f"{scheme} secret"}
            assert httpx.get(f"{url}/v1/models", headers=given).status_code == 200
        for wrong in ("secret", "Basic secret", "bearer", "bearer secre", "bearer secret2", "bearersecret", ""):
            assert httpx.get(f"{url}/v1/models", headers={"Authorization": wrong}).status_code == 401


def test_pages_of_the_origins_that_were_named_may_ask(tmp_path):
    page, other = "http://localhost:3000", "http://evil.example"
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    with served(tmp_path, quick(), key="secret", origins=[page, "https://chat.example"]) as (url, _):
        path = f"{url}/v1/chat/completions"
        before = httpx.options(path, headers={"Origin": page, **asking})
        assert before.status_code == 200 and before.headers["access-control-allow-origin"] == page
        assert "authorization" in before.headers["access-control-allow-headers"].lower()
        body = {"model": NAME, "messages": HELLO, "max_tokens": 2}
        key = {"Authorization": "Bearer secret"}
        reply = httpx.post(path, json=body, headers={"Origin": page, **key})
        assert reply.status_code == 200 and reply.headers["access-control-allow-origin"] == page
        refused = httpx.post(path, json=body, headers={"Origin": page})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == page
        assert "access-control-allow-origin" not in httpx.options(path, headers={"Origin": other, **asking}).headers
        assert (
            "access-control-allow-origin" not in httpx.post(path, json=body, headers={"Origin": other, **key}).headers
        )


def test_every_page_may_ask_only_of_a_server_with_a_key(running):
    preflight = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in httpx.options(running.url + "/v1/models", headers=preflight).headers
    check_exposure("127.0.0.1", None, ["http://localhost:3000"])
    check_exposure("127.0.0.1", "key", ["*"])
    with pytest.raises(ConfigError, match="every web page"):
        check_exposure("127.0.0.1", None, ["*"])
