"""The examples that writers are shown: sound in every language, and in the language of what is read."""

import datetime
import re

import pytest
from scripted import Scripted

from ttt_retrofit.consolidation.facts.checks import folded
from ttt_retrofit.consolidation.facts.languages import Language, languages, nearest, shown
from ttt_retrofit.consolidation.facts.listing import facts_of
from ttt_retrofit.consolidation.facts.turns import Turn
from ttt_retrofit.consolidation.statements import Statement
from ttt_retrofit.consolidation.study.questions import drafts_of, is_sound

BLOCKS = {language.code: language for language in languages()}
LINE = re.compile(r"\[(\d+)\] (\w+): (.+)")


@pytest.fixture(params=BLOCKS)
def language(request) -> Language:
    return BLOCKS[request.param]


def talk_of(language: Language) -> list[Turn]:
    lines = [LINE.fullmatch(line) for line in language.talk.splitlines()]
    return [Turn(int(line[1]), line[2], line[3], datetime.date(2026, 3, 9)) for line in lines]


def statement_of(said: str) -> Statement:
    *before, last = (tuple(line.split(": ", 1)) for line in said.splitlines())
    return Statement(last[1], last[0], tuple(before))


def test_the_facts_of_a_block_pass_the_checks_and_are_of_the_messages_that_they_name(language):
    given = [(int(line[1]), line[4:]) for line in language.facts.splitlines() if not line.endswith("] -")]
    writer = Scripted(lambda asked: "" if "Nothing was listed" in asked else language.facts)
    listed = facts_of(talk_of(language), writer)
    assert listed.dropped == ()
    assert [(fact.messages[0], fact.text) for fact in listed.facts] == given


def test_the_parts_of_a_block_stand_in_their_statements_and_no_question_gives_its_part_away(language):
    for said, asked in (*language.questions, language.document):
        drafts = list(drafts_of(asked, 0))
        assert len(drafts) == len(asked.splitlines())
        assert [draft.text for draft in drafts if not is_sound(draft, statement_of(said))] == []


def test_a_block_is_whole(language):
    assert [turn.said_by for turn in talk_of(language)] == [
        "User",
        "Assistant",
        "User",
        "Assistant",
        "User",
        "Tool",
        "User",
    ]
    assert {said.splitlines()[-1].split(":")[0] for said, _ in language.questions} == {"User", "Assistant"}
    assert len(language.answers) == 3 and language.unknown
    assert all(folded(answer) != folded(question) for question, answer in language.answers)
    assert nearest(language.text) is language


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("en", "My dog is called Bolt."),
        ("en", "Bolt."),
        ("de", "Mein Hund heißt Bolt."),
        ("zh", "我的狗叫豆豆。"),
        ("es", "Mi perro se llama Bolt."),
        ("fr", "J'habite à Lyon."),
        ("it", "Il mio cane si chiama Bolt."),
        ("pt", "O meu cão chama-se Bolt."),
        ("nl", "Mijn hond heet Bolt."),
        ("sv", "Min hund heter Bolt."),
        ("pl", "Mój pies nazywa się Bolt."),
        ("cs", "Můj pes se jmenuje Bolt."),
        ("ru", "Мою собаку зовут Болт, ей два года."),
        ("uk", "Моя сестра живе у Львові."),
        ("tr", "Köpeğimin adı Bolt."),
        ("ar", "اسم كلبي بولت."),
        ("he", "לכלב שלי קוראים בולט."),
        ("hi", "मेरे कुत्ते का नाम बोल्ट है।"),
        ("ja", "大阪に住んでいます。"),
        ("ko", "우리 개 이름은 볼트예요."),
        ("vi", "Con chó của tôi tên là Bolt."),
        ("id", "Anjing saya bernama Bolt."),
    ],
)
def test_the_language_of_a_short_text_is_found(code, text):
    assert nearest(text).code == code


def test_the_nearest_language_is_shown_last_and_the_first_one_beside_it():
    assert [one.code for one in shown("Mein Hund heißt Bolt.")] == ["en", "de"]
    assert [one.code for one in shown("My dog is called Bolt.")] == ["en"]


@pytest.mark.parametrize(
    ("code", "mine", "yours", "neither"),
    [
        ("en", {"i", "my"}, {"you", "your"}, {"have", "no", "is", "klara", "the"}),
        ("de", {"ich", "meine"}, {"du", "dein", "deine"}, {"an", "klara", "nicht", "es"}),
        ("es", {"mi"}, {"tu"}, {"no", "ya", "mas", "klara"}),
        ("fr", {"ma"}, {"tu"}, {"a", "plus"}),
    ],
)
def test_words_of_who_speaks_and_who_is_spoken_to_are_told_by_the_examples(code, mine, yours, neither):
    language = BLOCKS[code]
    assert mine <= language.first_person and yours <= language.second_person
    assert language.first_person.isdisjoint(language.second_person | yours | neither)
    assert language.second_person.isdisjoint(mine | neither)


@pytest.mark.parametrize("code", ["zh", "ja"])
def test_scripts_without_spaces_have_no_words_of_persons(code):
    assert BLOCKS[code].first_person == BLOCKS[code].second_person == frozenset()


def test_a_word_of_one_person_is_of_no_example_of_the_other(language):
    assert language.first_person.isdisjoint(language.second_person)
    said = {word for _, answer in language.answers for word in re.findall(r"\w+", folded(answer))}
    assert language.first_person.isdisjoint(said - language.first_person)
    assert all(len(word) < 12 for word in language.first_person | language.second_person)


def test_a_block_shows_what_no_longer_is_so_with_its_no_and_a_part_for_every_answered_question(language):
    told, question = language.still
    assert told.startswith("User: ") and (question, language.no) == language.answers[1]
    assert all(folded(language.part_of[asked]) in folded(language.text) for asked, _ in language.answers)
