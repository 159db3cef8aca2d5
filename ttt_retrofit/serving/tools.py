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
from transformers.cli.serving.utils import get_response_template
from transformers.utils.chat_parsing import ResponseParser

from ..errors import InputError

CALLS, TEXT = "tool_calls", "content"  # fields of an answer; any other is reasoning
Delta = dict[str, Any]


def response_template(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> dict[str, Any]:
    """How this model writes calls.

    Raises
    ------
    InputError
        When its chat template does not tell it of tools, or nobody says how it writes calls.
    """
    if "tools" not in str(tokenizer.chat_template):
        raise InputError("tools are not supported: this model's chat template does not tell it of them.")
    found: dict[str, Any] | None = get_response_template(tokenizer, model)
    if found is None:
        raise InputError(
            "tools are not supported: nothing says how this model writes calls. Set tokenizer.response_template, which "
            "is saved with the tokenizer."
        )
    return found


class CallReader:
    """Tells calls from text in an answer that is being written. What cannot be read as a call stays text.

    Parameters
    ----------
    prompt : the text after which the answer begins.
    special : tokens that are no text, such as the one that ends an answer.

    Attributes
    ----------
    calls : those that are complete, as OpenAI writes them.
    """

    def __init__(
        self, template: dict[str, Any], prompt: str, tools: Sequence[dict[str, Any]], special: Sequence[str]
    ) -> None:
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")
        self._parser = ResponseParser(template, prefix=prompt, tools=list(tools))
        self._raw = ""  # what was not passed on yet
        self._broken = False
        self.calls: list[dict[str, Any]] = []

    def feed(self, text: str) -> list[Delta]:
        """What this piece of the answer makes certain, as deltas of a message."""
        if self._broken:
            return self._as_text(text)
        self._raw += text
        return self._read(lambda: self._parser.feed(text))

    def end(self) -> list[Delta]:
        """What was held back, when nothing more comes."""
        return [] if self._broken else self._read(lambda: self._parser.finalize()[1])

    def _read(self, events: Callable[[], list[dict[str, Any]]]) -> list[Delta]:
        try:
            return [delta for event in events() if (delta := self._delta(event))]
        except ValueError:  # no JSON, or no call
            self._broken = True
            return self._as_text(self._raw)

    def _as_text(self, text: str) -> list[Delta]:
        kept = self._special.sub("", text)
        return [{TEXT: kept}] if kept else []

    def _delta(self, event: dict[str, Any]) -> Delta | None:
        kind, field = event["type"], event["field"]
        if field == CALLS and kind == "region_close":
            call = self._call(event["value"])
            self._raw = ""
            return {CALLS: [{"index": len(self.calls) - 1, **call}]}
        if field == CALLS or kind != "region_chunk":
            return None
        self._raw = self._raw.partition(event["text"])[2]
        return {TEXT if field == TEXT else "reasoning_content": event["text"]}

    def _call(self, value: Any) -> dict[str, Any]:
        function = value.get("function") if isinstance(value, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("no call")
        arguments = function.get("arguments", {})
        said = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        call = {"name": function["name"], "arguments": said}
        self.calls.append({"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": call})
        return self.calls[-1]
