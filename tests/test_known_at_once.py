"""What was told is known in the next conversation, before it is memory: in words, which the weights take over."""

import dataclasses
import json

import pytest
from converted import speaker
from scripted import NUMBERED, Scripted, script
from served import NEVER, said, until
from test_memory_facts import GRAZ, told
from words import tokenizer

from ttt_retrofit import ChatSession, CheckpointError, InputError
from ttt_retrofit.chat.directory import FACTS, TURNS, erase_directory
from ttt_retrofit.chat.fact_change import FactChange
from ttt_retrofit.chat.known import FactsInWords
from ttt_retrofit.chat.waiting import Waiting, note_of
from ttt_retrofit.consolidation.facts.verdicts import Judge
from ttt_retrofit.memory.facts import Fact
from ttt_retrofit.memory.notes import FORM, NoteForm, with_lines
from ttt_retrofit.serving.idle import IdleConsolidator
from ttt_retrofit.serving.users import Users

BOLT, GREYHOUND, NOW = "my dog is called Bolt .", "Bolt is a greyhound .", "my dog is called Panda ."
ASKED = [{"role": "user", "content": "what is my dog called ?"}]
SHORT = {"max_new_tokens": 2, "do_sample": False}
WORDS = tokenizer()


@pytest.fixture(scope="module")
def model():
    return speaker()


def session(model, directory, **changes):
    return ChatSession(model, WORDS, directory, **changes)


def note(chat, asked=ASKED, **changes):
    """The lines of the note before a conversation."""
    before = chat.with_notes(asked, **changes)
    return before[0]["content"].splitlines()[1:] if len(before) > len(asked) else []


def texts(chat, *status):
    return [fact.text for fact in chat.waiting_facts(*status)]


def read(chat):
    """Let the writer read what is new."""
    while chat.read_facts():
        chat._reading.wait()
        chat.settle()


def lists(writer):
    """What the writer was asked to list the facts of."""
    return [asked for asked in writer.asked if NUMBERED.search(asked)]


# ---------------------------------------------------------------------- sentences as they stand


def test_what_was_said_a_moment_ago_is_known_in_a_new_conversation_and_after_a_restart(model, tmp_path):
    chat = session(model, tmp_path)
    chat.send(BOLT, **SHORT)
    chat.new_conversation()
    chat.send(ASKED[0]["content"], **SHORT)
    prompt = WORDS.decode(chat._cached_ids)
    assert BOLT in prompt and prompt.index(BOLT) < prompt.index("what is my dog")
    assert prompt.count("user") == 2, "the note's turn and the question; the first conversation is not in the prompt"
    again = session(model, tmp_path)
    assert note(again) == [BOLT]
    again.send("who is old ?", **SHORT)
    prompt = WORDS.decode(again._cached_ids)
    assert BOLT in prompt and "what is my dog called" in prompt, "the conversation goes on where it was"


def test_what_is_in_the_prompt_is_not_told_twice(model, tmp_path):
    chat = session(model, tmp_path)
    chat.send(BOLT, **SHORT)
    chat.send(ASKED[0]["content"], **SHORT)
    assert WORDS.decode(chat._cached_ids).count("Bolt") == 1
    assert note(chat) == [BOLT] and note(chat, [*said(BOLT, "yes"), *ASKED]) == []


def test_what_an_answer_is_to_replace_is_not_told(model, tmp_path):
    chat = session(model, tmp_path)
    chat.note(*said(BOLT, "good .", "my boss is called Fernanda .", "good ."))
    chat.answer(ASKED, instead_of=chat.messages[:2], **SHORT)
    before, _, _ = WORDS.decode(chat._cached_ids).partition("what is my dog")
    assert "Bolt" not in before and "Fernanda" in before, "another conversation of the user"
    chat.withdraw(chat.messages[:2], [{**ASKED[0], "date": "2026-05-01"}])
    assert note(chat) == ["my boss is called Fernanda ."]


def test_the_users_sentences_stand_and_a_reply_has_its_question():
    talk = said(
        "Where is my key? My boss is called Fernanda.", "Otto has called. How old is your dog?", "Nine.",
        "Good.", "What is the code?",
    )  # fmt: skip
    facts = Waiting(talk).facts(lambda fact: True)
    assert [(fact.text, fact.messages) for fact in facts] == [
        ("My boss is called Fernanda.", (0,)), ("How old is your dog? – Nine.", (2,)),
    ]  # fmt: skip


