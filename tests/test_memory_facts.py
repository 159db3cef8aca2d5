"""Facts of a memory: saved and checked with it, listed in order, forgotten with their entry, words while unlearned."""

import dataclasses
import json

import pytest
from converted import converted, speaker
from remembered import digests, memory
from test_damaged_files import reseal
from test_hub import hub  # noqa: F401
from test_memory_hub import uploaded  # noqa: F401
from words import tokenizer

from ttt_retrofit import ChatSession, CheckpointError, ConfigError, Memory
from ttt_retrofit.memory.facts import Fact
from ttt_retrofit.memory.memory_file import HEADER, HEADER_DIGEST
from ttt_retrofit.memory.notes import FORM
from ttt_retrofit.memory.report import Report
from ttt_retrofit.memory.store import MemoryStore

BOLT = Fact.of("The user's dog is called Bolt.", "user", "2026-03-09", [2], "a" * 64)
OSLO = dataclasses.replace(Fact.of("The user lives in Oslo.", "user", "2026-03-09", [0], "a" * 64), learned=True)
GRAZ = dataclasses.replace(Fact.of("The user lives in Graz.", "user", "2026-04-01", [0], "b" * 64), learned=False)
MOVED = dataclasses.replace(OSLO, status="superseded", superseded_by=GRAZ.id)
REPORT = Report(True, "good.", 0.0, 0.9, 20, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def model():
    return converted()


def told(model, *facts):
    """A memory with an entry for each of these lists of facts."""
    made = memory(model, *range(1, len(facts) + 1))
    entries = [dataclasses.replace(entry, facts=tuple(of)) for entry, of in zip(made.entries, facts)]
    return dataclasses.replace(made, entries=tuple(entries))


def test_they_are_saved_with_the_memory_and_an_earlier_file_has_none(model, tmp_path):
    told(model, [BOLT, MOVED], [GRAZ]).save(tmp_path)
    loaded = Memory.load(tmp_path)
    assert [entry.facts for entry in loaded.entries] == [(BOLT, MOVED), (GRAZ,)]
    header = json.loads((tmp_path / HEADER).read_text())
    del header[HEADER_DIGEST]
    for entry in header["entries"]:
        del entry["facts"]
    (tmp_path / HEADER).write_text(json.dumps(header))
    assert Memory.load(tmp_path).facts(None) == []


def test_an_altered_fact_is_noticed(model, tmp_path):
    told(model, [BOLT]).save(tmp_path)
    (tmp_path / HEADER).write_text((tmp_path / HEADER).read_text().replace("Bolt", "Volt"))
    with pytest.raises(CheckpointError, match="altered"):
        Memory.load(tmp_path)


def test_a_resealed_fact_of_other_values_is_refused(model, tmp_path):
    made = told(model, [BOLT])
    wrong = {"messages": [None, "x", [-1], ["x"]], "status": [None, "new", ["current"]], "learned": [1, "yes"]}
    wrong |= {name: [None, 3, []] for name in ("id", "text", "said_by", "source")}
    wrong |= {"said_at": [3, []], "superseded_by": [3, []], "colour": ["red"]}
    for name, values in wrong.items():
        for value in values:
            made.save(tmp_path)

            def change(header, name=name, value=value):
                header["entries"][0]["facts"][0][name] = value

            reseal(tmp_path, change)
            with pytest.raises(CheckpointError, match="a fact is none"):
                Memory.load(tmp_path)


def test_they_show_in_the_digest_and_a_memory_without_them_keeps_its_own(model):
    assert digests(told(model, [BOLT])) != digests(told(model, [OSLO])) != digests(told(model, []))
    assert digests(told(model, [])) == digests(memory(model, 1))


def test_they_are_listed_oldest_first_and_by_status(model):
    undated = dataclasses.replace(BOLT, id="undated", said_at=None)
    made = told(model, [GRAZ], [BOLT, MOVED, undated])
    assert made.facts(None) == [undated, MOVED, BOLT, GRAZ]
    assert made.facts() == [undated, BOLT, GRAZ] and made.facts("superseded") == [MOVED]
    assert made.facts("retracted") == [] and made.unlearned() == [GRAZ]
    with pytest.raises(ConfigError, match=r"status='new'.*'current', 'superseded', 'retracted'"):
        made.facts("new")


def test_their_number_is_shown_and_not_what_they_say(model):
    made = told(model, [BOLT, MOVED], [GRAZ])
    assert "facts=2, unlearned=1" in repr(made) and "<td style='text-align: left'>2</td>" in made._repr_html_()
    assert "facts           2, 1 of them not learned" in str(made)
    assert "facts=2" in repr(made.entries[0]) and "Bolt" not in repr(made) + str(made) + repr(made.entries[0])
    assert "facts" not in repr(memory(model, 1)) + str(memory(model, 1))


def test_forgetting_takes_them_along_and_what_they_superseded_is_current_again_in_words(model):
    made = told(model, [BOLT, MOVED], [GRAZ])
    assert made.forget("entry1").facts(None) == [GRAZ]
    assert made.forget("entry2").facts(None) == [dataclasses.replace(OSLO, learned=False), BOLT]


def test_what_a_still_later_fact_superseded_stays_so(model):
    bern = dataclasses.replace(GRAZ, id="bern", said_at="2026-05-01")
    graz = dataclasses.replace(GRAZ, status="superseded", superseded_by="bern")
    left = told(model, [MOVED], [graz], [bern]).forget("entry2")
    assert left.facts() == [bern] and left.facts("superseded")[0].superseded_by == "bern"
    turning = dataclasses.replace(graz, superseded_by=graz.id)  # by hand: a fact that supersedes itself
    assert told(model, [MOVED], [turning]).forget("entry2").facts("superseded") == [MOVED]


def test_combining_keeps_them(model):
    assert Memory.combine([told(model, [BOLT]), told(model, [GRAZ])]).facts() == [BOLT, GRAZ]


def test_neither_an_adapter_nor_a_card_tells_them(model, tmp_path, hub, uploaded):  # noqa: F811
    made = told(model, [BOLT], [GRAZ])
    made = dataclasses.replace(made, report=dataclasses.replace(REPORT, facts=2, unlearned=(GRAZ.id,)))
    made.to_lora(tmp_path / "adapter")
    assert not any(b"Bolt" in path.read_bytes() for path in (tmp_path / "adapter").iterdir())
    made.push_to_hub("ines/one")
    card = uploaded["ines/one"]["README.md"]
    assert "2 contexts, 2 facts, " in card and not any(word in card for word in ("Bolt", "Graz", GRAZ.id))
    assert "Bolt" in uploaded["ines/one"]["memory.json"], "as its lessons do, they travel with it"


def test_unlearned_facts_are_read_out_after_the_system_prompt_newest_last(model):
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where do I live?"}]
    many = [
        dataclasses.replace(GRAZ, id=str(n), text=f"Fact {n}.", said_at=f"2026-01-{n:02}")
        for n in range(FORM.most, 0, -1)
    ]
    given = told(model, [BOLT, OSLO, MOVED, *many], [GRAZ]).with_notes(said)
    _, *lines = given[1]["content"].splitlines()
    assert given[0] == said[0] and given[-1] == said[1] and given[2]["role"] == "assistant"
    assert lines == [*(f"Fact {n}." for n in range(2, FORM.most + 1)), GRAZ.text]
    assert told(model, [BOLT, OSLO]).with_notes(said) == said


def test_a_question_and_a_chat_read_unlearned_facts_without_a_notepad(tmp_path):
    model, words = speaker(), tokenizer()
    chess = dataclasses.replace(Fact.of("Otto plays chess .", "user", None, [0], "a" * 64), learned=False)
    made = told(model, [chess])
    MemoryStore(tmp_path / "memory").save(made)
    chat = ChatSession(model, words, tmp_path, system="Be brief")
    chat.send("where is Marek ?", max_new_tokens=2, do_sample=False)
    read = words.decode(chat._cached_ids)
    assert "Otto plays chess" in read and "Otto plays chess" not in [message["content"] for message in chat.messages]
    asked = []
    model._answer = lambda prompt, *rest: asked.append(words.decode(prompt))
    model.ask(made, "where is Marek ?", tokenizer=words)
    assert "Otto plays chess" in asked[0]


def test_a_report_counts_facts_and_an_earlier_one_loads(model, tmp_path):
    report = dataclasses.replace(
        REPORT, facts=13, unlearned=("a1",), dropped=3, superseded=2, chat_changed=0.02, chat_refused=0.0
    )
    dataclasses.replace(told(model, [BOLT]), report=report).save(tmp_path)
    assert Memory.load(tmp_path).report == report
    earlier = {name: value for name, value in REPORT.to_dict().items() if name not in ("facts", "unlearned")}
    assert Report.from_dict(earlier) == REPORT
    shown = str(report).splitlines()
    assert "recall         12 of 13 facts; 0% -> 90% of full context, 20 questions" in shown
    assert "facts          1 not learned, 3 dropped, 2 superseded" in shown
    assert "in a chat      2% of general requests changed, 0% refused" in shown
    assert "facts=12 of 13" in repr(report)
    assert len(str(REPORT).splitlines()) == 5


@pytest.mark.parametrize("change", [{"unlearned": "x"}, {"unlearned": [1]}, {"facts": "x"}, {"chat_refused": "x"}])
def test_a_resealed_report_of_other_values_is_refused(model, tmp_path, change):
    dataclasses.replace(told(model, [BOLT]), report=REPORT).save(tmp_path)
    reseal(tmp_path, lambda header: header["report"].update(change))
    with pytest.raises(CheckpointError):
        Memory.load(tmp_path)
