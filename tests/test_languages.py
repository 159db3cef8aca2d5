"""The examples that writers are shown: sound in every language, and in the language of what is read."""

import datetime
import re

import pytest
from scripted import Scripted

from ttt_retrofit.consolidation.facts.checks import folded
from ttt_retrofit.consolidation.facts.languages import Language, languages, nearest, shown
from ttt_retrofit.consolidation.facts.listing import facts_of
from ttt_retrofit.consolidation.facts.turns import Turn
from ttt_retrofit.consolidation.study.questions import drafts_of, is_sound
from ttt_retrofit.consolidation.study.statements import Statement

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
    ("code", "own", "to_somebody", "neither"),
    [
        ("en", "My dog barks.", "Is that yours?", "Klara has three hens."),
        ("de", "Das ist unser Hund.", "Wie heißt deine Nichte?", "Sie hat zwei Hunde."),
        ("fr", "J'ai un chien.", "Où est ton chien ?", "Elle a deux chiens."),
        ("zh", "我的狗叫豆豆。", "你的狗叫什么？", "她有两只狗。"),
        ("ko", "제 개는 짖어요.", "당신의 개는 어디 있나요?", "클라라는 개가 두 마리 있다."),
    ],
)
def test_who_speaks_of_themselves_and_who_is_spoken_to_is_told_by_pronouns(code, own, to_somebody, neither):
    language = BLOCKS[code]
    assert [(language.speaks(text), language.addresses(text)) for text in (own, to_somebody, neither)] == [
        (True, False), (False, True), (False, False)
    ]  # fmt: skip


def test_a_pronoun_is_of_one_person_and_the_examples_keep_to_it(language):
    assert language.first_person.isdisjoint(language.second_person)
    assert not any(language.speaks(answer) for _, answer in language.answers[:2])
    asked = [lines for said, lines in language.questions if "Assistant" not in said.splitlines()[-1]]
    assert not any(language.addresses(line.partition("|")[2]) for lines in asked for line in lines.splitlines())
    assert all(len(word) < 12 for word in language.first_person | language.second_person)


def test_a_block_shows_what_no_longer_is_so_with_its_no_and_a_part_for_every_answered_question(language):
    told, question = language.still
    assert told.startswith("User: ") and (question, language.no) == language.answers[1]
    assert all(folded(language.part_of[asked]) in folded(language.text) for asked, _ in language.answers)