def test_a_policy_and_a_review_are_obeyed_before_anything_is_memory(model, tmp_path):
    for number, (settings, known) in enumerate(
        [({"policy": lambda fact: "Bolt" not in fact.text}, ["my boss is called Fernanda ."]),
         ({"policy": "Nothing about dogs."}, []), ({"review": list}, [])]
    ):  # fmt: skip
        chat = session(model, tmp_path / str(number), **settings)
        chat.note(*said(f"{BOLT} my boss is called Fernanda ."))
        assert texts(chat) == known


# ---------------------------------------------------------------------- facts that the writer reads


def test_the_writer_reads_in_idle_time_what_is_new_and_a_restart_has_it(model, tmp_path):
    writer = script({"Bolt": "my dog is called Bolt"}, {})
    chat = session(model, tmp_path, writer=writer)
    chat.note(*said(f"well , {BOLT}", "my dog , too"))
    assert texts(chat) == [f"well , {BOLT}"]
    read(chat)
    assert texts(chat) == ["my dog is called Bolt"]
    assert len(lists(writer)) == 2, "what left nothing is read once more"
    again = session(model, tmp_path, writer=writer)
    assert texts(again) == texts(chat) and not again.read_facts()
    again.note(*said("my boss is called Fernanda .", "Fernanda has Leeds ."))
    read(again)
    shown = next(asked for asked in lists(writer) if "[1] User: my boss" in asked)
    assert "[3]" not in shown and "Bolt" in shown, "what was before is shown, and not asked about"
    assert texts(again) == ["my dog is called Bolt", "my boss is called Fernanda ."]


def test_a_writer_that_misjudges_known_cases_lists_nothing_and_sentences_stand(model, tmp_path):
    writer = Scripted(lambda asked: "[1] my dog is called Bolt")
    chat = session(model, tmp_path, writer=writer)
    chat.note(*said(f"well , {BOLT}", "good ."))
    read(chat)
    assert texts(chat) == [f"well , {BOLT}"] and not lists(writer) and not chat.read_facts()


def test_a_writer_that_misjudges_changes_leaves_only_what_is_otherwise_now_in_the_note(model, tmp_path):
    chat = session(model, tmp_path, writer=Scripted(lambda asked: "-"))
    chat.note(*said("I live in Gdynia.", "Good.", "I work at Harlow Bakery.", "Good.", "My dog is called Bolt."))
    read(chat)
    chat.note(*said("I live in Oslo now.", "Good.", "I no longer work at Harlow Bakery."))
    read(chat)
    left = ["My dog is called Bolt.", "I live in Oslo now.", "I no longer work at Harlow Bakery."]
    assert note(chat) == note(session(model, tmp_path)) == left
    assert texts(chat, "superseded") == ["I live in Gdynia.", "I work at Harlow Bakery."]
    chat.forget_fact(texts_id(chat, left[1]))
    assert "I live in Gdynia." in note(chat), "what ended it is gone"


def test_a_fact_that_a_later_one_ends_leaves_the_note_also_one_of_the_memory(model, tmp_path):
    chat = session(
        model, tmp_path, writer=script({"Bolt": BOLT, "Panda": NOW}, {}, changes={"Bolt": "Panda", "Graz": "Panda"})
    )
    chat.memory = told(model, [dataclasses.replace(GRAZ, text="my dog is called Graz .")])
    chat.note(*said(BOLT))
    read(chat)
    assert note(chat) == ["my dog is called Graz .", BOLT]
    chat.note(*said(NOW))
    assert note(chat) == ["my dog is called Graz .", BOLT, NOW], "as they stand, later ones hold"
    read(chat)
    assert note(chat) == [NOW]
    assert texts(chat, "superseded") == [BOLT]
    ended = chat.waiting_facts("superseded")[0]
    assert ended.superseded_by == chat.waiting_facts()[0].id and ended.messages == (0,)


def test_the_models_reading_waits_while_an_answer_is_written_and_a_closed_session_reads_on_later(model, tmp_path):
    chat = session(model, tmp_path)
    chat.note(*said(BOLT, "yes"))
    assert chat.read_facts()
    chat.send("who is old ?", **SHORT)
    assert chat._reading.done() or not chat._reading._control._running.is_set()
    chat.close()
    assert chat._reading is None and texts(chat)[0] == BOLT
    read(chat)
    assert len(chat._read[0].facts) == 1 and not chat.read_facts()


