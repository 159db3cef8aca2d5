"""From a plain checkpoint to a converted, meta-learned one that loads anywhere.

    python examples/meta_train.py --model Qwen/Qwen3-0.6B --texts books/*.txt --output qwen3-ttt
    accelerate launch --multi_gpu examples/meta_train.py ...          # a whole model on each device

Needs `pip install 'ttt-retrofit[train]'`.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer

from ttt_retrofit import TTTConfig, TTTTrainer, TTTTrainingConfig, wrap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="name or directory of a decoder")
    parser.add_argument("--texts", nargs="+", type=Path, required=True, help="files, each one a document")
    parser.add_argument("--output", required=True)
    parser.add_argument("--gradients", default="exact", choices=["exact", "truncated", "first_order", "none"])
    parser.add_argument("--sequence-length", type=int, default=4096)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()

    # What is trained stays in float32; for bfloat16 compute on an accelerator add bf16=True below.
    model = wrap(options.model, TTTConfig(sliding_window=options.window), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    documents = [path.read_text() for path in options.texts]
    held_out = documents[-1:] if len(documents) > 1 else None

    args = TTTTrainingConfig(
        f"{options.output}/checkpoints",
        gradients=options.gradients,
        sequence_length=options.sequence_length,
        max_steps=options.steps,
        per_device_train_batch_size=1,
        lr_scheduler_type="cosine",
        warmup_steps=options.steps // 10,
        logging_steps=5,
        eval_strategy="steps" if held_out else "no",
        eval_steps=25,
        save_steps=25,
    )
    trainer = TTTTrainer(
        model, args, documents[:-1] if held_out else documents, eval_dataset=held_out, processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model(options.output)  # loads with transformers' AutoModelForCausalLM after `import ttt_retrofit`


if __name__ == "__main__":
    main()
