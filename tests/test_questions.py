"""Questions that a model writes: each asks for a part of what was told, and those that do not are dropped."""

import pytest
from scripted import HIDDEN, STILL, Scripted, script

from benchmarks.harness.recollect import GENERAL
from ttt_retrofit.consolidation.facts.languages import languages, shown
from ttt_retrofit.consolidation.facts.writers import ModelWriter
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study.questions import (
    PART,
    QuestionDraft,
    ask,
    ask_freely,
    ask_whether_still,
    asking_for,
    cut,
    distinct,
    drafts_of,
    is_sound,
    prompt,
    whether_still,
)
from ttt_retrofit.consolidation.study.statements import TEXT, Statement

MIRELA = Statement("My sister Mirela moved to Braga in May.", "User")
ENGLISH = languages()[:1]


def draft(question, part, statement=0, **more):
    return QuestionDraft(question, statement, part, **more)


@pytest.mark.parametrize(
    ("part", "question", "sound"),
    [
        ("Braga", "Where did my sister move to?", True),
        ("moved to Braga", "What did Mirela do in May?", True),
        ("in May", "When did I visit my sister Mirela?", True),
        ("Braga", "When did Mirela move to Braga?", False),  # gives its part away
        ("Mirela", "Is Mirela's flat in Braga?", False),  # … with an ending
        ("Lisbon", "Where did my sister move to?", False),  # the part was not told
        ("moved Braga", "Where did my sister go?", False),  # … not word for word
        ("Braga", "Where did Otto move to?", False),  # names what nobody told
        ("Braga", "Where did my sister move to in 2019?", False),
        ("Braga", "Where?", False),  # of one word
        (".", "Where did my sister move to?", False),  # no word
        ("Braga", "Where did my sister move to " + "and to " * 40 + "?", False),  # goes on and on
    ],
)
def test_a_question_asks_for_a_part_gives_it_not_away_and_names_nothing_else(part, question, sound):
    assert is_sound(draft(question, part), MIRELA) is sound


def test_a_short_reply_is_asked_for_by_the_words_of_the_question_before():
    reply = Statement("By tram.", "User", (("Assistant", "How do you get to work?"),))
    assert is_sound(draft("How do I get to work?", "tram"), reply)
    assert is_sound(draft("我怎么去上班？", "电车"), Statement("坐电车。", "User", (("Assistant", "你怎么去上班？"),)))


def test_german_nouns_name_nothing_and_numbers_do():
    statement = Statement("Meine Nichte Klara wird am 20. Juni sechs.", "User")
    assert is_sound(draft("Wann hat meine Nichte Geburtstag?", "20. Juni"), statement)
    assert not is_sound(draft("Wann wird meine Nichte 16 Jahre alt?", "20. Juni"), statement)