def test_a_writer_that_fails_leaves_sentences_and_is_asked_again_when_more_is_said(model, tmp_path):
    asked = []

    class Away:
        name = "away"

        def complete(self, prompts, longest, seed=0):
            asked.append(prompts)
            raise ConnectionError("away")

    chat = session(model, tmp_path, writer=Away())
    chat.note(*said(BOLT))
    read(chat)
    assert texts(chat) == [BOLT] and len(asked) == 1 and not chat.read_facts()
    chat.note(*said(GREYHOUND))
    read(chat)
    assert len(asked) == 2


def test_without_a_note_and_with_own_questions_nothing_is_read(model, tmp_path):
    for number, settings in enumerate([{"note_tokens": 0}, {"questions": ["who ?"]}]):
        chat = session(model, tmp_path / str(number), **settings)
        chat.note(*said(BOLT))
        assert not chat.read_facts()
    with pytest.raises(InputError, match="note_tokens=-1"):
        session(model, tmp_path, note_tokens=-1)


# ---------------------------------------------------------------------- weights take over, facts are deleted


def test_weights_take_over_fact_by_fact(model, tmp_path):
    chat = session(model, tmp_path, writer=script({}, {}), keep_turns=0)
    chat.note(*said(BOLT, "yes", GREYHOUND))
    read(chat)
    chat.new_conversation()
    facts = [
        dataclasses.replace(Fact.of(text, "user", None, [0], ""), learned=text == BOLT) for text in (BOLT, GREYHOUND)
    ]
    chat._in_job = 2
    chat._commit(told(model, facts))
    assert note(chat) == [GREYHOUND, GREYHOUND], "what the weights do not hold, and what is not memory yet"
    assert len(chat._read) == 1 and BOLT not in (tmp_path / FACTS).read_text()


def test_a_waiting_fact_is_deleted_and_corrected_at_once_and_its_neighbours_stay(model, tmp_path):
    chat = session(model, tmp_path, writer=script({}, {}))
    chat.note(*said(f"{BOLT} my boss is called Fernanda .", "Bolt is a dog .", "Otto plays chess .", "well ."))
    read(chat)
    dog, _, otto = chat.waiting_facts()
    assert chat.changing(FactChange((otto.id,)))() is None and len(chat.waiting_facts()) == 3, "`take` changes words"
    report = chat.correct_fact(dog.id, NOW, date="2026-05-01")
    assert report.accepted and report.forgotten == 1
    assert texts(chat) == ["my boss is called Fernanda .", NOW, "Otto plays chess ."]
    assert chat.waiting_facts()[1].said_at == "2026-05-01"
    assert chat.forget_fact(otto.id, texts_id(chat, NOW)).accepted
    left = "".join(path.read_text() for path in (tmp_path / TURNS, tmp_path / FACTS))
    assert not any(word in left for word in ("Bolt", "Panda", "Otto", "chess", "well"))
    assert note(chat) == ["my boss is called Fernanda ."]
    with pytest.raises(InputError, match="nothing is remembered"):
        chat.forget_fact(otto.id)
    with pytest.raises(InputError, match="any more"):
        chat.take(FactChange((otto.id,)), None)


def texts_id(chat, text):
    return next(fact.id for fact in chat.waiting_facts() if fact.text == text)


def test_deleting_a_fact_that_began_a_conversation_keeps_the_conversations_apart(model, tmp_path):
    chat = session(model, tmp_path)
    chat.note(*said(GREYHOUND))
    chat.new_conversation()
    chat.note(*said("my boss is called Fernanda .", "good .", "Otto plays chess ."))
    chat.forget_fact(chat.waiting_facts()[1].id)
    assert [message["content"] for message in chat.messages[chat._conversation :]] == ["Otto plays chess ."]
    assert session(model, tmp_path)._conversation == 1


def test_erasing_leaves_no_fact(model, tmp_path):
    for erase in (lambda chat: chat.erase(), lambda chat: erase_directory(tmp_path)):
        chat = session(model, tmp_path, writer=script({}, {}))
        chat.note(*said(BOLT))
        read(chat)
        assert (tmp_path / FACTS).exists()
        erase(chat)
        assert not (tmp_path / FACTS).exists() and texts(session(model, tmp_path)) == []
    assert isinstance(chat, FactsInWords)


