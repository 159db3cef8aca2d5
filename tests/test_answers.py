"""What the teacher answers is studied where it holds what was told, moves to a later statement, or is dropped."""

import pytest
from scripted import CONTROL, Formatter, Teacher
from words import tokenizer

from ttt_retrofit import ConsolidationConfig
from ttt_retrofit.consolidation.facts.languages import languages, nearest
from ttt_retrofit.consolidation.facts.related import Related, of_others, terms
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.statements import TEXT, Statement
from ttt_retrofit.consolidation.study import answers as module
from ttt_retrofit.consolidation.study.answers import Asking, answer, conversation, given_by
from ttt_retrofit.consolidation.study.questions import QuestionDraft
from ttt_retrofit.util.prompt_formatter import PromptFormatter

PROMPTS = Prompts.load()
WORDS = tokenizer()
TOLD = [
    Statement("I work at Harlow Bakery in Leeds.", "User", message=0),
    Statement("My dog is called Bolt.", "User", message=1),
    Statement("I quit my job at Harlow Bakery, and work for Volta Works.", "User", message=2),
]


def answered(says, *drafts, statements=TOLD, pieces=(), control=CONTROL, **settings):
    asking = Asking(Formatter(WORDS), PROMPTS, languages()[0])
    teacher = Teacher(says)
    found = answer(drafts, statements, pieces, teacher, asking, ConsolidationConfig(**settings), control)
    return [(q.text, set(q.value), q.statement) for q in found.questions], found.moved, teacher


DOG = QuestionDraft("What is my dog called?", 1, "Bolt")
WORK = QuestionDraft("Where do I work?", 0, "Harlow Bakery")


def test_an_answer_that_holds_the_part_is_studied_by_it():
    found, moved, teacher = answered(lambda asked, told: "Your dog is called Bolt.", DOG)
    assert found == [(DOG.text, {"bolt"}, 1)] and not moved and teacher.asked == [DOG.text]


def test_an_answer_from_a_later_statement_moves_the_question_to_it():
    found, moved, _ = answered(lambda asked, told: "You work for Volta Works." if "Volta" in told else "", WORK)
    assert found == [(WORK.text, {"volta", "works"}, 2)] and moved == ((0, 2),)


@pytest.mark.parametrize("says", ["Your dog is called Rex.", "Your dog is 7 years old.", "", "Bolt, bought in 2019."])
def test_an_answer_that_names_what_nobody_told_is_dropped(says):
    found, moved, teacher = answered(lambda asked, told: says, DOG)
    assert found == [] and not moved
    assert teacher.asked == [DOG.text] * 2, "asked again with its own statement alone"


def test_what_was_missed_among_other_statements_is_asked_with_its_own_alone():
    def says(asked, told):
        return "You work at Harlow Bakery." if "Volta" not in told else "You work."

    assert answered(says, WORK)[0] == [(WORK.text, {"harlow", "bakery"}, 0)]


def test_a_question_that_is_about_two_statements_is_answered_by_one():
    drafts = [WORK, QuestionDraft(WORK.text, 2, "Volta Works")]
    found, _, _ = answered(lambda asked, told: "You work for Volta Works.", *drafts)
    assert found == [(WORK.text, {"volta", "works"}, 2)]


def test_a_question_that_two_statements_answer_in_two_ways_moves_to_the_later_one():
    told = [Statement("The code is 3308.", "User"), Statement("The code is 7145 now.", "User", message=1)]
    drafts = [QuestionDraft("What is the code?", number, part) for number, part in enumerate(("3308", "7145"))]
    answers = {"The code is 3308.": "It is 3308.", "The code is 7145 now.": "It is 7145."}

    def says(asked, before):
        read = [answer for said, answer in answers.items() if said in before]
        return read[0] if len(read) == 1 else ""  # confused by both

    found, moved, _ = answered(says, *drafts, statements=told)
    assert found == [("What is the code?", {"7145"}, 1)] and moved == ((0, 1),)


def test_a_user_s_own_question_is_answered_from_all_that_was_said_and_kept_without_an_answer():
    own = [QuestionDraft("Where do I work now?", 0, by_user=True), QuestionDraft("Who is Runa?", -1, by_user=True)]
    found, _, _ = answered(lambda asked, told: "At Volta Works." if "work" in asked else "Nobody knows.", *own)
    assert found == [("Where do I work now?", {"volta", "works"}, 0), ("Who is Runa?", set(), -1)]
    assert answered(lambda asked, told: "At Saab.", own[0])[0] == [(own[0].text, set(), 0)]


def test_a_question_about_a_document_is_answered_from_its_piece_and_then_from_the_sentence():
    statements = [Statement("The mill burnt down in 1843.", TEXT), Statement("Orlov fled to Riga.", TEXT, piece=1)]
    pieces, seen = ["The mill burnt down in 1843.", "He sang. Orlov fled to Riga."], []
    asking = Asking(Formatter(), PROMPTS, languages()[0])
    asked = QuestionDraft("Where did Orlov flee to?", 1, "Riga")
    answer([asked], statements, pieces, Teacher(lambda question, told: seen.append(question) or ""), asking,
           ConsolidationConfig(), CONTROL)  # fmt: skip
    assert ["He sang." in question for question in seen] == [True, False]
    assert all("Orlov fled to Riga." in question and asked.text in question for question in seen)


