"""Who writes, and when it was said: taken in every form, and refused before any work is done."""

import datetime
from types import SimpleNamespace

import pytest
from converted import speaker
from scripted import Scripted
from words import STORY, tokenizer

from ttt_retrofit import ChatSession, InputError
from ttt_retrofit.consolidation.cached_writer import TOGETHER, CachedTexts
from ttt_retrofit.consolidation.consolidate import Consolidation
from ttt_retrofit.consolidation.facts.writers import EndpointWriter, writer_of
from ttt_retrofit.consolidation.work_directory import WorkDirectory
from ttt_retrofit.errors import MissingExtraError, WriterError


class Own:
    name = "own"

    def complete(self, prompts, longest, seed=0):
        return ["" for _ in prompts]


@pytest.fixture(scope="module")
def model():
    return speaker()


@pytest.mark.parametrize(
    ("url", "place", "named"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1", None),
        ("https://host/v1#Qwen/Qwen3-4B", "https://host/v1", "Qwen/Qwen3-4B"),
        (" http://host/v1#llama3.1:8b", "http://host/v1", "llama3.1:8b"),
    ],
)
def test_a_url_is_a_server_and_may_name_its_model(url, place, named):
    assert writer_of(url) == EndpointWriter(place, named)


def test_a_pair_an_object_and_nobody_are_taken_as_they_are(model):
    own, words = Own(), tokenizer()
    assert writer_of(own) is own and writer_of(None) is None
    assert writer_of((model, words)) == writer_of([model, words]) == (model, words)
    assert writer_of(writer_of("http://host/v1")) == EndpointWriter("http://host/v1")


@pytest.mark.parametrize(
    "given", ["Qwen/Qwen3-4B", "", "ftp://host/v1", "http:///v1", "http://[host/v1", "host:8000/v1"]
)
def test_a_text_that_is_no_url_is_refused(given):
    with pytest.raises(InputError, match=r"is no URL.*expected \(model, tokenizer\), the URL"):
        writer_of(given)


def test_other_things_are_refused_by_name(model):
    words = tokenizer()
    for given, found in [
        ((words, model), "wrong order"),
        ((model,), "1 parts"),
        ((model, "name"), "Names are loaded first"),
        (("name", words), "Names are loaded first"),
        (model, f"a {type(model).__name__}; expected"),
        (Own, "the class Own"),
        (SimpleNamespace(name="x"), "a SimpleNamespace"),
        (7, "a int"),
    ]:
        with pytest.raises(InputError, match=found):
            writer_of(given)


def test_a_server_is_refused_where_the_package_that_asks_it_is_missing(monkeypatch):
    monkeypatch.setattr("ttt_retrofit.consolidation.facts.writers.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"http://host/v1 needs openai.*ttt-retrofit\[writer\]"):
        writer_of("http://host/v1#m")


@pytest.fixture
def begun(monkeypatch):
    """The consolidations that were begun; none of them is run."""
    made = []

    class Begun(Exception):
        pass

    def run(self, work_dir):
        made.append(self)
        raise Begun

    monkeypatch.setattr(Consolidation, "run", run)
    return made, Begun


def test_consolidate_hands_on_the_writer_and_the_day(model, begun, tmp_path):
    made, stopped = begun
    for date in ("2026-03-09", datetime.date(2026, 3, 9), datetime.datetime(2026, 3, 9, 12)):
        with pytest.raises(stopped):
            model.consolidate(STORY, tokenizer=tokenizer(), writer="http://host/v1#m", date=date, work_dir=tmp_path)
        assert made[-1].writer == EndpointWriter("http://host/v1", "m") and made[-1].date == datetime.date(2026, 3, 9)
    with pytest.raises(stopped):
        model.consolidate(STORY, tokenizer=tokenizer(), writer=Own(), work_dir=tmp_path)
    assert made[-1].date is None and made[-1].key() != made[0].key()


@pytest.mark.parametrize("wrong", [{"date": "soon"}, {"date": True}, {"writer": "gpt2"}, {"writer": 7}])
def test_consolidate_refuses_them_before_it_begins(model, begun, wrong):
    with pytest.raises(InputError, match=f"^{next(iter(wrong))}"):
        model.consolidate(STORY, tokenizer=tokenizer(), **wrong)
    assert not begun[0]


def test_a_session_hands_on_its_writer_and_refuses_what_is_none(model, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(model, "consolidate", lambda messages, **settings: given.update(settings, messages=messages))
    chat = ChatSession(model, tokenizer(), tmp_path, keep_turns=0, writer="http://host/v1")
    chat.note({"role": "user", "content": STORY, "date": "2026-03-09"})
    chat._start()
    assert given["writer"] == EndpointWriter("http://host/v1") and given["messages"][0]["date"] == "2026-03-09"
    with pytest.raises(InputError, match="is no URL"):
        ChatSession(model, tokenizer(), tmp_path / "other", writer="gpt2")


class Dying(Scripted):
    """A server that answers so many prompts and is away then."""

    left = 2 * TOGETHER

    def complete(self, prompts, longest, seed=0):
        if self.left < len(prompts):
            raise WriterError("away")
        self.left -= len(prompts)
        return super().complete(prompts, longest, seed)


def prompts_of(count):
    return [[{"role": "user", "content": f"question {number}"}] for number in range(count)]


def test_what_a_server_wrote_before_it_died_is_not_asked_again(tmp_path):
    work, asked = WorkDirectory(tmp_path, vocabulary=9), prompts_of(3 * TOGETHER - 2)
    server = Dying(str.upper)
    with pytest.raises(WriterError):
        CachedTexts(work, server, lambda: None).complete(asked, 32)
    assert len(server.asked) == 2 * TOGETHER
    server.left = 100
    written = CachedTexts(work, server, lambda: None).complete(asked, 32)
    assert written == [f"QUESTION {number}" for number in range(len(asked))]
    assert sorted(server.asked) == sorted(prompt[0]["content"] for prompt in asked), "each of them once"
    assert CachedTexts(work, Dying(str.upper), lambda: None).complete(asked, 32) == written


@pytest.mark.parametrize("change", [{"name": "other"}, {"longest": 33}, {"seed": 1}])
def test_what_another_writer_or_another_seed_gave_is_not_taken(tmp_path, change):
    work = WorkDirectory(tmp_path, vocabulary=9)
    CachedTexts(work, Scripted(str.upper), lambda: None).complete(prompts_of(3), 32)
    settings = {"longest": 32, "seed": 0, **change}
    other = Scripted(str.lower, settings.pop("name", "scripted"))
    assert CachedTexts(work, other, lambda: None).complete(prompts_of(3), **settings)[0] == "question 0"
    assert len(other.asked) == 3


def test_a_consolidation_that_is_cancelled_asks_a_server_no_more(tmp_path):
    def cancelled():
        raise KeyboardInterrupt

    writer = Scripted(str.upper)
    with pytest.raises(KeyboardInterrupt):
        CachedTexts(WorkDirectory(tmp_path, vocabulary=9), writer, cancelled).complete(prompts_of(1), 32)
    assert writer.asked == []
