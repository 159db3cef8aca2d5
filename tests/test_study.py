"""What is asked about a context: pure functions over sentences, no model."""

import time
from dataclasses import replace
from importlib import resources

import pytest
from words import tokenizer

from benchmarks.harness.recollect import GENERAL
from ttt_retrofit.consolidation import asking, study, verify
from ttt_retrofit.consolidation.config import ConsolidationConfig
from ttt_retrofit.consolidation.pieces import Statement, parse_context
from ttt_retrofit.consolidation.prompts import Prompts
from benchmarks.harness.english import (
    content,
    details,
    holds,
    made_up,
    sentences,
    stems,
    value,
    without_announcement,
    without_opener,
    words,
)
from ttt_retrofit.errors import ConfigError
from ttt_retrofit.util.prompt_formatter import PromptFormatter

PROMPTS = Prompts.load()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is here. Two is there!", ["One is here.", "Two is there!"]),
        ("Name: Ines\nAge: 4", ["Name: Ines", "Age: 4"]),
        ("Mr. Harlow met Dr. Ines. They left.", ["Mr. Harlow met Dr. Ines.", "They left."]),
        (
            "This line is so long that it was wrapped by whoever wrote\nthe letter, and ends here.\n- A point",
            ["This line is so long that it was wrapped by whoever wrote the letter, and ends here.", "- A point"],
        ),
        ("我的姐姐叫米雷拉。“好！”他说。", ["我的姐姐叫米雷拉。", "“好！”他说。"]),
        ("मेरी बहन मिरेला है। वह लीड्स में है।", ["मेरी बहन मिरेला है।", "वह लीड्स में है।"]),
    ],
)
def test_sentences_end_at_stops_and_lines_but_not_at_abbreviations_or_wraps(text, expected):
    assert sentences(text) == expected


def test_a_message_of_blanks_is_read_at_once():
    began = time.perf_counter()
    sentences("a" * 60 + " " * 100_000 + "b")  # fifteen seconds if each blank is tried as the beginning of the rest
    assert time.perf_counter() - began < 2


def test_vowel_signs_and_accents_of_their_own_belong_to_their_word():
    assert words("मेरी बहन का नाम") == ["मेरी", "बहन", "का", "नाम"]
    assert words("Mu\u0308ller") == words("M\u00fcller") == ["m\u00fcller"]


@pytest.mark.parametrize("context", [
    [{"role": "user", "content": "Marek has the key . " * 200}],
    [{"role": "user", "content": "who ?"}, *[{"role": "assistant", "content": "Marek has the key ."}] * 200],
    "Marek has the key . " * 200,
    "Marek has the key , " * 200,
])  # fmt: skip
def test_pieces_are_bounded_however_long_a_message_is(context):
    count = tokenizer()
    understood = parse_context(context, count, 64)
    parts = ([m["content"] for m in piece] if isinstance(piece, tuple) else [piece] for piece in understood.pieces)
    assert all(sum(len(count(text).input_ids) for text in part) <= 2 * 64 for part in parts)
    assert all(s.text in str(understood.pieces[s.piece]) for s in understood.statements)
    told = understood.text if isinstance(context, str) else " ".join(m["content"] for m in context)
    said = " ".join(m["content"] for piece in understood.pieces for m in piece) if understood.conversation else told
    assert said.split() == told.split()


def test_words_that_only_lead_up_to_a_sentence_are_left_out():
    assert without_opener("Oh, and by the way, my code is 7719.") == "My code is 7719."
    assert without_opener("Also known as Ines.") == "Known as Ines."
    assert without_opener("Andrew is here.") == "Andrew is here."


def test_an_answer_holds_a_word_in_any_of_its_forms_and_no_other_word():
    assert holds("On Thursdays she studies nine bees.", ["thursday", "study", "9", "bee"])
    assert not holds("He lives in Braga.", ["ines"])


def test_details_are_names_and_numbers_first_and_no_verb_of_mine():
    assert details("I painted my kitchen silver in Braga.") == ["Braga", "kitchen silver"]


