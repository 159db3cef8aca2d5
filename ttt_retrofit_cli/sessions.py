"""The session that changes the facts of a directory, and the model that it takes for that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ttt_retrofit import ChatSession, InputError
from ttt_retrofit.chat.directory import is_session_directory
from ttt_retrofit.consolidation.facts.writers import writer_of

from .options import ModelOptions, WriterOptions
from .output import Output
from .recipes import recipe
from .stores import changing, chosen_memory, is_of_one


class SessionOpener:
    """Opens sessions on the directory of one user. The model is loaded with the first, and kept.

    Parameters
    ----------
    model : None for the base that the memory names.

    Raises
    ------
    InputError
        When nobody says which model, or the directory is a store without the words of its user.
    """

    def __init__(
        self, directory: Path, model: str | None, making: WriterOptions, options: ModelOptions, out: Output
    ) -> None:
        self.config, self.writer = recipe(making.recipe), writer_of(making.writer)
        self.directory, self.model, self.options, self.out = directory, model, options, out
        self._loaded: tuple[Any, Any] | None = None
        if is_of_one(directory) and not is_session_directory(directory):
            raise InputError(
                f"{directory} is a memory store without a user's directory around it. Change its facts in Python: "
                "memory.forget_fact(id, model), store.save(memory)."
            )

    @contextmanager
    def opened(self) -> Iterator[ChatSession]:
        """A session for one change. No server that has the directory may run."""
        with changing(self.directory):
            model, tokenizer = self._model_and_tokenizer()
            yield ChatSession(model, tokenizer, self.directory, config=self.config, writer=self.writer)

    def _model_and_tokenizer(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from .loading import load_model, load_tokenizer

            if self.model is None and not is_session_directory(self.directory):
                raise InputError(f"{self.directory} holds no memory yet, which would name its base. Give --model.")
            name = self.model or chosen_memory(self.directory, None).base_name
            with self.out.aside.status(f"loading {name}"):
                self._loaded = load_model(name, self.options), load_tokenizer(name, self.options)
        return self._loaded
