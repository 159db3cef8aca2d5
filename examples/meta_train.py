"""From a plain checkpoint to a converted, meta-learned one that loads anywhere.

    pip install -e '.[train]'
    python examples/meta_train.py book1.txt book2.txt held_out.txt --model Qwen/Qwen3-0.6B --output qwen3-ttt
    accelerate launch --multi_gpu examples/meta_train.py ...          # a whole model on each device
    accelerate launch --multi_gpu examples/meta_train.py ... --shard  # a share of the base on each device

Several processes on CPUs: the same with ACCELERATE_USE_CPU=true in the environment, and --num_processes.

Train the control as well: `--gradients none` is plain fine-tuning of the same parameters.
"""

from pathlib import Path

import torch
import typer
from transformers import AutoTokenizer

from ttt_retrofit import TTTConfig, TTTTrainer, TTTTrainingConfig, wrap


def main(
    texts: list[Path],  # each one a document; the last of several is held out
    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct",
    output: Path = Path("tuned"),
    gradients: str = "exact",  # or truncated, first_order, none
    sequence_length: int = 4096,
    window: int = 1024,
    chunk: int = 256,
    steps: int = 100,
    shard: bool = False,
) -> dict[str, float]:
    # What is trained stays in float32; for bfloat16 compute on an accelerator add bf16=True below.
    reader = wrap(model, TTTConfig(sliding_window=window, chunk_size=chunk), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    documents = [path.read_text() for path in texts]
    held_out = documents[-1:] if len(documents) > 1 else None

    args = TTTTrainingConfig(
        f"{output}/checkpoints",
        gradients=gradients,
        shard=shard,
        sequence_length=sequence_length,
        max_steps=steps,
        per_device_train_batch_size=1,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 10,
        logging_steps=5,
        eval_strategy="steps" if held_out else "no",
        eval_steps=25,
        save_steps=25,
        report_to="none",
    )
    trainer = TTTTrainer(
        reader, args, documents[:-1] if held_out else documents, eval_dataset=held_out, processing_class=tokenizer
    )
    before = trainer.evaluate() if held_out else {}  # by quarter of the sequences, with updates and without
    trainer.train()
    after = trainer.evaluate() if held_out else {}
    for name in (key for key in after if "loss" in key):
        print(f"{name}: {before[name]:.4f} before, {after[name]:.4f} after")
    trainer.save_model(output)  # loads with transformers' AutoModelForCausalLM after `import ttt_retrofit`
    return after


if __name__ == "__main__":
    typer.run(main)