def test_lines_are_a_part_a_bar_and_a_question():
    found = drafts_of('"Braga" | Where is she?\nno bar\n | Where?\nMay |\nMirela|Who is it?', 3)
    assert [(one.text, one.part, one.statement) for one in found] == [
        ("Where is she?", "Braga", 3), ("Who is it?", "Mirela", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("told", "question", "part", "to_user"),
    [
        (MIRELA.text, "Where did your sister move to?", "Braga", True),
        (MIRELA.text, "Can you say where my sister is?", "Braga", True),
        (MIRELA.text, "Where did my sister move to?", "Braga", False),
        ("Meine Schwester wohnt in Köln.", "Wo wohnt deine Schwester?", "Köln", True),
        ("Meine Schwester wohnt in Köln.", "Wo wohnt meine Schwester?", "Köln", False),
        ("Mi hermana vive en Braga.", "¿Dónde vive tu hermana?", "Braga", True),
        ("Mi hermana vive en Braga.", "¿Dónde vive mi hermana?", "Braga", False),
        ("我的狗叫豆豆。", "我的狗叫什么？", "豆豆", False),
    ],
)
def test_the_user_asks_and_is_not_asked(told, question, part, to_user):
    assert is_sound(draft(question, part), Statement(told, "User")) is not to_user
    assert is_sound(draft(question, part), Statement(told, "Assistant"))


def test_a_question_that_speaks_of_somebody_else_is_dropped():
    told = [Statement("My brother Alex lives in Boston.", "User"), Statement("My cousin Alex lives in Denver.", "User")]
    sources = [statement.source for statement in told]
    assert is_sound(draft("Where does my brother Alex live?", "Boston"), told[0], sources)
    assert not is_sound(draft("Where does my cousin Alex live?", "Boston"), told[0], sources)


FREE = f"Braga {PART} Where did my sister move to?\nBraga {PART} Where did my sister move to?"
AGAIN = {"Mirela": "Which sister moved?\nand more", "Braga": "To which town?", "May": "When was it, in May?"}


def test_every_part_is_asked_for_in_several_wordings_and_no_question_twice():
    writer = script({}, {"Mirela": FREE}, AGAIN)
    found = ask([MIRELA], writer, ENGLISH, wordings=3)
    assert found == [
        draft("Where did my sister move to?", "Braga", held_out=True),
        draft("Which sister moved?", "Mirela"),
        draft("To which town?", "Braga"),
    ]
    told = f"User: {MIRELA.text}"
    assert writer.asked[:7] == [told, *[f"{told}{HIDDEN}{part}" for part in ("Mirela", "Braga", "May")] * 2]
    assert writer.asked[7] == f"User: My sister Mirela moved to in.{HIDDEN}Mirela", "and without the other names"


def test_what_was_freely_asked_for_is_a_part_too_and_of_a_statement_without_any_its_words_are():
    writer = script(
        {}, {"Mirela": f"My sister {PART} Who moved?\nBraga in {PART} Where?"}, {"sister": "Who moved to Braga?"}
    )
    told = [MIRELA, Statement("I sing in the choir.", "User")]
    found = ask(told, writer, ENGLISH, wordings=1)
    assert [(one.part, one.text) for one in found] == [
        ("sister", "Who moved?"),
        ("sister", "Who moved to Braga?"),
    ]
    parts = [asked.rpartition(HIDDEN)[2] for asked in writer.asked if HIDDEN in asked]
    assert parts == ["Mirela", "Braga", "May", "sister", "sing", "choir"]


def test_where_two_statements_are_asked_the_same_more_are_written_without_the_names_that_both_have():
    told = [Statement("My brother Alex lives in Boston.", "User"), Statement("My cousin Alex lives in Denver.", "User")]
    who = {"Boston": "brother", "Denver": "cousin"}

    def write(asked):
        before, _, part = asked.rpartition(HIDDEN)
        if part not in who or not before:
            return ""
        return "Where does Alex live?" if "Alex" in before else f"Where does my {who[part]} live?"

    writer = Scripted(write)
    assert [(one.text, one.statement) for one in ask(told, writer, ENGLISH, wordings=1)] == [
        ("Where does Alex live?", 0), ("Where does Alex live?", 1),
        ("Where does my brother live?", 0), ("Where does my cousin live?", 1),
    ]  # fmt: skip
    assert writer.asked[-1] == f"User: My cousin lives in Denver.{HIDDEN}Denver"


def test_the_last_wording_is_written_without_the_other_names_of_a_statement():
    told = [
        Statement("My wife Solveig works at Mercy Hospital.", "User"),
        Statement("Mein Hund Bolt mag Käse.", "User"),
    ]
    writer = Scripted(lambda asked: "")
    ask(told, writer, shown("Mein Hund Bolt mag Käse."), wordings=2)
    assert f"User: My wife works at Mercy Hospital.{HIDDEN}Mercy Hospital" in writer.asked
    assert f"User: My wife Solveig works at.{HIDDEN}Solveig" in writer.asked
    assert f"User: Mein Hund Bolt mag Käse.{HIDDEN}Käse" in writer.asked[-8:]  # nouns are no names


def test_a_question_that_is_about_anybody_is_unsound():
    told = Statement("My brother plays the cello.", "User")
    asked = {"What does he do?": False, "What does he play?": True, "What does my brother do?": True}
    assert {text: is_sound(QuestionDraft(text, 0, "cello"), told) for text in asked} == asked


def test_free_questions_may_be_held_out_and_are_written_by_another_prompt():
    found = ask_freely([MIRELA], script({}, {"Mirela": FREE}), ENGLISH, seed=1)
    assert found == [draft("Where did my sister move to?", "Braga", held_out=True)]
    assert asking_for("Braga", MIRELA.told, MIRELA, ENGLISH)[0] != prompt(MIRELA, ENGLISH)[0]


def test_whether_something_is_still_so_is_asked_after_an_example_of_every_language():
    told = [MIRELA, Statement("I sold my boat Pelican.", "User"), Statement("I sold my car.", "User")]
    writer = script({}, {}, still={"boat": "Do I still have my boat?\nand more", "car": "Does Otto have my car?"})
    found = ask_whether_still([1, 2], told, writer, ENGLISH)
    assert found == [draft("Do I still have my boat?", "", 1, still=True)], "nobody told of Otto"
    assert writer.asked == [f"{STILL}User: {one.text}" for one in told[1:]]
    assert ask_whether_still([], told, Scripted(pytest.fail), ENGLISH) == []
    both = shown("Mi hermana Mirela vive en Braga.")
    assert [message["role"] for message in whether_still(MIRELA, both)] == [
        "system",
        *["user", "assistant"] * 2,
        "user",
    ]


def test_examples_are_in_the_language_of_what_is_read_and_those_of_documents_for_documents():
    spanish = shown("Mi hermana Mirela vive en Braga.")
    asked = [message["content"] for message in prompt(Statement("Mi hermana vive en Braga.", "User"), spanish)]
    assert any("Klara" in text for text in asked) and asked[-1] == "User: Mi hermana vive en Braga."
    document = [message["content"] for message in prompt(Statement("The mill burnt down.", TEXT), spanish)]
    assert len(document) == 1 + 2 * len(spanish) + 1 and document[1] == spanish[0].document[0]


def test_of_questions_that_are_alike_the_first_stays():
    drafts = [
        draft("Where does my sister live now?", "Braga"),
        draft("Where does my sister live now, please?", "Braga"),
        draft("In which town is my sister's flat?", "Braga"),
        draft("Where does my sister live now?", "in Braga"),
        draft("Where does my sister live now?", "Braga", statement=1),
    ]
    assert distinct(drafts) == [drafts[0], *drafts[2:]]
    chinese = [draft("我姐姐住在哪里？", "成都"), draft("我姐姐住在哪里呢？", "成都"), draft("谁住在成都？", "成都")]
    assert distinct(chinese) == [chinese[0], chinese[2]]


def test_gates_are_measured_on_other_general_questions_than_the_benchmarks_ask():
    asked = GENERAL.read_text().splitlines()
    assert len(set(asked)) == len(asked) >= 80 and not set(asked) & set(Prompts.load().general)


def test_the_next_question_for_a_part_begins_otherwise_and_none_gives_it_away_or_names_who_the_examples_are_about():
    barred = []

    class Held(ModelWriter):
        def __init__(self):
            self.name = "held"

        def complete(self, prompts, longest, seed=0, never=()):
            barred.extend(set(words) for words in never)
            return ["Where did she move?" if never else ""] * len(prompts)

    ask([Statement("My sister moved to Braga.", "User")], Held(), ENGLISH, wordings=2, sampled=True)
    first, sampled, second, _ = barred
    assert {"Braga", "your", "klara"} <= first and "braga" not in second - first
    assert second - first == {"Where"} and sampled == first


@pytest.mark.parametrize(
    ("said", "questions"),
    [
        ("Oh, and my uncle moved to Bergen.", ["And my uncle?", "And my uncle moved to?"]),
        ("My flight is YL583 to Oslo.", ["My flight is to Oslo?", "My flight is YL583 to?"]),
        ("我妹妹住在成都。", []),
    ],
)
def test_a_statement_up_to_a_part_and_without_a_name_is_a_question_too(said, questions):
    statements = [Statement(said, "User")]
    found = [one.text for one in cut([0], statements, shown(said)[-1])]
    assert set(questions) <= set(found) and not any("bergen" in text.lower() for text in found)
    assert all(one.cut for one in cut([0], statements, ENGLISH[0]))