def test_a_budget_of_seconds_ends_it_after_the_first_batch(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 1)
    spent = type("Spent", (), {"at": lambda *now: None, "spent": lambda self: 0.9})()
    found, _, teacher = answered(lambda asked, told: "Bolt." if "dog" in asked else "Leeds.", DOG, WORK, control=spent)
    assert len(found) == 1 and teacher.asked == [DOG.text]


def test_what_the_user_says_twice_in_a_row_is_acknowledged():
    reply = Statement("By tram.", "User", (("Assistant", "How do you get to work?"),))
    told = conversation([*TOLD[:2], reply])
    assert [message["role"] for message in told] == ["user", "assistant"] * 3
    assert [m["content"] for m in told] == [
        TOLD[0].text,
        "OK.",
        TOLD[1].text,
        "How do you get to work?",
        "By tram.",
        "OK.",
    ]


@pytest.mark.parametrize(
    ("said", "known", "source", "value"),
    [
        ("Your dog is called Bolt.", "What is my dog called?", "My dog is Bolt.", {"bolt"}),
        ("The boat is blue.", "Which colour is it?", "my boat is blue", {"boat", "blue"}),
        ("You know it.", "Which one?", "my boat is blue", set()),
        ("At 7:40.", "When?", "It leaves at 7:40.", {"7:40"}),
        ("你的狗叫豆豆。", "我的狗叫什么？", "我的狗叫豆豆。", {"豆"}),
    ],
)
def test_what_an_answer_gives_are_names_and_numbers_of_its_source_or_else_its_words(said, known, source, value):
    assert given_by(said, known, source) == value


def test_the_examples_of_answers_are_in_the_language_of_the_conversation():
    asking = Asking(Formatter(), PROMPTS, nearest("Meine Schwester wohnt in Köln."))
    *_, told, acknowledged, asked = asking.prompt(DOG, TOLD[1:2], (), False)
    assert (told["content"], acknowledged["content"], asked["content"]) == (TOLD[1].text, "OK.", DOG.text)
    assert {"role": "assistant", "content": "Deine Nichte heißt Klara."} in asking._examples()


def test_an_earlier_question_is_asked_anew_after_its_answer_and_what_was_said_since():
    asking = Asking(Formatter(), PROMPTS, languages()[0])
    *_, asked, before, told, _, again = asking.again("Where do I work?", "In Leeds.", TOLD[2:])
    assert [m["content"] for m in (asked, before, told, again)] == [
        "Where do I work?", "In Leeds.", TOLD[2].text, "Where do I work?",
    ]  # fmt: skip


@pytest.mark.parametrize("chat", [True, False])
def test_prompts_are_token_ids_with_and_without_a_chat_template(chat):
    asking = Asking(PromptFormatter(tokenizer(chat), PROMPTS.plain), PROMPTS, languages()[0])
    prompts = [asking.prompt(DOG, TOLD, (), False), asking.again(DOG.text, "Bolt.", TOLD)]
    assert all(isinstance(token, int) for ids in prompts for token in ids)


def test_answers_are_studied_without_thoughts_where_the_template_can_leave_them_out():
    thinking, plain = tokenizer(), tokenizer()
    thinking.chat_template += "{% if enable_thinking is defined and enable_thinking is false %}Answer {% endif %}"
    prompts = [PromptFormatter(one, PROMPTS.plain).asked("who is Ines ?") for one in (thinking, plain)]
    assert prompts[0] == [*prompts[1], *thinking("Answer", add_special_tokens=False).input_ids]
    assert PromptFormatter(thinking, PROMPTS.plain).question_of(prompts[0]) == PromptFormatter(
        plain, PROMPTS.plain
    ).question_of(prompts[1])


def test_texts_that_share_rare_words_are_related_in_their_order():
    related = Related(["my dog is old", "my cat is young", "my boat is blue", "the dog has a boat"])
    assert related.to("Which dog is it?", 2) == [0, 3]
    assert related.to("is", 4) == [0, 1, 2]
    assert related.to("Nothing.", 3) == [] and related.to("", 3) == []
    assert Related([]).to("dog", 3) == []


def test_scripts_without_spaces_are_related_by_their_characters():
    related = Related(["我的狗叫豆豆。", "我住在成都。", "猫は京都にいる。"])
    assert related.to("豆豆几岁？", 1) == [0] and related.to("成都的天气", 1) == [1] and related.to("京都", 1) == [2]


def test_a_word_is_known_by_its_beginning_and_the_parts_of_an_apostrophe():
    assert terms("Studies") == terms("studied") and {"dog"} <= terms("The dog's name")
    assert {"eau"} <= terms("l’eau")


def test_what_only_others_say_is_theirs_but_not_what_anybody_says():
    told = ["My brother Alex lives in Boston.", "My cousin Alex lives in Denver.", "It rains.", "I sing."]
    assert of_others("Does my brother Alex like Denver?", told[0], told) == {"denve"}
    assert of_others("Where does my brother Alex live?", told[0], told) == set()
    assert of_others("The dog is not mine.", told[0], [*told, "The cat is not."]) == set()
