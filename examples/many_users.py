"""Two users and a guest in one batch: each row has its own memory, or none.

    python examples/many_users.py

Consolidates two short conversations first; minutes on a CPU.
"""

import typer
from transformers import AutoTokenizer

from ttt_retrofit import Memory, TTTConfig, wrap

TOLD = {
    "ines": ["The code of the garage is 7145.", "My dog is called Biscuit."],
    "otto": ["The code of the garage is 2903.", "My cat is called Pepper."],
}
QUESTION = "What is the code of the garage?"


def main(
    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct", max_new_tokens: int = 20
) -> tuple[dict[str, str], dict[str, Memory]]:
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    # "none": a short prompt need not change fast weights as well, which saves every row their memory.
    speaker = wrap(model, TTTConfig(learn_from="none"))

    memories = {}
    for user, sentences in TOLD.items():
        turns = [{"role": "user", "content": sentence} for sentence in sentences]
        said = [message for turn in turns for message in (turn, {"role": "assistant", "content": "Noted."})]
        memories[user] = speaker.consolidate(said, tokenizer=tokenizer, load=False, progress=True)  # active for no one
        print(f"{user}: {memories[user].report}\n")

    users = [*TOLD, "guest"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True
    )
    batch = tokenizer([prompt] * len(users), return_tensors="pt", padding=True, add_special_tokens=False)
    written = speaker.generate(
        **batch, memories=[memories.get(user) for user in users], max_new_tokens=max_new_tokens, do_sample=False
    )
    answers = tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    for user, answer in zip(users, answers):
        print(f"{user}: {answer.strip()}")
    return dict(zip(users, answers)), memories


if __name__ == "__main__":
    typer.run(main)
