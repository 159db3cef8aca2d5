"""lm-eval scores a converted model through its own `HFLM`: a text of yours, or any of its tasks.

    pip install lm-eval
    python examples/harness.py
    python examples/harness.py --tasks lambada_openai --tasks arc_easy --limit 100       # fetched from the Hub

Every request is a sequence of its own: fast weights start anew, and learn only within it.
"""

import json
import tempfile
from pathlib import Path

import typer
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from ttt_retrofit import TTTConfig, wrap

NOVEL = Path(__file__).parents[1] / "benchmarks/data/persuasion.txt"
OWN_TASK = """
task: text
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{page}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""


def main(
    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct",
    tasks: list[str] | None = None,  # names of lm-eval; the text below when not given
    text: Path = NOVEL,
    characters: int = 16_000,
    window: int = 512,
    chunk: int = 256,
    longest: int = 4096,
    limit: int | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    scorer = wrap(model, TTTConfig(sliding_window=window, chunk_size=chunk))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "text.jsonl")
        file.write_text(json.dumps({"page": text.read_text()[:characters]}))
        Path(folder, "text.yaml").write_text(OWN_TASK.format(file=file))
        manager = TaskManager(include_path=folder)
        for name, learn_from in (("without updates", "none"), ("with updates", "all")):
            scorer.configure_ttt(learn_from=learn_from)
            lm = HFLM(pretrained=scorer, tokenizer=tokenizer, batch_size=1, max_length=longest)
            scored = simple_evaluate(lm, tasks=tasks or ["text"], task_manager=manager, limit=limit, bootstrap_iters=0)
            found[name] = scored["results"]
            print(f"{name}: {json.dumps(scored['results'], indent=1, default=str)}")
    return found


if __name__ == "__main__":
    typer.run(main)
