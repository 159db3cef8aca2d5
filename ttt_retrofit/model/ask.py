"""`AskMixin`: a question to what was read or remembered, without the tokens that were read.

A `TTTCache` holds all that the model knows of a text, so only the question has to be written. The question goes on from
the text: in a chat as the user's next turn, else as a line `Question: … Answer:`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from ..consolidation.prompts import Prompts
from ..errors import InputError
from ..memory.memory import Memory
from ..streaming.cache import TTTCache
from ..util.given import check_tokenizer
from ..util.messages import Message
from ..util.prompt_formatter import PromptFormatter
from ..util.texts import common_beginning, text_ids
from .forwarding import ForwardMixin
from .generating import GenerateMixin

MAX_NEW_TOKENS = 256
OWN = ("inputs", "input_ids", "attention_mask", "past_key_values", "return_dict_in_generate", "num_return_sequences")
SAID: list[Message] = [{"role": "user", "content": "One"}]  # any turn, to see what a template writes around it
REPLIES = ("Yes", "No")  # any two, which end in different tokens


class AskMixin(ForwardMixin, GenerateMixin):
    """Questions to a cache or a memory."""

    @overload
    def ask(
        self,
        source: TTTCache | Memory,
        question: str,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat: bool | None = None,
        **generate_kwargs: Any,
    ) -> str: ...

    @overload
    def ask(
        self,
        source: TTTCache | Memory,
        question: list[str] | tuple[str, ...],
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat: bool | None = None,
        **generate_kwargs: Any,
    ) -> list[str]: ...

    def ask(
        self,
        source: TTTCache | Memory,
        question: str | Sequence[str],
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat: bool | None = None,
        **generate_kwargs: Any,
    ) -> str | list[str]:
        """Ask about what a cache has read or a memory remembers; neither is changed.

        Parameters
        ----------
        source : a `TTTCache` of one row, from `read` or `TTTCache.load`; or a `Memory`. A cache is copied for the time
            of an answer, its fast weights included.
        question : one question, or a list of them. Each is asked by itself, as if it were the only one.
        tokenizer : found by the model's name when not given.
        chat : ask through the tokenizer's chat template. When not given: of a memory if there is a template; of a cache
            if it has read a chat, as its first tokens tell (`sink_tokens` of them are kept).
        generate_kwargs : for `generate`, such as do_sample=False or memories=. max_new_tokens is 256 when not given.

        Returns
        -------
        The answer, or a list of answers. Without a chat it ends with its first line.

        Raises
        ------
        InputError
            For a cache of no row or of several, an empty question, chat=True without a template, arguments of
            `generate` that are decided here, and whatever `generate` refuses.
        """
        decided = sorted(set(OWN) & set(generate_kwargs))
        if decided:
            raise InputError(f"ask() decides {decided} itself. Leave them out, or call generate().")
        questions = [question] if isinstance(question, str) else list(question)
        for one in questions:
            if not isinstance(one, str) or not one.strip():
                raise InputError(
                    f"ask() was given the question {one!r}; expected a text that is not empty, or several."
                )
        check_tokenizer(tokenizer)
        formatter = PromptFormatter(tokenizer or self._own_tokenizer(), Prompts.load().plain)
        if chat and not formatter.chat:
            raise InputError("ask(chat=True): the tokenizer has no chat template. Set tokenizer.chat_template first.")
        if isinstance(source, Memory):
            formatter.chat = formatter.chat if chat is None else chat
            generate_kwargs["memories"] = [source]
            prompts = [formatter.asked(one, source.with_notes([])) for one in questions]
            answers = [self._answer(prompt, None, formatter, generate_kwargs) for prompt in prompts]
        else:
            _check_one_row(source)
            formatter.chat = formatter.chat and (_is_chat(source, formatter) if chat is None else chat)
            prompts = [_next_turn(source, formatter, one) for one in questions]
            answers = [self._answer(prompt, source, formatter, generate_kwargs) for prompt in prompts]
        return answers[0] if isinstance(question, str) else answers

    def _answer(
        self, prompt: list[int], cache: TTTCache | None, formatter: PromptFormatter, settings: dict[str, Any]
    ) -> str:
        tokenizer, read = formatter.tokenizer, 0
        given: dict[str, Any] = {}
        if cache is not None:
            # A full chunk steps the fast weights in place: nothing may be shared with the cache that is asked.
            given["past_key_values"] = asked = copy.deepcopy(cache)
            read = asked.counts[0]
            asked.recount(read)  # without padding
            configured: Any = settings.get("generation_config") or self.generation_config
            asked.batch_repeat_interleave(settings.get("num_beams") or configured.num_beams or 1)
        if not formatter.chat:
            line = _OneLine(tokenizer, len(prompt))
            given["stopping_criteria"] = StoppingCriteriaList([*settings.get("stopping_criteria", ()), line])
        if "stop_strings" in settings:
            given["tokenizer"] = tokenizer
        ids = torch.tensor([prompt], device=self.device)
        # The new tokens alone, under a mask of all.
        mask = torch.ones(1, read + len(prompt), dtype=torch.long, device=self.device)
        settings = {"max_new_tokens": MAX_NEW_TOKENS, **settings, **given, "return_dict_in_generate": False}
        written = self.generate(ids, attention_mask=mask, **settings)[0, len(prompt) :]
        answer = str(tokenizer.decode(written, skip_special_tokens=True)).strip()
        return answer if formatter.chat else answer.partition("\n")[0].strip()


class _OneLine(StoppingCriteria):
    """Ends an answer with its first line: a model that goes on from a text would write the next question, too."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, begins: int) -> None:
        self.tokenizer, self.begins = tokenizer, begins

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.begins :], skip_special_tokens=True)
        return torch.tensor(["\n" in text.lstrip() for text in texts], device=input_ids.device)


