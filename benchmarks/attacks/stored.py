"""What the library stores, and what is made of it: logits and words, to compare before and after an attack."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from consolidated import CONFIG, consolidate
from converted import converted, logits, speaker
from remembered import memory
from test_meta_trainer import trainer
from tiny import tokens
from words import QUESTIONS, tokenizer

from ttt_retrofit import AutoModelForCausalLM, Cancelled, ChatSession, Memory, TTTCache
from ttt_retrofit.consolidation import work_directory
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.serving.users import Users

GREEDY = {"max_new_tokens": 6, "do_sample": False}
HELLO = [{"role": "user", "content": "where is Marek ?"}]
MORE = [*HELLO, {"role": "assistant", "content": "Antwerp"}, {"role": "user", "content": "who has the key ?"}]


@dataclass(frozen=True)
class Stored:
    """One kind of thing on a disk.

    `make` writes one into a directory, `change` writes another over it, and `use` loads what is there and says in JSON
    what comes of it. `files` are the patterns of those that are attacked.
    """

    name: str
    make: Callable[[Path], None]
    change: Callable[[Path], None]
    use: Callable[[Path], Any]
    files: tuple[str, ...]
    slow: bool = False
    resealed: bool = True  # False: nobody hands it on, and its checksums are against damage alone


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """Of all their bytes; safetensors hands them on in any order."""
    found = hashlib.sha256()
    for _, tensor in sorted(tensors.items()):
        found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def tensors_of(memory: Memory) -> dict[str, torch.Tensor]:
    return {f"{number} {name}": t for number, entry in enumerate(memory.entries) for name, t in entry.tensors().items()}


def spoken(model: Any) -> list[float]:
    """The logits after a text."""
    return logits(model, tokens(2, 40))[:, -1].flatten().tolist()


def kinds() -> list[Stored]:
    """All of them; the models they share are made once."""
    model, reader = speaker(), converted()
    models = [_checkpoint(), _training(), _memory(model), _cache(reader)]
    return [*models, _store(model), _turns(model), _seen(model), _work(model)]


# ---------------------------------------------------------------------- models, memories, caches


def _checkpoint() -> Stored:
    def use(place: Path) -> Any:
        model = AutoModelForCausalLM.from_pretrained(place).eval()
        return [model.ttt.to_dict(), digest(model.state_dict()), spoken(model)]

    return Stored(
        "converted checkpoint",
        lambda place: converted("llama", "lora").save_pretrained(place),
        lambda place: converted("llama", "lora", inner_lr=0.02).save_pretrained(place),
        use,
        ("*.safetensors", "ttt_weights.json"),  # a config.json is meant to be edited
        resealed=False,  # and weights may be any numbers
    )


def _training() -> Stored:
    """A training that was stopped after four of its six steps. Going on must end where it would have ended."""

    def trained(place: Path, steps: int) -> Any:
        settings = {"max_steps": steps, "save_strategy": "steps", "save_steps": 2, "gradients": "first_order"}
        run = trainer(place, converted("llama", "lora"), **settings)
        run.train(resume_from_checkpoint=any(place.glob("checkpoint-*")))
        return [run.state.global_step, digest(run.model.state_dict())]

    def make(place: Path) -> None:
        trained(place, 4)

    def change(place: Path) -> None:
        trained(place, 6)

    files = ("checkpoint-*/*.json", "checkpoint-*/*.safetensors", "checkpoint-*/*.pt", "checkpoint-*/*.pth")
    return Stored("training", make, change, lambda place: trained(place, 6), files, slow=True, resealed=False)


def _memory(model: Any) -> Stored:
    def use(place: Path) -> Any:
        found = model.load_memory(Memory.load(place))
        return [found.names(), digest(tensors_of(found)), spoken(model)]

    return Stored(
        "memory", lambda place: _saved(memory(model, 1, 2), place), lambda place: _saved(memory(model, 3), place), use,
        ("memory.json", "*.safetensors"),
    )  # fmt: skip


def _saved(one: Memory, place: Path) -> None:
    one.save(place)


def _cache(model: Any) -> Stored:
    def write(place: Path, seed: int) -> None:
        cache = model.new_cache().keep_text()
        model.read(tokens(2, 45, seed=seed), past_key_values=cache).save(place / "talk.safetensors")

    def use(place: Path) -> Any:
        cache = TTTCache.load(place / "talk.safetensors", model)
        pasts = {f"{n} {m}": part for n, layer in enumerate(cache.layers) for m, part in enumerate(layer.past())}
        kept = digest(pasts | cache.fast.tensors())
        with torch.no_grad():
            after = model(tokens(2, 30, seed=9), past_key_values=cache)
        return [cache.text, cache.losses, kept, after.logits[:, -1].flatten().tolist()]

    return Stored("TTTCache file", lambda p: write(p, 0), lambda p: write(p, 1), use, ("*.safetensors",))


# ---------------------------------------------------------------------- stores


def _store(model: Any) -> Stored:
    def make(place: Path) -> None:
        for seeds in ((1,), (1, 2)):
            MemoryStore(place).save(memory(model, *seeds))

    def use(place: Path) -> Any:
        store = MemoryStore(place)
        found = model.load_memory(store.load())
        said, before = [found.names(), spoken(model)], []
        while (one := store.rollback()) is not None:
            before.append(one.names())
        return [said, before]

    def change(place: Path) -> None:
        MemoryStore(place).save(memory(model, 1, 2, 3))

    files = ("current.json", "versions/*/memory.json", "versions/*/*.safetensors")
    return Stored("store of memories", make, change, use, files)


def _session(model: Any, place: Path, keep_turns: int = 1) -> ChatSession:
    return ChatSession(model, tokenizer(), place, keep_turns=keep_turns, config=CONFIG, questions=QUESTIONS)


def _turns(model: Any) -> Stored:
    def use(place: Path) -> Any:
        chat = _session(model, place)
        before = [dict(message) for message in chat.messages]
        return [before, chat.send("what is blue ?", **GREEDY)]

    def make(place: Path) -> None:
        _session(model, place).note(*MORE)

    def change(place: Path) -> None:
        _session(model, place).note({"role": "assistant", "content": "Otto"})

    return Stored("turns.json", make, change, use, ("turns.json",))


def _seen(model: Any) -> Stored:
    def record(place: Path, conversation: list[dict[str, str]], answer: str) -> list[str]:
        users = Users(place, lambda path: _session(model, path, 0))
        try:
            users.record("ines", users.get("ines"), conversation, answer)
            return [message["content"] for message in users.get("ines").session.messages]
        finally:
            users.close()

    def make(place: Path) -> None:
        record(place, MORE, "Otto")

    def change(place: Path) -> None:
        record(place, [*MORE, {"role": "assistant", "content": "Otto"}, HELLO[0]], "Leeds")

    return Stored("seen.json", make, change, lambda place: record(place, MORE, "Otto"), ("*/seen.json",))


def _work(model: Any) -> Stored:
    """A consolidation that was cancelled while it trained. Going on must give the memory it would have given."""

    def ended(place: Path) -> Any:
        model.reset_memory()
        found = consolidate(model, directory=place, budget={"steps": 6})
        return [found.names(), digest(tensors_of(found))]

    def make(place: Path) -> None:
        work_directory.SAVE_EVERY = 0.0

        def stop(now: Any) -> None:
            if now.stage == "train" and now.done >= 4:
                raise Cancelled("for the attack")

        model.reset_memory()
        try:
            consolidate(model, directory=place, budget={"steps": 6}, progress=stop)
        except Cancelled:
            return
        raise RuntimeError("The consolidation was not cancelled.")

    def change(place: Path) -> None:
        work_directory.SAVE_EVERY = 0.0
        ended(place)

    return Stored("work in progress", make, change, ended, ("*/*.safetensors",), slow=True)