def test_a_damaged_file_of_facts_is_refused_and_facts_without_their_message_go(model, tmp_path):
    chat = session(model, tmp_path, writer=script({}, {}))
    chat.note(*said(BOLT))
    read(chat)
    file = tmp_path / FACTS
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"Bolt", b"Otto"))
    with pytest.raises(CheckpointError, match="altered"):
        session(model, tmp_path)
    file.write_text(json.dumps({"format": 1, "facts": [{"message": "x"}]}))
    with pytest.raises(CheckpointError, match="turns are then read again"):
        session(model, tmp_path)
    file.write_bytes(whole)
    (tmp_path / TURNS).unlink()  # by a kill between the two
    session(model, tmp_path)
    assert b"Bolt" not in file.read_bytes()


# ---------------------------------------------------------------------- the note


def size(line):
    return len(line.split())


def facts(*lines):
    return [Fact.of(line, "user", "2026-03-09", [number], "") for number, line in enumerate(lines)]


def test_a_note_holds_the_newest_that_fit():
    assert note_of(facts("a b c", "d e", "f g h"), "", 5, size, FORM) == ["d e", "f g h"]
    assert note_of(facts("a b c", "d e f g", "h"), "", 4, size, FORM) == ["h"], "none is skipped for an older one"


def test_of_many_facts_those_about_the_question_come_first_then_the_newest():
    many = facts("the dog is Bolt", "it rained", "a key is red", "we sing", "it snowed")
    form = NoteForm(most=3)
    assert note_of(many, "what is the dog called", 99, size, form) == ["the dog is Bolt", "a key is red", "it snowed"]
    assert note_of(many, "hello", 99, size, form) == ["a key is red", "we sing", "it snowed"]
    assert note_of(many, "dog", 4, size, form) == ["the dog is Bolt"]


def test_a_note_stands_where_its_form_says():
    system, asked = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}
    turn = with_lines([system, asked], ["one", "two"], NoteForm("turn"))
    assert [message["role"] for message in turn] == ["system", "user", "assistant", "user"]
    before = with_lines([system, asked], ["one"], NoteForm("system", listed=True))
    assert before[0]["content"].startswith("Be brief.\n\n") and before[0]["content"].endswith("\n- one")
    assert before[1:] == [asked] and with_lines([asked], ["one"], NoteForm("system"))[0]["role"] == "system"
    last = with_lines([system, asked], ["one"], NoteForm("question"))
    assert last[0] == system and last[1]["content"].endswith("\none\n\nWho?")
    assert with_lines([asked], []) == [asked]


# ---------------------------------------------------------------------- a server's users


def test_a_server_reads_turns_when_nothing_is_being_answered_and_tells_them_in_a_new_conversation(model, tmp_path):
    writer, at_work = script({"Bolt": "my dog is called Bolt"}, {}), [True]
    users = Users(tmp_path, lambda path: session(model, path, keep_turns=0, writer=writer))
    user = users.get("ines")
    users.record("ines", user, said(f"well , {BOLT}"), "good .")
    assert user.with_notes(ASKED, WORDS)[0]["content"].endswith(f"well , {BOLT}")
    idle = IdleConsolidator(users, NEVER, lambda: at_work[0])
    idle.start()
    try:
        idle.interrupt()
        assert not writer.asked
        at_work.append(at_work.pop() and False)
        until(lambda: user.session._read)
    finally:
        idle.stop()
    assert user.with_notes(ASKED, WORDS)[0]["content"].endswith("\nmy dog is called Bolt")
    assert user.status()["facts_waiting"] == 1
    users.close()
    again = Users(tmp_path, lambda path: session(model, path, keep_turns=0, writer=writer))
    assert again.unread and not again.next_unread().read_facts(), "it has been read"


def test_a_judge_is_asked_what_new_facts_end_and_no_older_ones():
    judge = Judge(script({}, {}, changes={"Bolt": "Panda"}), {"changes": True})
    both = [(0, "User", BOLT), (1, "User", NOW), (2, "User", "my dog is Panda .")]
    assert judge.changed(both) == {0: 2} and judge.changed(both, since=3) == {}
    assert judge.changed(both[:2], since=1) == {0: 1}