def test_a_function_word_that_is_a_name_within_a_sentence_is_a_detail():
    assert details("My daughter was born in May.")[0] == "May"
    assert details("My brother Will lives in Cork.")[:2] == ["Will", "Cork"]
    assert content("May I come in?") == {"come"} and content("May") == {"may"}
    told = "My daughter was born in May."
    assert value(told, "In which month was my daughter born?", told) == {"may"}


@pytest.mark.parametrize(
    ("sentence", "detail", "kind", "questions"),
    [
        ("My dog is called Bolt.", "Bolt", "name", ["What is my dog called?", "What is my dog's name?"]),
        ("My sister's name is Ines.", "Ines", "name", ["What is my sister's name?", "What is my sister called?"]),
        ("My vet is Ines.", "Ines", "vet", ["Who is my vet?"]),
        (
            "My neighbour Ines waters the plants.",
            "Ines",
            "name",
            ["Who waters the plants?", "Which neighbour waters the plants?"],
        ),
        ("My old friend Ines is getting married.", "Ines", "name", ["Which friend of mine is getting married?"]),
        ("I live in Braga.", "Braga", "city", ["Where do I live?", "In which city do I live?"]),
        ("I keep seven hens.", "seven", "number", ["How many hens do I keep?"]),
        ("My tent sleeps 7 people.", "7", "number", ["How many people does my tent sleep?"]),
        (
            "My train leaves at 7:40.",
            "7:40",
            "time",
            ["When does my train leave?", "At which time does my train leave?"],
        ),
        ("My coach teaches on Monday.", "Monday", "day", ["On which day does my coach teach?"]),
        ("My son was born in June.", "June", "month", ["In which month was my son born?"]),
        ("The exam is on the 9th of June.", "9th", "day", ["On which day of June is the exam?"]),
        ("My uncle was a welder.", "welder", "profession", ["What was my uncle's profession?"]),
        ("My aunt works as a nurse.", "nurse", "job", ["What is my aunt's job?"]),
        ("My sister moved to Braga.", "Braga", "city", ["Where does my sister live?", "Where did my sister move to?"]),
        ("My cousin teaches at a school in Leeds.", "school", "", ["Where does my cousin teach?"]),
        ("My train leaves at 7:45 from platform 3.", "platform 3", "", ["From which platform does my train leave?"]),
        ("My locker is number 12.", "12", "", ["What number is my locker?", "What is the number of my locker?"]),
        ("We have two kids: Otto, who is nine, and Runa.", "nine", "age", ["What is Otto?"]),
        ("I'm allergic to nuts, so take care.", "nuts", "food", ["What am I allergic to?"]),
        ("The rain fell on Ines.", "Ines", "name", []),
    ],
)
def test_a_sentence_is_turned_round_by_every_pattern_that_fits(sentence, detail, kind, questions):
    turned = asking._turned_round(sentence, detail, kind, PROMPTS)
    assert set(questions) <= set(turned)
    assert bool(turned) == bool(questions)
    assert not any("{kind}" in text for text in turned)


def test_the_form_of_some_details_tells_their_kind():
    found = {
        detail: asking.kind_by_form(detail, PROMPTS)
        for detail in ("Mondays", "May", "7:40", "9th", "1984", "Ines", "264")
    }
    assert found == {
        "Mondays": "day",
        "May": "month",
        "7:40": "time",
        "9th": "day",
        "1984": "year",
        "Ines": "",
        "264": "",
    }


def test_what_only_announces_a_statement_is_left_out():
    assert without_announcement("Oh, and something has changed: my dog is called Bolt.") == "My dog is called Bolt."
    assert without_announcement("One more thing: I moved to Braga.") == "I moved to Braga."
    assert without_announcement("My boss said: the deadline is in May.") == "My boss said: the deadline is in May."
    assert without_announcement("Ingredients: two eggs.") == "Ingredients: two eggs."


