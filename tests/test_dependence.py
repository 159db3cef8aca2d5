"""What a lesson depends on, and where facts stand in words."""

import json

from ttt_retrofit.consolidation.dependence import Dependence
from ttt_retrofit.consolidation.verify.traces import Traces
from ttt_retrofit.memory.entry import Source
from ttt_retrofit.memory.facts import Fact


def fact(text: str) -> Fact:
    return Fact.of(text, "user", None, [0], "a" * 64)


TEA, COFFEE, MAREK = map(fact, ("I drink tea at home.", "I switched to coffee.", "My brother Marek lives in Antwerp."))
KLARA = fact("Klara lives in Leeds.")


def test_a_lesson_depends_on_what_it_asks_about_and_on_facts_whose_names_it_tells():
    facts = Dependence([TEA, COFFEE, MAREK], [KLARA])
    assert facts.of([2], "Where does my brother live?", "Marek lives in Antwerp.") == (MAREK.id,)
    assert facts.of([1], "What do I drink since Marek came?", "You drink coffee.") == (COFFEE.id, MAREK.id)
    assert facts.of([-1], "Who lives in Leeds?", "It is Klara.") == (KLARA.id,)
    assert facts.of([0, 1], "") == (TEA.id, COFFEE.id) and facts.of([], "What is a violin?") == ()


def test_a_question_that_tells_what_no_longer_holds_depends_on_that_too():
    facts = Dependence([TEA, COFFEE], (), {0: 1})
    assert facts.of([1], "Do I still drink tea?", "No.") == (COFFEE.id, TEA.id)
    assert facts.of([1], "What did I switch to?", "To coffee.") == (COFFEE.id,)


def test_sentences_and_exchanges_that_tell_a_fact_are_found_by_its_names_or_all_its_words():
    traces = Traces([MAREK, TEA], [COFFEE, KLARA])
    assert traces.own == {"marek", "antwerp"}
    said = ["Marek called.", "At home I always drink green tea.", "I drink water.", "I switched to coffee.", "OK."]
    assert [text for text in said if traces.tells(text)] == said[:2]
    messages = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, said[2:] + said[:1])]
    assert traces.exchanges(messages[3:] + messages[:3]) == [{**messages[3], "content": ""}, *messages[:3]]
    assert traces.exchanges([{"role": "user", "content": said[0]}, messages[1], *messages[2:3]]) == messages[2:3]


def test_what_the_user_told_stays_where_only_the_answer_tells_a_fact_that_goes():
    told, answer = {"role": "user", "content": "My cat is called Nimbus."}, {"role": "assistant", "date": "2026-05-01"}
    messages = [told, {**answer, "content": "Nimbus is a fine name. Does Marek know her?"}]
    assert Traces([MAREK], [COFFEE]).exchanges(messages) == [told, {**answer, "content": "Nimbus is a fine name."}]


def test_a_kept_text_loses_the_sentences_or_where_none_is_found_itself():
    traces = Traces([MAREK], [KLARA])
    text = json.dumps([{"role": "user", "content": "Marek moved to Antwerp. Klara lives in Leeds."}])
    left = traces.source(Source("a" * 64, "chat", 9, text)).text
    assert json.loads(left) == [{"role": "user", "content": "Klara lives in Leeds."}]
    assert traces.source(Source("a" * 64, "text", 9, "He lives in Belgium.")).text is None
    assert traces.source(Source("a" * 64, "text", 9)).text is None
