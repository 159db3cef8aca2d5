"""One definition of a user id: whatever a request may name can be read and erased, by that very id, and by no other."""

import os
import unicodedata
from urllib.parse import quote

import httpx
import pytest
from commands import fails, run
from served import HELLO, NAME, ask, client, quick, served, users

from ttt_retrofit import InputError
from ttt_retrofit.serving.directories import directory_name, erase_stored
from ttt_retrofit.serving.identity import MAX_LENGTH, check_identity

NFC, NFD = (unicodedata.normalize(form, "inés") for form in ("NFC", "NFD"))
ODD = [
    "ines", "ines ", " ines", " ", "Ines", "ines/", "/ines", "//", "a/b/c", "../ines", "../../etc/passwd", "./x", "...",
    "..a", "%", "%0A", "ines%0A", "%2e%2e", "100%25", "a+b", "?", "ines?x=1", "#", "ines#x", "&=;", "\\", "C:\\x",
    '"', "'", "<b>", "{user}", "[red]x[/red]", "[/x]", "-ines", "--help", "~", "*", "|", "^", "`", "None", "null", "0",
    NFC, NFD, "名前", "🙂", "\u2028", "\u200b", "\u202eines", "\ufeffines", "\u0301", "ﬁ", "Ⅻ", "user@example.org",
    "é" * MAX_LENGTH,
]  # fmt: skip
REFUSED = [
    "", ".", "..", "ines\n", "\n", "a\nb", "ines\r", "ines\r\n", "\t", "\x00", "a\x00b", "\x1b[2J", "\x7f", "\x85",
    "\ufffd", "ines\ufffd", "x" * (MAX_LENGTH + 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    with served(store, quick()) as (url, service):
        yield url, service, store


def address(url, identity):
    return f"{url}/v1/memories/{quote(identity, safe='')}"


def test_whoever_is_recorded_is_listed_read_and_erased_by_that_very_id(running):
    url, service, store = running
    for identity in ODD:
        service.users.record(identity, service.users.get(identity), HELLO, "there")
    listed = httpx.get(f"{url}/v1/memories").json()["data"]
    assert sorted(user["id"] for user in listed) == sorted(ODD)
    assert len(set(map(directory_name, ODD))) == len(ODD) == len(list(store.glob("*/turns.json")))
    web = httpx.Client()
    for gone, identity in enumerate(ODD, start=1):
        found = web.get(address(url, identity))
        assert (found.status_code, found.json()["id"], found.json()["messages_waiting"]) == (200, identity, 2)
        assert web.delete(address(url, identity)).json()["id"] == identity
        assert len(list(store.glob("*/turns.json"))) == len(ODD) - gone  # and nobody else
        assert web.delete(address(url, identity)).status_code == 404


@pytest.mark.parametrize("identity", REFUSED)
def test_what_is_no_user_id_is_refused_everywhere(running, tmp_path, identity):
    url, service, _ = running
    with pytest.raises(InputError, match="user id"):
        check_identity(identity)
    body = {"model": NAME, "messages": HELLO, "max_tokens": 1}
    for name in ("user", "safety_identifier"):
        reply = httpx.post(f"{url}/v1/chat/completions", json={**body, name: identity})
        if identity:
            assert reply.status_code == 400 and reply.json()["error"]["param"] == name
        else:  # it asks for nothing: no memory is active, and nothing is kept
            assert reply.status_code == 200
    if identity not in (".", ".."):  # which no client sends: it asks for another address
        for method in ("GET", "DELETE"):
            reply = httpx.request(method, address(url, identity))
            assert reply.status_code == 400 and "user id" in reply.json()["error"]["message"]
    with pytest.raises(InputError, match="user id"):
        erase_stored(tmp_path, identity)
    with pytest.raises(InputError, match="user id"):
        service.users.get(identity)


def test_a_neighbouring_address_erases_nobody(running):
    """Line breaks, a query, what is no UTF-8, an escaped dot: none of them is the user whose id it resembles."""
    url, service, _ = running
    for identity in ("ines", "\u00ff"):
        service.users.record(identity, service.users.get(identity), HELLO, "there")
    for path in (
        "ines%0A",
        "ines%00",
        "ines?x=1",
        "ines%20",
        "%FF",
        "ines%FF",
        "%ED%A0%80",
        "%2E%2E",
        "%2E",
        "ines/",
        "",
    ):
        reply = httpx.delete(f"{url}/v1/memories/{path}")
        assert reply.status_code in (400, 404), path
    assert service.users.known("ines") and service.users.known("\u00ff")
    for identity in ("ines", "\u00ff"):
        assert httpx.delete(address(url, identity)).status_code == 200


def test_who_asked_in_a_chat_is_erased_on_the_command_line(tmp_path):
    odd = ["a/b?c#d%0A", "[/x]", "-ines", "--json", NFD, "🙂 "]
    with served(tmp_path, quick()) as (url, _):
        for identity in odd:
            assert ask(client(url).chat.completions, user=identity, max_tokens=1).choices
        assert len(httpx.get(f"{url}/v1/memories").json()["data"]) == len(odd)
    for number, identity in enumerate(odd, start=1):
        assert identity in run("memory", "erase", tmp_path, "--yes", "--", identity).stdout
        assert len(list(tmp_path.glob("*/user.json"))) == len(odd) - number
    for identity in ("..", "ines\n", os.fsdecode(b"in\xff")):
        assert "user id" in fails("memory", "erase", tmp_path, "--", identity)


def test_ids_are_kept_for_their_owner_only_and_filled_in_where_they_are_missing(tmp_path):
    model = quick()
    known = users(model, tmp_path)
    for identity in ("ines", "otto", "runa"):
        known.record(identity, known.get(identity), HELLO, "there")
        assert (tmp_path / directory_name(identity) / "user.json").stat().st_mode & 0o777 == 0o600
    known.close()
    (tmp_path / directory_name("otto") / "user.json").unlink()  # as an earlier version left it
    (tmp_path / directory_name("runa") / "user.json").write_text(
        '{"id": "ines"}'
    )  # says what its directory's name contradicts
    known = users(model, tmp_path)
    unknown = sorted(directory_name(identity) for identity in ("otto", "runa"))
    assert known.stored() == [("ines", directory_name("ines")), *((None, name) for name in unknown)]
    for identity in ("otto", "runa"):
        known.get(identity)
    assert [identity for identity, _ in known.stored()] == ["ines", "otto", "runa"]
