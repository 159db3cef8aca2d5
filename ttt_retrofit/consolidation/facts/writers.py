"""Who writes: the model itself, another model, or a server with OpenAI's protocol.

A writer is asked in chat messages and answers in text; it knows nothing of facts. A stronger writer makes a better
memory for the same small model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...errors import InputError, MissingExtraError, WriterError, quoted
from ...util.messages import Message
from ...util.prompt_formatter import PromptFormatter
from ..writer import Writer

KEY = "TTT_WRITER_API_KEY"  # environment variable; OPENAI_API_KEY is asked after it
TEMPERATURE = 0.8  # of other wordings than the likeliest
BATCH = 64
OWN = 3  # letters of a token that few other words begin with
EXPECTED = (
    "expected (model, tokenizer), the URL of a server with OpenAI's protocol such as 'http://127.0.0.1:8000/v1#model', "
    "or an object with `name` and `complete(prompts, longest, seed)`"
)


@runtime_checkable
class FactWriter(Protocol):
    """Answers chat prompts."""

    @property
    def name(self) -> str:
        """Tells it from others: work that one has done is not taken for another's."""
        ...

    def complete(self, prompts: Sequence[Sequence[Message]], longest: int, seed: int = 0) -> list[str]:
        """The answer to every prompt, at most `longest` tokens each; greedy with seed 0, else sampled."""
        ...


class ModelWriter:
    """A model in this process, by its own chat template."""

    def __init__(self, name: str, writer: Writer, formatter: PromptFormatter) -> None:
        self.name, self._writer, self._formatter = name, writer, formatter

    def complete(
        self,
        prompts: Sequence[Sequence[Message]],
        longest: int,
        seed: int = 0,
        never: Sequence[Collection[str]] = (),
    ) -> list[str]:
        """never : for every prompt, the words that its answer does not have."""
        ids = [self._formatter.asked(prompt[-1]["content"], prompt[:-1]) for prompt in prompts]
        shut = [beginnings(words, self._formatter.tokenizer, least=1) for words in never]
        temperature = TEMPERATURE if seed else 0.0
        answers = self._writer.answer(ids, longest, BATCH, kept=1, temperature=temperature, seed=seed, never=shut)
        return [self._writer.text(answer) for answer in answers]


def beginnings(words: Iterable[str], tokenizer: PreTrainedTokenizerBase, least: int = OWN) -> list[int]:
    """The tokens that words begin with, in a sentence or as its first.

    least : letters of a token that is not the whole word; a few begin other words, too.
    """
    found = set()
    for written in (f"{space}{form}" for word in words for form in (word, word.capitalize()) for space in ("", " ")):
        ids = tokenizer(written, add_special_tokens=False).input_ids
        begun = str(tokenizer.decode(ids[:1])).strip()
        if len(ids) == 1 or len(begun) >= least or begun.isdigit():
            found.add(ids[0])
    return sorted(found)


def complete_without(
    writer: FactWriter,
    prompts: Sequence[Sequence[Message]],
    longest: int,
    seed: int,
    never: Sequence[Collection[str]],
) -> list[str]:
    """Answers without some words, as far as the writer can be held to it: a server cannot."""
    if isinstance(writer, ModelWriter):
        return writer.complete(prompts, longest, seed, never)
    return writer.complete(prompts, longest, seed)


@dataclass
class EndpointWriter:
    """A server with OpenAI's chat completions, such as vLLM, llama.cpp, Ollama or a provider. Its client is `openai`'s.

    Attributes
    ----------
    url : up to "/v1".
    model : as the server calls it; None for a server with one model.
    timeout : seconds that one answer may take.
    tries : of a request that meets a time-out, a lost connection or a busy server.
    together : requests under way at a time.
    check : called before every request; may raise, to cancel.
    """

    url: str
    model: str | None = None
    timeout: float = 120.0
    tries: int = 3
    together: int = 4
    check: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        return f"{self.url} {self.model}"

    def complete(self, prompts: Sequence[Sequence[Message]], longest: int, seed: int = 0) -> list[str]:
        """Raises `WriterError` when the server is away, refuses, or answers with something else than text."""
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError(f"A writer at {self.url}", "openai", "writer") from error
        key = os.environ.get(KEY) or os.environ.get("OPENAI_API_KEY") or "none"
        client = openai.OpenAI(base_url=self.url, api_key=key, timeout=self.timeout, max_retries=self.tries - 1)

        def answer(prompt: Sequence[Message]) -> str:
            self.check()
            messages: Any = list(prompt)
            try:
                given = client.chat.completions.create(
                    messages=messages,
                    model=self.model or "default",
                    max_tokens=longest,
                    temperature=TEMPERATURE if seed else 0.0,
                    seed=seed,
                )
            except openai.OpenAIError as error:
                raise WriterError(
                    f"The writer at {self.url} (model {self.model!r}) did not answer: {error}. Check that the server "
                    f"is up, the model's name, and the key in {KEY}. What was written so far is kept: the same call "
                    "goes on from there."
                ) from error
            text = given.choices[0].message.content if given.choices else None
            if not isinstance(text, str):
                raise WriterError(f"The writer at {self.url} answered with no text: {str(given)[:200]}.")
            return text

        with ThreadPoolExecutor(self.together) as pool, client:
            return list(pool.map(answer, prompts))


def first_line(text: str) -> str:
    """Of what was written, where one line was asked for."""
    return next(iter(text.strip().splitlines()), "").strip()


def writer_of(given: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase] | FactWriter | None:
    """The writer that was given, checked; a URL becomes an `EndpointWriter`, of the model behind its "#".

    Raises
    ------
    InputError
        For anything but a model with its tokenizer, the URL of a server, a `FactWriter` or None.
    MissingExtraError
        For a URL without the package that a server is asked with.
    """
    if given is None:
        return None
    if isinstance(given, str):
        return _endpoint(given)
    if isinstance(given, tuple | list):
        return _pair(given)
    if isinstance(given, FactWriter) and not isinstance(given, type):
        return given
    found = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
    raise InputError(f"writer is {found}; {EXPECTED}.")


def _endpoint(given: str) -> EndpointWriter:
    try:
        place = urlsplit(given.strip())
    except ValueError as error:
        raise InputError(f"writer={quoted(given)} is no URL ({error}); {EXPECTED}.") from error
    if place.scheme not in ("http", "https") or not place.hostname:
        raise InputError(f"writer={quoted(given)} is no URL; {EXPECTED}. A model is given with its tokenizer.")
    url = place._replace(fragment="").geturl()
    if find_spec("openai") is None:
        raise MissingExtraError(f"A writer at {url}", "openai", "writer")
    return EndpointWriter(url, place.fragment or None)


def _pair(given: Sequence[Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    kinds = ", ".join(type(part).__name__ for part in given)
    if len(given) != 2:
        raise InputError(f"writer is ({kinds}), of {len(given)} parts; {EXPECTED}.")
    model, tokenizer = given
    if isinstance(model, PreTrainedTokenizerBase) and isinstance(tokenizer, nn.Module):
        raise InputError(f"writer is ({kinds}), in the wrong order; expected (model, tokenizer).")
    if not isinstance(model, nn.Module) or not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(f"writer is ({kinds}); {EXPECTED}. Names are loaded first, with from_pretrained.")
    return model, tokenizer  # type: ignore[return-value]  # a model in a PEFT or DDP wrapper writes as well
