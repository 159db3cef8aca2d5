"""lm-eval scores a converted model through its own `HFLM`, offline, as it scores the base."""

import json

import pytest
from converted import ttt
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from test_pipeline import word_tokenizer, words
from tiny import tiny

from ttt_retrofit import wrap

pytestmark = pytest.mark.slow

TASK = """
task: words
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - metric: acc
"""


def scorer(model) -> HFLM:
    return HFLM(pretrained=model, tokenizer=word_tokenizer(), device="cpu", batch_size=1, max_length=256)


@pytest.fixture(scope="module")
def base() -> HFLM:
    return scorer(tiny("llama"))


@pytest.fixture(scope="module")
def unlearning() -> HFLM:
    return scorer(wrap(tiny("llama"), ttt(inner_lr=0.0, sliding_window=None)))


@pytest.fixture(scope="module")
def learning() -> HFLM:
    return scorer(wrap(tiny("llama"), ttt()))


def requests(kind: str) -> list[Instance]:
    contexts = [words(30), words(11, first=9), words(50, first=7)]
    if kind == "loglikelihood":
        arguments = [(context, " " + words(4, first=20)) for context in contexts]
    elif kind == "loglikelihood_rolling":
        arguments = [(context,) for context in contexts]
    else:
        arguments = [(context, {"until": ["w99"], "max_gen_toks": 8}) for context in contexts]
    return [Instance(kind, doc={}, arguments=pair, idx=i) for i, pair in enumerate(arguments)]


def test_at_learning_rate_0_log_likelihoods_are_those_of_the_base(base, unlearning, learning):
    plain, ours, learned = (
        [score for score, _ in lm.loglikelihood(requests("loglikelihood"))] for lm in (base, unlearning, learning)
    )
    assert ours == pytest.approx(plain, abs=1e-4)
    assert max(abs(a - b) for a, b in zip(learned, plain)) > 1e-2


def test_at_learning_rate_0_rolling_log_likelihoods_are_those_of_the_base(base, unlearning):
    plain, ours = (lm.loglikelihood_rolling(requests("loglikelihood_rolling")) for lm in (base, unlearning))
    assert ours == pytest.approx(plain, abs=1e-3)


def test_at_learning_rate_0_generations_are_those_of_the_base(base, unlearning, learning):
    plain, ours, learned = (lm.generate_until(requests("generate_until")) for lm in (base, unlearning, learning))
    assert ours == plain and all(len(text.split()) > 0 for text in learned)


def test_a_task_of_ones_own_is_evaluated(base, unlearning, learning, tmp_path):
    rows = [
        {"context": words(30, first=5 + i), "choices": [words(3, first=6 + i), words(3, first=40 + i)], "answer": i % 2}
        for i in range(4)
    ]
    file = tmp_path / "words.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "words.yaml").write_text(TASK.format(file=file))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    accuracies = []
    for lm in (base, unlearning, learning):
        found = simple_evaluate(lm, tasks=["words"], task_manager=manager, bootstrap_iters=0)
        accuracies.append(found["results"]["words"]["acc,none"])
    assert accuracies[0] == accuracies[1] and 0 <= accuracies[2] <= 1
