"""Every store is listed, shown, asked and erased by the same verbs: of a chat, of a server, of one or several users."""

import pytest
from commands import document, fails, run
from converted import converted
from test_memory_facts import BOLT, GRAZ, MOVED, OSLO, told

from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.serving.directories import directory_name, lock_store, write_identity
from ttt_retrofit.util.files import write_list
from ttt_retrofit_cli import loading

WAITING = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]


@pytest.fixture(scope="module")
def made():
    return told(converted(), [BOLT, MOVED], [GRAZ])


@pytest.fixture
def stores(made, tmp_path):
    """A server's user, two of chats, of whom one has only words so far, and one of a bare memory store."""
    served = tmp_path / directory_name("a/b ☺")
    MemoryStore(served / "memory").save(made)
    write_identity(served, "a/b ☺")
    MemoryStore(tmp_path / "ines" / "memory").save(made)
    (tmp_path / "otto").mkdir()
    for user in ("ines", "otto"):
        write_list(tmp_path / user / "turns.json", "messages", WAITING)
    MemoryStore(tmp_path / "runa").save(made)
    return tmp_path


def test_users_are_listed_with_what_is_known_and_what_waits(stores):
    listed = {row["user"]: row["facts"] for row in document("memory", "list", stores)["users"]}
    known = {"known": 2, "in_words": 1, "waiting": 0}
    assert listed == {
        "a/b ☺": known | {"messages_waiting": 0},
        "ines": known | {"messages_waiting": 2},
        "otto": {"known": 0, "in_words": 0, "waiting": 0, "messages_waiting": 2},
        "runa": known | {"messages_waiting": 0},
    }
    shown = run("memory", "list", stores).stdout
    assert all(user in shown for user in listed)
    (stores / "runa" / "current.json").write_text("{")
    damaged = {row["user"]: row for row in document("memory", "list", stores)["users"]}
    assert "damaged" in damaged["runa"]["error"] and damaged["ines"]["facts"] == listed["ines"]


def test_one_user_is_shown_by_facts_and_dates(stores):
    for where in ([stores, "--user", "ines"], [stores / "ines"]):
        shown = run("memory", "show", *where).stdout
        assert "2 known, 1 of them as words" in shown and "2 messages" in shown and "version 1" in shown
        assert BOLT.text in " ".join(shown.split()) and "2026-03-09" in shown and "superseded" not in shown
    assert "Nothing is remembered" in run("memory", "show", stores, "--user", "otto").stdout
    assert document("memory", "show", stores, "--user", "a/b ☺")["known"]["known"] == 2
    assert len(document("memory", "facts", stores, "--user", "runa")["facts"]) == 2
    assert [each["version"] for each in document("memory", "list", stores, "--user", "runa")["versions"]] == [1]
    assert "memory list" in fails("memory", "show", stores, "--user", "nobody")


@pytest.mark.parametrize(
    "verb", [["show"], ["facts"], ["ask", "who ?"], ["rollback"], ["add-fact", "I am."], ["erase"]]
)
def test_a_user_is_to_be_named_of_several_and_a_file_is_no_directory(stores, verb):
    name, *more = verb
    assert "several users. Name one" in fails("memory", name, stores, *more)
    (stores / "file").touch()
    assert "is a file" in fails("memory", name, stores / "file", *more)
    assert "of one user" in fails("memory", "show", stores / "ines", "--user", "ines")


def test_a_memory_is_asked_one_question_by_the_base_that_it_names(stores, monkeypatch):
    asked = []

    class Speaker:
        def ask(self, memory, question, **settings):
            asked.append((memory.facts()[0].text, question, settings["max_new_tokens"]))
            return "Bolt."

    monkeypatch.setattr(loading, "load_model", lambda name, options: asked.append(name) or Speaker())
    monkeypatch.setattr(loading, "load_tokenizer", lambda name, options: None)
    question = ["What is my dog called?", "--max-new-tokens", "5"]
    assert run("memory", "ask", stores, *question, "--user", "a/b ☺").stdout == "Bolt.\n"
    assert asked == ["tiny", (BOLT.text, question[0], 5)]
    assert document("memory", "ask", stores / "ines", *question, "--model", "m")["answer"] == "Bolt."
    assert asked[2] == "m"
    assert "2 messages wait" in fails("memory", "ask", stores, *question, "--user", "otto")


def test_every_kind_of_store_is_erased_after_one_yes(stores):
    assert "Erase" in run("memory", "erase", stores, "ines", stdin="n\n", code=1).stderr
    for user in ("a/b ☺", "ines", "otto", "runa"):
        assert user in run("memory", "erase", stores, user, stdin="y\n").stdout
    assert [path for path in stores.rglob("*.json") if path.is_file()] == []
    assert list(stores.rglob("versions")) == []
    assert "Nothing is stored" in fails("memory", "erase", stores, "a/b ☺")


def test_what_is_changed_is_asked_for_once_and_kept_from_a_server(stores):
    user = [stores, "--user", "a/b ☺"]
    assert "Go back" in run("memory", "rollback", *user, stdin="n\n", code=1).stderr
    serving = lock_store(stores)
    assert "server is using" in fails("memory", "rollback", *user, "--yes")
    assert "server is using" in fails("memory", "forget-fact", *user[:1], OSLO.id, *user[1:], "--yes")
    serving.release()
    assert document("memory", "rollback", *user, "--yes")["current"] is None
    assert "memory.forget_fact" in fails("memory", "forget-fact", stores, GRAZ.id, "--user", "runa", "--yes")