def _check_one_row(cache: Any) -> None:
    if not isinstance(cache, TTTCache):
        raise InputError(
            f"ask() was given a {type(cache).__name__}; expected what read() or TTTCache.load() returns, or a Memory."
        )
    if cache.rows is None:
        raise InputError("ask() was given a cache that has read nothing. Read a text with it first: model.read(text).")
    if cache.rows > 1:
        raise InputError(
            f"ask() was given a cache of {cache.rows} rows, and each has read another text. Ask one of them: take a "
            "copy with row = copy.deepcopy(cache), then row.batch_select_indices(torch.tensor([number]))."
        )


def _is_chat(cache: TTTCache, formatter: PromptFormatter) -> bool:
    """Whether the first tokens that were read are those before a chat, and not those before any text."""
    assert cache.sinks is not None
    kept = cache.sinks.ids[0, : cache.counts[0]].tolist()
    system: list[Message] = [{"role": "system", "content": "One"}]
    other: list[Message] = [{"role": "system", "content": "Two"}]
    openings = [
        common_beginning([formatter.asked("One"), formatter.asked("Two")]),
        common_beginning([formatter.asked("One", before) for before in (system, other)]),
    ]
    of_any_text = len(text_ids(formatter.tokenizer, "One")) - len(text_ids(formatter.tokenizer, "One", begins=False))
    return any(
        of_any_text < min(len(kept), len(opening)) and all(a == b for a, b in zip(kept, opening))
        for opening in openings
    )


def _next_turn(cache: TTTCache, formatter: PromptFormatter, question: str) -> list[int]:
    """The tokens that ask a question after what was read, up to where the answer begins.

    What a template writes around a turn depends on its place, so a chat is rendered whole. What chats that differ in
    a reply end with is the part after it: first what closes the reply, then the turn.
    """
    tokenizer = formatter.tokenizer
    if not formatter.chat:
        text = formatter.plain.replace("{context}", "").replace("{question}", question)
        return text_ids(tokenizer, "\n\n" + text.lstrip("\n"), begins=False, split_special_tokens=True)
    chats: list[Any] = [[*SAID, {"role": "assistant", "content": reply}] for reply in REPLIES]
    written: list[Any] = [
        tokenizer.apply_chat_template(chat, return_dict=False, **formatter.settings) for chat in chats
    ]
    closing = _common_end([list(ids) for ids in written])
    turn = _common_end([formatter.asked(question, chat) for chat in chats])[len(closing) :]
    return _missing(closing, _last_tokens(cache)) + turn


def _missing(closing: list[int], read: list[int]) -> list[int]:
    """What of the tokens that close a turn is still to be read after `read`; nothing where that is unknown."""
    if not read:
        return []
    there = next(n for n in range(len(closing), -1, -1) if read[len(read) - n :] == closing[:n])
    return closing[there:]


def _last_tokens(cache: TTTCache) -> list[int]:
    """The last tokens that were read, as far as they are kept."""
    if cache.text is not None:
        return cache.text[0]
    if cache.pending is None:
        return []
    return cache.pending.ids[0, : cache.pending.lengths[0]].tolist()


def _common_end(texts: list[list[int]]) -> list[int]:
    return common_beginning([text[::-1] for text in texts])[::-1]
