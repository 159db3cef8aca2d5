"""The session that changes the facts of a directory, and the model that it takes for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ttt_retrofit import ChatSession, InputError
from ttt_retrofit.chat.directory import is_session_directory
from ttt_retrofit.consolidation.facts.writers import writer_of
from ttt_retrofit.serving.stores import is_of_one

from .options import ModelOptions, WriterOptions
from .output import Output
from .recipes import recipe
from .stores import Kept


class SessionOpener:
    """Opens sessions on directories of users. The model is loaded with the first, and kept.

    Parameters
    ----------
    model : None for the base that the first memory names.
    """

    def __init__(self, model: str | None, making: WriterOptions, options: ModelOptions, out: Output) -> None:
        self.config, self.writer = recipe(making.recipe), writer_of(making.writer)
        self.model, self.options, self.out = model, options, out
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, directory: Path) -> ChatSession:
        """Raises `InputError` when nobody says which model, or for a store without the words of its user."""
        if is_of_one(directory) and not is_session_directory(directory):
            raise InputError(
                f"{directory} is a memory store without a user's directory around it. Change its facts in Python: "
                "memory.forget_fact(id, model), store.save(memory)."
            )
        model, tokenizer = self._model_and_tokenizer(directory)
        return ChatSession(model, tokenizer, directory, config=self.config, writer=self.writer)

    def _model_and_tokenizer(self, directory: Path) -> tuple[Any, Any]:
        if self._loaded is None:
            from .loading import load_model, load_tokenizer

            name = self.model or _base_of(directory)
            with self.out.aside.status(f"loading {name}"):
                self._loaded = load_model(name, self.options), load_tokenizer(name, self.options)
        return self._loaded


def _base_of(directory: Path) -> str:
    memory = Kept.read(directory).memory if is_session_directory(directory) else None
    if memory is None:
        raise InputError(f"{directory} holds no memory yet, which would name its base. Give --model.")
    return memory.base_name
