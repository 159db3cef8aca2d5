"""What a pretrained model was told, it still knows when the conversation is gone, and nothing else has changed.

The smallest model learns, but does not write well. A script writes for it, so what is measured here is learning.
Corrections by a later conversation take minutes more: `python -m benchmarks.lifelong --plan corrections` measures them.
"""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from scripted import script
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.harness.prompts import Recollector
from benchmarks.harness.recollect import changed
from benchmarks.models import model_directory
from benchmarks.texts import text
from ttt_retrofit import TTTConfig, wrap
from ttt_retrofit.consolidation.facts.checks import holds
from ttt_retrofit.consolidation.prompts import Prompts

pytestmark = pytest.mark.real

TOLD = [
    {"role": "user", "content": "The code of the garage is 3308."},
    {"role": "assistant", "content": "Noted."},
    {"role": "user", "content": "My dog is called Biscuit."},
    {"role": "assistant", "content": "Lovely."},
    {"role": "user", "content": "Something has changed: The code of the garage is 7145."},
    {"role": "assistant", "content": "Noted."},
]
ASKED = {
    "What is the code of the garage?": "7145",
    "What is my dog called?": "biscuit",
    "What is the name of my dog?": "biscuit",
}


def says(asked, told):
    """Answers out of what was told last."""
    if "dog" in asked:
        return "Your dog is called Biscuit."
    return f"The code of the garage is {'7145' if '7145' in told else '3308'}."


WRITER = script(
    facts={
        "3308": "The code of the garage is 3308.",
        "Biscuit": "My dog is called Biscuit.",
        "7145": "The code of the garage is 7145.",
    },
    questions={
        "3308": "3308 | What is the code of the garage?",
        "Biscuit": "Biscuit | How is my dog called?\nBiscuit | What is the name of my dog?",
        "7145": "7145 | What is the new code of the garage?\n7145 | What is the garage code?",
    },
    again={"Biscuit": "What is my dog called?", "7145": "What is the code of the garage?"},
    changes={"3308": "7145"},
    says=says,
)
# Fewer reference questions than the library's: a minute and a half on two cores.
PROMPTS = Prompts.load()
FEWER = dataclasses.replace(
    PROMPTS, general=PROMPTS.general[::2], unknown=PROMPTS.unknown[::8], unrelated=PROMPTS.unrelated[:3]
)
# Of no personal thing, and none of the questions that gates are measured on.
ELSEWHERE = [
    "What is the capital of Spain?",
    "Who painted Guernica?",
]

RECOLLECT = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
from ttt_retrofit import Memory, TTTConfig, wrap
directory, memory, questions = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(directory)
model = wrap(AutoModelForCausalLM.from_pretrained(directory).eval(), TTTConfig(learn_from="none"))
answers = {}
for name, loaded in (("without", None), ("with", Memory.load(memory))):
    for question in questions:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**ids, max_new_tokens=12, do_sample=False, memories=[loaded])
        answers[f"{name} {question}"] = tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def directory():
    return model_directory("smollm2-135m")


@pytest.fixture(scope="module")
def told(directory, tmp_path_factory):
    """A model that was told two facts, one of them anew, and its memory of them."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = wrap(AutoModelForCausalLM.from_pretrained(directory).eval(), TTTConfig(learn_from="none"))
    work = tmp_path_factory.mktemp("work")
    memory = model.consolidate(TOLD, tokenizer=tokenizer, writer=WRITER, prompts=FEWER, work_dir=work)
    return model, tokenizer, memory


def test_what_was_told_is_known_in_a_fresh_process_without_the_conversation(told, directory, tmp_path):
    _, _, memory = told
    assert memory.report.accepted  # by questions in other words than the two that are studied of each fact
    memory.save(tmp_path)
    command = [sys.executable, "-c", RECOLLECT, str(directory), str(tmp_path), json.dumps([*ASKED, *ELSEWHERE])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.strip().splitlines()[-1])
    assert not any(holds(answers[f"without {question}"], [answer]) for question, answer in ASKED.items())
    assert sum(holds(answers[f"with {question}"], [answer]) for question, answer in ASKED.items()) >= 2
    assert not any(holds(answers[f"with {question}"], ["3308"]) for question in ASKED), "that no longer holds"
    assert all(answers[f"with {question}"] == answers[f"without {question}"] for question in ELSEWHERE)
    assert not set(ELSEWHERE) & set(Prompts.load().general)


def test_questions_about_the_world_are_answered_as_without_a_memory(told):
    assert changed(*told, every=8) == 0.0  # of ten


def test_general_requests_after_personal_turns_are_answered_as_without_a_memory(told):
    report = told[2].report
    assert report.chat_changed <= 0.1 and report.chat_refused == 0.0  # of twelve


def test_unrelated_text_is_read_bit_for_bit_as_without_a_memory(told):
    model, tokenizer, memory = told
    ids = tokenizer(text("persuasion-excerpt"), return_tensors="pt").input_ids[:, :512]
    with torch.no_grad():
        with_memory = model(input_ids=ids, memories=[memory]).logits
        assert torch.equal(with_memory, model(input_ids=ids, memories=[None]).logits)
    assert memory.report.drift_loss == 0.0


def test_the_facts_that_hold_are_known_or_stay_in_words(told):
    memory = told[2]
    assert [fact.text for fact in memory.facts("superseded")] == ["The code of the garage is 3308."]
    assert {fact.text for fact in memory.facts()} == {"My dog is called Biscuit.", "The code of the garage is 7145."}
    # The smallest model may miss a wording that it did not study. Then that fact stays in words.
    assert memory.unlearned() == [fact for fact in memory.facts() if not fact.learned] != memory.facts()
    in_words = str(memory.with_notes([]))
    assert all((fact.text in in_words) != fact.learned for fact in memory.facts())
    assert memory.nbytes < 10e6


def test_a_memory_tells_all_it_was_told(told):
    model, tokenizer, memory = told
    said = Recollector(model, tokenizer, memory).answers([([], "What do you know about me?")])[0]
    assert holds(said, ["7145", "biscuit"]) and not holds(said, ["3308"])
