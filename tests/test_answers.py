"""Answers are studied where they hold what was told; what is outdated is answered from the later statement."""

import dataclasses

import pytest
from scripted import CONTROL, HIDDEN, SUPPORTS, Formatter, Scripted, Teacher
from words import tokenizer

from ttt_retrofit import ConsolidationConfig
from ttt_retrofit.consolidation.facts.languages import languages, nearest
from ttt_retrofit.consolidation.facts.related import Related, of_others, terms
from ttt_retrofit.consolidation.facts.verdicts import Judge
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study import answers as module
from ttt_retrofit.consolidation.study.answers import Answering, given_by
from ttt_retrofit.consolidation.study.asking import Asking, conversation
from ttt_retrofit.consolidation.study.questions import QuestionDraft
from ttt_retrofit.consolidation.study.statements import TEXT, Statement
from ttt_retrofit.util.prompt_formatter import PromptFormatter

PROMPTS = Prompts.load()
WORDS = tokenizer()
TOLD = [
    Statement("I work at Harlow Bakery in Leeds.", "User", message=0),
    Statement("My dog is called Bolt.", "User", message=1),
    Statement("I quit my job at Harlow Bakery, and work for Volta Works.", "User", message=2),
]


def asking_of(teacher, writer=None, formatter=None, language=None, **settings):
    formatter, language = formatter or Formatter(WORDS), language or languages()[0]
    return Asking(teacher, writer, formatter, PROMPTS, language, ConsolidationConfig(**settings))


def questions_of(says, *drafts, statements=TOLD, outdated=None, pieces=(), judge=lambda asked: "1", control=CONTROL):
    """The questions, and the teacher that answered them."""
    teacher = Teacher(says)
    believed = Judge(Scripted(judge), {"supports": True})
    answering = Answering(statements, outdated or {}, pieces, asking_of(teacher), believed, control)
    return answering.answer(drafts).questions, teacher


def answered(says, *drafts, **settings):
    found, teacher = questions_of(says, *drafts, **settings)
    return [(q.text, set(q.value), q.statement) for q in found], teacher.asked


DOG = QuestionDraft("What is my dog called?", 1, "Bolt")
WORK = QuestionDraft("Where do I work?", 0, "Harlow Bakery")


def test_an_answer_that_holds_the_part_is_studied_by_it():
    found, asked = answered(lambda asked, told: "Your dog is called Bolt.", DOG)
    assert found == [(DOG.text, {"bolt"}, 1)] and asked == [DOG.text]


def test_a_question_is_answered_from_its_own_statement_alone():
    def says(asked, told):
        return "You work at Harlow Bakery." if "Harlow" in told and "Volta" not in told else "You work."

    assert answered(says, WORK) == ([(WORK.text, {"harlow", "bakery"}, 0)], [WORK.text])


def test_of_a_statement_that_is_outdated_questions_are_answered_from_the_last_one_that_changes_it():
    told = [*TOLD, Statement("I left Volta Works and sing in Leeds.", "User", message=3)]
    found, _ = answered(
        lambda asked, told: "You sing in Leeds." if "sing" in told and "quit" not in told else "At Harlow Bakery.",
        QuestionDraft("Where do I sing or work?", 0, "Harlow Bakery"),
        statements=told,
        outdated={0: 2, 2: 3},
    )
    assert found == [("Where do I sing or work?", {"leeds"}, 3)]


@pytest.mark.parametrize("says", ["Your dog is called Rex.", "Your dog is 7 years old.", "", "Bolt, bought in 2019."])
def test_an_answer_that_names_what_nobody_told_is_dropped(says):
    found, asked = answered(lambda asked, told: says, DOG)
    assert found == []
    assert asked == [DOG.text, f"{DOG.text}{HIDDEN}Bolt"], "asked again with the part in view"


def test_an_answer_that_missed_the_part_is_given_again_with_it_in_view_and_decides_on_nothing():
    draft = dataclasses.replace(WORK, held_out=True)

    def says(asked, told):
        return "You work at Harlow Bakery." if HIDDEN in asked else "You work."

    (question,), _ = questions_of(says, draft)
    assert (question.text, set(question.value), question.held_out) == (WORK.text, {"harlow", "bakery"}, False)


@pytest.mark.parametrize(
    ("says", "decides"), [("You work at Harlow Bakery.", True), ("You work at Harlow Bakery in Leeds.", False)]
)
def test_a_question_decides_where_its_answer_names_nothing_but_what_it_is_judged_by(says, decides):
    (question,), _ = questions_of(lambda asked, told: says, dataclasses.replace(WORK, held_out=True))
    assert question.held_out is decides
    (question,), _ = questions_of(lambda asked, told: says, WORK)
    assert not question.held_out