def test_answers_are_studied_without_thoughts_where_the_template_can_leave_them_out():
    thinking, plain = tokenizer(), tokenizer()
    thinking.chat_template += "{% if enable_thinking is defined and enable_thinking is false %}Answer {% endif %}"
    prompts = [PromptFormatter(one, PROMPTS.plain).asked("who is Ines ?") for one in (thinking, plain)]
    assert prompts[0] == [*prompts[1], *thinking("Answer", add_special_tokens=False).input_ids]
    assert PromptFormatter(thinking, PROMPTS.plain).question_of(prompts[0]) == PromptFormatter(
        plain, PROMPTS.plain
    ).question_of(prompts[1])


def test_names_and_numbers_that_nobody_told_are_noticed():
    told = stems("My daughter was born in March. I wake at 7:40, and keep four hens.")
    assert made_up("Your daughter was born on March 25th.", told) == {"25th"}
    assert made_up("My daughter is called Emily.", told) == {"emily"}
    assert not made_up("You wake at 7:40 AM, and keep 4 hens in March.", told)


@pytest.mark.parametrize(
    ("told", "asked", "not_asked"),
    [
        ("My uncle moved to Cork.", [], ["Where do I live?", "Where did I live before?"]),
        ("I have just moved to Cork.", ["Where do I live?"], []),
        ("My daughter was born in March.", [], ["Where was I born?", "When is my birthday?"]),
        ("My best friend is getting married.", [], ["What is my wife's name?"]),
        ("My coach works in Cork.", [], ["What is my job?", "Where do I work?"]),
        ("My dog is called Bolt.", ["What pets do I have?", "What is my dog's name?"], []),
        ("My older sister is called Ines.", ["What is my sister's name?"], []),
        ("My storage unit is number 762.", [], ["What is my phone number?"]),
        ("I'm Petra, and I live in Cork.", ["What is my name?"], ["What do I like?"]),
        ("My best friend Hedda is getting married.", [], ["What is my name?", "What do I like?"]),
        ("I really love curling.", ["What do I like?"], ["What is my name?"]),
        ("My favourite dish is ceviche.", ["What is my favourite food?"], ["What is my favourite colour?"]),
    ],
)
def test_the_usual_questions_are_asked_about_the_speaker_not_about_others(told, asked, not_asked):
    context = parse_context([{"role": "user", "content": told}], tokenizer(), 64)
    found = {one.text for one in asking.usual_questions(context, PROMPTS)}
    assert set(asked) <= found and not set(not_asked) & found


