"""The soak test sees what it is there for: facts that are lost, stay, or are told to another user."""

import random

import httpx

from benchmarks.soak import _on_disk
from benchmarks.soaking.users import GONE, KNOWN, UNSURE, User
from benchmarks.soaking.writer import _answer, _write, question, sentence
from ttt_retrofit.serving.directories import directory_name, write_identity

LOCKER = sentence("locker", "U01X0000")


def user(reply=lambda request: httpx.Response(404), **codes):
    made = User(1, "http://here", "tiny", random.Random(0), {f"U01X{name[1:]}": state for name, state in codes.items()})
    made._client = httpx.Client(transport=httpx.MockTransport(reply))
    return made


def remembering(*texts):
    """A server that has these facts, and no messages."""

    def reply(request):
        facts = [{"text": text} for text in texts] if request.url.path.endswith("facts") else []
        return httpx.Response(200, json={"data": facts})

    return reply


def test_a_user_sees_what_is_lost_what_is_not_deleted_and_what_is_of_others():
    for told, codes, wrong in (
        ([LOCKER], {"_0000": KNOWN}, None),
        ([], {"_0000": KNOWN}, "is lost"),
        ([LOCKER], {"_0000": GONE}, "was deleted, and is there"),
        ([LOCKER], {"_0000": UNSURE}, None),
        ([], {"_0000": UNSURE}, None),
        ([sentence("locker", "U02X0000")], {}, "of user 01"),
    ):
        one = user(remembering(*told), **codes)
        one.look()
        assert [wrong in found for found in one.wrong] == ([True] if wrong else []), (told, codes)


def test_a_change_that_a_kill_hid_is_still_held_to_what_was_acknowledged():
    replies = iter([httpx.Response(202, json={"id": "c", "status": "waiting"}), None, httpx.Response(404)])

    def reply(request):
        if request.url.path.endswith(("facts", "c")) and (found := next(replies, 0)) != 0:
            if found is None:
                raise httpx.ReadError("killed")
            return found
        return remembering()(request)

    one = user(reply)
    one._change("added", "POST", "facts", json={}, known="U01X0000")
    assert one.codes == {"U01X0000": KNOWN} and one.counted["added, then not known after a kill"] == 1
    assert "U01X0000 was acknowledged, and is lost" in one.wrong


def test_codes_of_others_and_codes_that_were_purged_are_found_on_disk(tmp_path):
    directory = tmp_path / directory_name("user 01")
    directory.mkdir()
    write_identity(directory, "user 01")
    (directory / "turns.json").write_text(LOCKER + sentence("gate", "U02X0003"))
    everybody = [user(_0000=GONE)]
    assert [line[:8] for line in _on_disk(tmp_path, None, everybody)] == ["U02X0003"]
    assert len(_on_disk(tmp_path, None, everybody, all_done=True)) == 2


def test_the_writer_lists_asks_and_answers():
    assert _write(f"[1] User: {LOCKER}\n[2] Assistant: Hello.") == f"[1] {LOCKER}"
    assert _write(f"Statement\n{LOCKER}").splitlines()[0] == f"U01X0000 | {question('locker')}"
    assert _answer(question("locker"), LOCKER) == "The code of your locker is U01X0000."
    assert _answer(question("gate"), LOCKER) == "I do not know."