def test_the_writer_drops_answers_that_do_not_say_what_was_told():
    judged = []

    def judge(asked):
        assert SUPPORTS.fullmatch(asked)
        judged.append(asked)
        return "-" if "had" in asked else "1 yes"

    said = {DOG.text: "Your dog was called Bolt, you had him once.", WORK.text: "You work at Harlow Bakery."}
    found, _ = answered(lambda asked, told: said[asked.split(HIDDEN)[0]], DOG, WORK, judge=judge)
    assert found == [(WORK.text, {"harlow", "bakery"}, 0)]
    assert judged[0] == f"Told: {TOLD[1].text}\nQuestion: {DOG.text}\nAnswer: {said[DOG.text]}"


@pytest.mark.parametrize(
    ("says", "kept"), [("No, you quit your job there.", True), ("You quit it.", False), ("Yes, you do.", False)]
)
def test_whether_what_no_longer_holds_is_still_so_is_answered_with_no(says, kept):
    draft = QuestionDraft("Do I still work at Harlow Bakery?", 2, still=True)
    found, asked = answered(lambda asked, told: says, draft)
    assert found == ([(draft.text, {"no"}, 2)] if kept else []) and asked == [draft.text]


def test_a_question_that_two_statements_answer_in_two_ways_is_answered_by_the_later_one():
    told = [Statement("The code is 3308.", "User"), Statement("The code is 7145 now.", "User", message=1)]
    drafts = [QuestionDraft("What is the code?", number, part) for number, part in enumerate(("3308", "7145"))]

    def says(asked, before):
        return "It is 3308." if "3308" in before else "It is 7145."

    for order in (drafts, drafts[::-1]):
        assert answered(says, *order, statements=told)[0] == [("What is the code?", {"7145"}, 1)]
    assert answered(says, *drafts, statements=told, outdated={0: 1})[0] == [("What is the code?", {"7145"}, 1)]


def test_a_user_s_own_question_is_answered_from_all_that_was_said_and_kept_without_an_answer():
    own = [QuestionDraft("Where do I work now?", 0, by_user=True), QuestionDraft("Who is Runa?", -1, by_user=True)]
    found, _ = answered(lambda asked, told: "At Volta Works." if "work" in asked else "Nobody knows.", *own)
    assert found == [("Where do I work now?", {"volta", "works"}, 0), ("Who is Runa?", set(), -1)]
    assert answered(lambda asked, told: "At Saab.", own[0])[0] == [(own[0].text, set(), 0)]


def test_a_question_about_a_document_is_answered_from_its_piece_and_then_from_the_sentence():
    statements = [Statement("The mill burnt down in 1843.", TEXT), Statement("Orlov fled to Riga.", TEXT, piece=1)]
    pieces, seen = ["The mill burnt down in 1843.", "He sang. Orlov fled to Riga."], []
    asked = QuestionDraft("Where did Orlov flee to?", 1, "Riga")
    questions_of(lambda question, told: seen.append(question) or "", asked, statements=statements, pieces=pieces)
    assert ["He sang." in question for question in seen] == [True, False]
    assert all("Orlov fled to Riga." in question and asked.text in question for question in seen)


def test_a_budget_of_seconds_ends_every_reading_after_its_first_batch(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 1)
    spent = type("Spent", (), {"at": lambda *now: None, "spent": lambda self: 0.9})()
    more = QuestionDraft("In which town do I work?", 0, "Leeds")
    found, asked = answered(lambda asked, told: "Bolt." if "dog" in asked else "", DOG, WORK, more, control=spent)
    assert len(found) == 1 and asked == [DOG.text, f"{WORK.text}{HIDDEN}Harlow Bakery"]


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
    asking = asking_of(None, language=nearest("Meine Schwester wohnt in Köln."))
    asked = asking.about(TOLD[1:2], DOG.text)
    *examples, told, acknowledged = asked.before
    assert (told["content"], acknowledged["content"], asked.question) == (TOLD[1].text, "OK.", DOG.text)
    assert {"role": "assistant", "content": "Deine Nichte heißt Klara."} in examples
    assert not any(HIDDEN in message["content"] for message in examples)


def test_with_a_part_in_view_the_examples_have_theirs_in_view_too():
    asked = asking_of(None).about(TOLD[1:2], DOG.text, DOG.part)
    assert asked.question == f"{DOG.text}{HIDDEN}Bolt"
    hints = [m["content"] for m in asked.before if m["role"] == "user" and HIDDEN in m["content"]]
    assert f"What is my niece called?{HIDDEN}Klara" in hints and len(hints) == len(languages()[0].answers)


