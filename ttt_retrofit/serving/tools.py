"""Calls of tools: the chat template tells a model of tools, its response template finds calls in an answer.

transformers has response templates for some families whose checkpoints bring none.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.chat_parsing import ResponseParser

from ..errors import InputError
from ..util.texts import end_tokens
from .protocol import ChatRequest

CALLS, TEXT, REASONING = "tool_calls", "content", "reasoning_content"
MARK = "NameOfTool"
Delta = dict[str, Any]


def response_template(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> dict[str, Any]:
    """How this model writes calls.

    Raises
    ------
    InputError
        When its chat template does not tell it of tools, or nobody says how it writes calls.
    """
    from transformers.cli.serving.utils import get_response_template  # takes a second, of which most servers need none

    if "tools" not in str(tokenizer.chat_template):
        raise InputError("tools are not supported: this model's chat template does not tell it of them.")
    found: dict[str, Any] | None = get_response_template(tokenizer, model)
    if found is None:
        raise InputError(
            "tools are not supported: nothing says how this model writes calls. Set tokenizer.response_template, which "
            "is saved with the tokenizer."
        )
    return found


def opening(tokenizer: PreTrainedTokenizerBase, name: str | None) -> str:
    """What a call begins with, by the chat template: all before the name of the tool, and the name if it is given.

    Raises
    ------
    InputError
        When the chat template writes no calls.
    """
    asked: list[Any] = [{"role": "user", "content": "?"}]
    call = {"type": "function", "id": "call", "function": {"name": MARK, "arguments": {}}}
    before = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    called = [*asked, {"role": "assistant", "content": "", CALLS: [call]}]
    begins, found, rest = str(tokenizer.apply_chat_template(called, tokenize=False)).partition(MARK)
    if not found or not begins.startswith(before):
        raise InputError("tool_choice is not supported: this model's chat template does not say how a call begins.")
    return begins[len(before) :] + ("" if name is None else name + rest[:1])


class AnswerReader:
    """Puts an answer together out of the pieces in which it is written: all of it is text."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.text = self.reasoning = ""

    def feed(self, piece: str) -> list[Delta]:
        """What this piece makes certain, as deltas of a message."""
        self.text += piece
        return [{TEXT: piece}]

    def end(self, whole: bool = True) -> list[Delta]:
        """What was held back, when nothing more comes. whole : the model has ended it; it was not cut."""
        return []

    @property
    def message(self) -> Delta:
        """What was said, as the fields of a message."""
        found: Delta = {TEXT: self.text if self.text or not self.calls else None}
        if self.reasoning:
            found[REASONING] = self.reasoning
        return found | ({CALLS: self.calls} if self.calls else {})


class CallReader(AnswerReader):
    """Tells calls from text. What cannot be read as a call stays text, and so does all after it.

    Parameters
    ----------
    prompt : the text after which the answer begins.
    special : tokens that are no text.
    ends : tokens that end an answer. Some models write nothing else behind a call.
    begun : how the answer begins, which the model does not write.

    Attributes
    ----------
    calls : those that are complete, as OpenAI writes them.
    """

    def __init__(
        self,
        template: dict[str, Any],
        prompt: str,
        tools: Sequence[dict[str, Any]],
        special: Sequence[str],
        ends: Sequence[str],
        begun: str = "",
    ) -> None:
        super().__init__()
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")
        self._parser: ResponseParser | None = ResponseParser(template, prefix=prompt, tools=list(tools))
        self._ends = re.compile(f"(?:{'|'.join(map(re.escape, ends))})$" if ends else "(?!)")
        self._raw = ""  # what was not passed on yet
        self._calling = False  # whether a call is open
        self.feed(begun)
        self.text = self.reasoning = ""

    def feed(self, piece: str) -> list[Delta]:
        piece = self._ends.sub("", piece)
        self._raw += piece
        if self._parser is None:
            return self._passed(TEXT, self._raw)
        parser = self._parser
        return self._read(lambda: parser.feed(piece))

    def end(self, whole: bool = True) -> list[Delta]:
        parser = self._parser
        if parser is None:
            return []
        if self._calling and not whole:
            return self._passed(TEXT, self._raw)
        return self._read(lambda: parser.finalize()[1])

    def _read(self, events: Callable[[], list[dict[str, Any]]]) -> list[Delta]:
        found: list[Delta] = []
        try:
            for event in events():
                found += self._deltas(event["type"], event["field"], event)
        except ValueError:  # no JSON, or no call
            self._parser = None
            found += self._passed(TEXT, self._raw)
        return found

    def _deltas(self, kind: str, field: str, event: dict[str, Any]) -> list[Delta]:
        if field == CALLS:
            self._calling = kind != "region_close"
        if field == CALLS and kind == "region_close":
            self.calls.append(_call(event["value"]))
            self._raw = ""
            return [{CALLS: [{"index": len(self.calls) - 1, **self.calls[-1]}]}]
        if field == CALLS or kind != "region_chunk":
            return []
        return self._passed(TEXT if field == TEXT else REASONING, event["text"])

    def _passed(self, field: str, text: str) -> list[Delta]:
        """A delta of what is said. Text that was held back for it, or is before it, is not said any more."""
        self._raw = self._raw.partition(text)[2] if text else self._raw
        kept = self._special.sub("", text)
        if field == TEXT:
            self.text += kept
        else:
            self.reasoning += kept
        return [{field: kept}] if kept else []


def calls_in_answer(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    template: dict[str, Any],
    prompt_ids: Sequence[int],
    asked: ChatRequest,
) -> tuple[CallReader, list[int]]:
    """What reads the answer to a prompt, and the tokens with which the answer begins where it must be a call.

    Raises
    ------
    InputError
        As `opening`.
    """
    begun = opening(tokenizer, asked.called) if asked.must_call else ""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    ends = [str(tokenizer.decode([token])) for token in end_tokens(model, tokenizer)]
    reader = CallReader(template, str(tokenizer.decode(list(prompt_ids))), asked.offered, special, ends, begun)
    return reader, list(tokenizer(begun, add_special_tokens=False).input_ids)


def _call(value: Any) -> dict[str, Any]:
    """A call as OpenAI writes it. Raises ValueError for what is none."""
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError("no call")
    arguments = function.get("arguments", {})
    said = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    call = {"name": function["name"], "arguments": said}
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": call}