def test_a_long_context_is_asked_for_its_names_and_numbers():
    text = (
        " ".join(f"The slow river ran near village{n:02} under heavy skies." for n in range(20))
        + " Ines owed 85 euros."
    )
    context = parse_context(text, tokenizer(), 512)
    found = asking.details_of(context, ConsolidationConfig(most_details=22))
    assert len(found) == 22
    assert {"Ines", "85", "village00", "village19"} <= {detail for _, detail in found}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("refusals = [", "refusal = [", r"lack \['refusals'\] and have unknown keys \['refusal'\]"),
        ("{gap}\nHidden: {hidden}\nKind:", "\nHidden: {hidden}\nKind:", r"'kind'.*lacks the placeholders \['gap'\]"),
        ('["How old am I?", ""]', '"How old am I?"', "'usual'.*'How old am I\\?'; expected pairs"),
        ('introduced = ["What is my name?", ', "introduced = [", "'introduced'.*; expected pairs"),
        ("refusals = [", "refusals = ", "cannot be read"),
    ],
)
def test_a_file_of_prompts_that_does_not_fit_is_refused(tmp_path, old, new, message):
    own = resources.files("ttt_retrofit.consolidation").joinpath("prompts.toml").read_text()
    assert own.count(old) == 1
    path = tmp_path / "prompts.toml"
    path.write_text(own.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        Prompts.load(path)


def test_a_question_may_name_the_kind_of_a_number_but_not_the_number():
    assert asking._asks("What is the number of my locker?", "number 264")
    assert not asking._asks("What is locker 264 for?", "number 264")
    assert not asking._asks("Which aunt lives in Braga?", "aunt")


def test_things_that_only_the_examples_of_a_prompt_name_are_noticed():
    examples = asking._examples(PROMPTS.conversation)
    assert {"garden", "cousin"} <= examples and "sentence" not in examples
    assert asking.named("How many chairs are in my garden?") & examples == {"chair", "garden"}
    assert not asking.named("When is my report due?") & examples


def question(text, *value, statement=0, spare=False):
    return study.Question(text, frozenset(value), None, statement, spare=spare)


def test_only_spare_wordings_are_held_out_and_no_answer_goes_untaught():
    asked = [question(f"{word} {number}?", word) for number in range(4) for word in ("ines", "braga")]
    spare = [question(f"{word} again?", word, spare=True) for word in ("ines", "bolt", "braga")]
    held = study.hold_out([*asked, question("Only here?", "bolt"), *spare], share=1.0)
    assert [q.text for q in held if q.held_out] == ["ines again?", "braga again?"]


def test_a_question_is_studied_by_every_name_of_what_it_is_about_with_one_answer():
    asked = [question("What does Petra grow?", "pumpkins"), question("Who grows pumpkins?", "petra")]
    found = study.otherwise_named(asked, [("my aunt", "Petra")])
    assert [(q.text, q.value) for q in found[2:]] == [("What does my aunt grow?", frozenset({"pumpkins"}))]


def test_my_train_to_porto_is_my_train_where_there_is_no_other():
    asked = [question("When does my train to Porto leave?", "7:45", statement=0)]
    assert [q.text for q in study.otherwise_named(asked, [])[1:]] == ["When does my train leave?"]
    asked += [question("When does my train to Lisbon leave?", "9:10", statement=1)]
    assert study.otherwise_named(asked, []) == asked


def test_what_she_does_is_asked_by_whom_she_is():
    statement = Statement("She works as a beekeeper.", "My sister Mirela moved to Braga.", 0)
    assert asking._by_name(statement) == "my sister works as a beekeeper."
    turned = asking._turned_round(asking._by_name(statement), "beekeeper", "profession", PROMPTS)
    assert {"What is my sister's job?", "What does my sister do?"} <= set(turned)
    inside = replace(statement, text="My aunt sold her house.")
    assert asking._by_name(inside) == inside.text


def test_gates_are_measured_on_other_general_questions_than_the_benchmarks_ask():
    asked = GENERAL.read_text().splitlines()
    assert len(set(asked)) == len(asked) >= 80 and not set(asked) & set(PROMPTS.general)


@pytest.mark.parametrize(
    "told, declined, known",
    [
        ("My favourite dish is borscht.", "What is my favourite film?", "What is my favourite dish?"),
        ("The number of my flight is YL583.", "What is my account number?", "What is my flight number?"),
        ("My landlady works at the bank.", "Who is my dentist?", "Where do I work?"),
    ],
)
def test_a_word_that_many_things_share_answers_none_of_them(told, declined, known):
    asked = study.unanswered(Prompts.load(), told)
    assert declined in asked and known not in asked


def test_what_a_question_calls_mine_is_noticed():
    assert asking.mine("What is my job?") == {"job"}
    assert asking.mine("My favourite dish is at our dog's place.") == {"dish", "dog"}


def test_who_speaks_of_himself_where_nobody_did_is_noticed():
    assert study._as_i("I'm Ines.") and not study._as_i("My teacher is Ines.")


def test_where_few_are_held_out_studied_questions_decide_too():
    held_out = [question(f"{number} held out?", "ines") for number in range(5)]
    studied = [question(f"{number} studied?", "ines") for number in range(40)]
    found = verify.chosen(held_out, studied)
    assert found[:5] == held_out and len(found) == verify.ASKED_AT_LEAST
    assert found[5] == studied[0] and found[-1] in studied[30:]
    assert verify.chosen(held_out * 4, studied) == held_out * 4
    assert len(verify.chosen(held_out * 40, studied)) == verify.ASKED_AT_MOST
    assert verify.chosen([], studied[:3]) == studied[:3]


def test_questions_about_one_piece_are_answered_together():
    assert study._batches([0, 1, 0, 1, 2]) == [[0, 2], [1, 3], [4]]
    assert [len(batch) for batch in study._batches([0] * (study.BATCH + 3))] == [study.BATCH, 3]