def test_an_earlier_question_is_asked_anew_after_its_answer_and_what_was_said_since():
    asked = asking_of(None).again("Where do I work?", "In Leeds.", TOLD[2:])
    assert [m["content"] for m in asked.before[-4:]] == ["Where do I work?", "In Leeds.", TOLD[2].text, "OK."]
    assert asked.question == "Where do I work?"


@pytest.mark.parametrize("chat", [True, False])
def test_prompts_are_token_ids_with_and_without_a_chat_template(chat):
    asking = asking_of(None, formatter=PromptFormatter(tokenizer(chat), PROMPTS.plain))
    asked = [asking.about(TOLD, DOG.text), asking.again(DOG.text, "Bolt.", TOLD), asking.about(TOLD, "?", "Bolt")]
    assert all(isinstance(token, int) for one in asked for token in asking._ids(one))


class Noting(Teacher):
    """Notes the tokens that no answer may have, and whose answers it scored."""

    def __init__(self):
        super().__init__(lambda asked, told: "Bolt.")
        self.never, self.scored_of = [], []

    def answer(self, prompts, *how, never=(), **named):
        self.never += [set(tokens) for tokens in never] or [set()] * len(prompts)
        return super().answer(prompts, *how, **named)

    def scored(self, prompts, answers, *how):
        self.scored_of += [prompt[-1]["content"] for prompt in prompts]
        return super().scored(prompts, answers, *how)


def test_the_teacher_does_not_speak_as_the_user_about_what_the_user_said():
    teacher = Noting()
    asking = asking_of(teacher)
    mine = set(WORDS("my", add_special_tokens=False).input_ids)
    assert mine <= set(asking.speakers)
    told = [Statement("Runa has Bolt.", "Assistant"), TOLD[1]]
    assert asking.answers([asking.about([one], DOG.text) for one in told]) == ["Bolt."] * 2
    assert teacher.never == [set(), set(asking.speakers)]


@pytest.mark.parametrize(
    ("written", "held"),
    [(6, ["1?"]), (3, ["2?"]), (1, ["cut 0?", "cut 1?"]), (0, ["cut 0?", "cut 1?"])],
)
def test_what_was_told_back_answers_every_question_and_a_good_one_is_studied(written, held):
    drafts = [QuestionDraft(f"{n}?", 1, "Bolt") for n in range(written)]
    drafts += [QuestionDraft(f"cut {n}?", 1, "Bolt", cut=True) for n in range(2)]
    drafts.append(QuestionDraft("Which cat?", 1, "Rex"))  # what is not told is not known
    asking = asking_of(Teacher(lambda asked, told: ""))
    judge = Judge(Scripted(str), {"supports": False})
    found = Answering(TOLD, {}, (), asking, judge, CONTROL, {1: "Your dog is called Bolt."}).answer(drafts).questions
    assert [q.text for q in found] == [d.text for d in drafts[:-1]] and {q.answer for q in found} == {
        "Your dog is called Bolt."
    }
    assert [q.text for q in found if q.held_out] == held


def test_what_ends_a_statement_is_told_back_where_its_questions_find_no_other_answer():
    told = [*TOLD, Statement("I quit my job at Harlow Bakery.", "User", message=3)]
    drafts = [QuestionDraft("Where do I work?", 0, "Harlow Bakery"), QuestionDraft("Do I still?", 0, still=True)]
    asking = asking_of(Teacher(lambda asked, told: ""))
    judge = Judge(Scripted(str), {"supports": True})
    ends = {3: "You quit your job at Harlow Bakery."}
    (found,) = Answering(told, {0: 3}, (), asking, judge, CONTROL, endings=ends).answer(drafts).questions
    assert (found.text, found.answer, found.statement) == ("Where do I work?", ends[3], 3)


def test_another_writer_answers_and_the_teacher_scores_it():
    teacher, said = Noting(), {"a": "Your dog is Bolt.\nAnd more", "b": "My dog is Bolt.", "c": "My dog is Bolt."}
    writer = Scripted(str, says=lambda asked, told: said[asked])
    asking = asking_of(teacher, writer)
    asked = [asking.about(TOLD[1:2], "a"), asking.about(TOLD[1:2], "b"), asking.about([Statement("Bolt", TEXT)], "c")]
    # What speaks as the user, having read what the user said, is no answer.
    assert asking.answers(asked) == ["Your dog is Bolt.", "", "My dog is Bolt."]
    assert teacher.scored_of == ["a", "b", "c"] and teacher.asked == [] and writer.answered == ["a", "b", "c"]


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
