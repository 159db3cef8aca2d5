"""OpenAI's Responses API: a request is one of chat completions in other words, and its reply is a list of items.

Nothing is stored, so each request brings its whole conversation.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..errors import InputError, quoted
from .protocol import ApiError, ChatRequest, Function, FunctionCall, Identity, StrictModel, TokenLimit, event
from .tools import CALLS, REASONING, TEXT, Delta


class Part(StrictModel):
    type: Literal["input_text", "output_text"]
    text: str


def _to_parts(content: Any) -> Any:
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


Parts = Annotated[list[Part], BeforeValidator(_to_parts)]


class Item(StrictModel):
    id: str | None = None  # which items of a reply have, and the next two
    status: str | None = None
    phase: str | None = None


class MessageItem(Item):
    type: Literal["message"]
    role: Literal["system", "developer", "user", "assistant"]
    content: Parts


class CallItem(Item, FunctionCall):
    type: Literal["function_call"]
    call_id: str


class OutputItem(Item):
    type: Literal["function_call_output"]
    call_id: str
    output: Parts


class ReasoningItem(Item):
    """Thoughts of an earlier reply. They are not read again."""

    type: Literal["reasoning"]
    summary: list[Any] | None = None
    content: list[Any] | None = None


def _to_items(given: Any) -> Any:
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list):
        return given
    return [{"type": "message", **item} if isinstance(item, dict) else item for item in given]


def _refused(given: Any) -> None:
    if given:
        raise InputError(f"{quoted(given)} is not supported: no response is stored. Send the conversation as input.")


AnyItem = Annotated[MessageItem | CallItem | OutputItem | ReasoningItem, Field(discriminator="type")]
Items = Annotated[list[AnyItem], Field(min_length=1), BeforeValidator(_to_items)]
Stored = Annotated[str | dict[str, Any] | None, AfterValidator(_refused)]


class FunctionTool(Function):
    type: Literal["function"]


class NoOptions(StrictModel):
    """Options of which none is supported."""


class ResponseRequest(StrictModel):
    """The body of a POST to /v1/responses."""

    model: str
    input: Items
    instructions: str | None = None
    user: Identity = None
    safety_identifier: Identity = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_output_tokens: TokenLimit = None
    stream: bool | None = None
    stream_options: NoOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning: NoOptions | None = None
    text: NoOptions | None = None
    previous_response_id: Stored = None
    conversation: Stored = None

    def chat(self) -> ChatRequest:
        """The same as a request of chat completions.

        Raises
        ------
        ApiError
            400 where parameters do not go together.
        """
        same = {"model", "user", "safety_identifier", "temperature", "top_p", "stream", "parallel_tool_calls"}
        functions = [tool.model_dump(exclude={"type"}, exclude_none=True) for tool in self.tools or ()]
        tools: list[Any] = [{"type": "function", "function": one} for one in functions]
        return ChatRequest(
            **self.model_dump(include=same),
            messages=self._messages(),
            max_tokens=self.max_output_tokens,
            tools=tools,
            tool_choice=self._choice(),
        ).checked()

    def _messages(self) -> list[Any]:
        found: list[dict[str, Any]] = []
        if self.instructions:
            found.append({"role": "system", "content": self.instructions})
        for item in self.input:
            match item:
                case MessageItem():
                    found.append({"role": item.role, "content": _texts(item.content)})
                case CallItem():
                    if not found or found[-1]["role"] != "assistant":
                        found.append({"role": "assistant"})
                    function = item.model_dump(include={"name", "arguments"})
                    found[-1].setdefault(CALLS, []).append({"id": item.call_id, "function": function})
                case OutputItem():
                    found.append({"role": "tool", "tool_call_id": item.call_id, "content": _texts(item.output)})
        return found

    def _choice(self) -> Any:
        choice, names = self.tool_choice, [tool.name for tool in self.tools or ()]
        named = choice.get("name") if isinstance(choice, dict) and choice.get("type") == "function" else None
        if named in names:
            return {"type": "function", "function": {"name": named}}
        if choice in (None, "", "auto", "none") or (choice == "required" and names):
            return choice
        expected = "'auto', 'none', and with tools 'required' or {'type': 'function', 'name': NAME}"
        raise ApiError(400, f"tool_choice is {quoted(choice)}; expected {expected}.", "tool_choice")


def _texts(parts: list[Part]) -> list[dict[str, str]]:
    return [{"type": "text", "text": part.text} for part in parts]


def renamed(param: str | None) -> str | None:
    """The name here of a parameter of chat completions."""
    return "input" if param is not None and param.startswith("messages") else param


# By field of a message: its item, and the item's content before the first text.
WRITTEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    TEXT: (
        {"type": "message", "role": "assistant"},
        {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
    ),
    REASONING: ({"type": "reasoning", "summary": []}, {"type": "reasoning_text", "text": ""}),
}
PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}  # of the ids of items


class ResponseReply:
    """A reply of the Responses API, see `Reply`.

    Attributes
    ----------
    output : its items. The last one is being written while its status is "in_progress".
    """

    def __init__(self, asked: ResponseRequest) -> None:
        given = asked.model_dump(include={"instructions", "max_output_tokens", "temperature", "top_p", "user"})
        self.head: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time()),
            "model": asked.model, **given, "tool_choice": asked.tool_choice or "auto",
            "tools": [{"parameters": None, "strict": False, **tool.model_dump()} for tool in asked.tools or ()],
            "parallel_tool_calls": True, "previous_response_id": None, "store": False, "background": False,
            "metadata": {}, "reasoning": {"effort": None, "summary": None}, "text": {"format": {"type": "text"}},
            "truncation": "disabled", "error": None, "incomplete_details": None, "usage": None,
        }  # fmt: skip
        self.output: list[dict[str, Any]] = []
        self._events = 0

    def whole(self, said: Delta, reason: str, prompt: int, written: int) -> dict[str, Any]:
        self.piece({field: said[field] for field in (REASONING, TEXT, CALLS) if said.get(field)})
        self._close(reason)
        return self._response(reason, prompt, written)

    def begun(self) -> str:
        begun = {**self.head, "status": "in_progress", "output": []}
        return "".join(self._event(f"response.{name}", response=begun) for name in ("created", "in_progress"))

    def piece(self, delta: Delta) -> str:
        texts = [self._text(field, delta[field]) for field in (REASONING, TEXT) if field in delta]
        return "".join([*texts, *map(self._call, delta.get(CALLS, ()))])

    def ended(self, reason: str, prompt: int, written: int) -> str:
        closed, response = self._close(reason), self._response(reason, prompt, written)
        return closed + self._event(f"response.{response['status']}", response=response)

    def failed(self, error: ApiError) -> str:
        found = {"code": "server_error" if error.status >= 500 else "invalid_prompt", "message": str(error)}
        response = {**self.head, "status": "failed", "error": found, "output": self.output}
        return self._event("response.failed", response=response)

    def _response(self, reason: str, prompt: int, written: int) -> dict[str, Any]:
        usage = {
            "input_tokens": prompt, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": written, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + written,
        }  # fmt: skip
        cut = {"reason": "max_output_tokens"} if reason == "length" else None
        return self.head | {
            "status": _status(reason), "incomplete_details": cut, "output": self.output, "usage": usage,
        }  # fmt: skip

    # ------------------------------------------------------------------ items

    @property
    def _open(self) -> dict[str, Any] | None:
        """The item that is being written."""
        return self.output[-1] if self.output and self.output[-1]["status"] == "in_progress" else None

    def _text(self, field: str, text: str) -> str:
        """Add text to the item that is being written, or to a new one."""
        fields, part = WRITTEN[field]
        events = ""
        if self._open is None or self._open["type"] != fields["type"]:
            events = self._close() + self._add(**fields, content=[])
            self.output[-1]["content"] = [dict(part)]
            events += self._of_part("response.content_part.added", part=part)
        self.output[-1]["content"][0]["text"] += text
        return events + self._of_text("delta", delta=text)

    def _call(self, call: dict[str, Any]) -> str:
        """Add a call, which comes as a whole."""
        function = call["function"]
        said, name = function["arguments"], "response.function_call_arguments"
        events = self._close()
        events += self._add(type="function_call", call_id=call["id"], name=function["name"], arguments="")
        self.output[-1]["arguments"] = said
        events += self._of_item(f"{name}.delta", delta=said)
        events += self._of_item(f"{name}.done", arguments=said, name=function["name"])
        return events + self._close()

    def _add(self, **fields: Any) -> str:
        item = {"id": f"{PREFIXES[fields['type']]}_{uuid.uuid4().hex}", "status": "in_progress", **fields}
        self.output.append(item)
        return self._event("response.output_item.added", output_index=len(self.output) - 1, item=item)

    def _close(self, reason: str | None = None) -> str:
        """End the item that is being written. reason : why the reply ends, which has an item in any case."""
        events = self._text(TEXT, "") if reason is not None and not self.output else ""
        item = self._open
        if item is None:
            return events
        item["status"] = _status(reason)
        if "content" in item:
            (part,) = item["content"]
            events += self._of_text("done", text=part["text"]) + self._of_part("response.content_part.done", part=part)
        return events + self._event("response.output_item.done", output_index=len(self.output) - 1, item=item)

    def _of_text(self, name: str, **fields: str) -> str:
        part = self.output[-1]["content"][0]
        logprobs: dict[str, Any] = {"logprobs": []} if "logprobs" in part else {}
        return self._of_part(f"response.{part['type']}.{name}", **fields, **logprobs)

    def _of_part(self, kind: str, **fields: Any) -> str:
        return self._of_item(kind, content_index=0, **fields)

    def _of_item(self, kind: str, **fields: Any) -> str:
        return self._event(kind, item_id=self.output[-1]["id"], output_index=len(self.output) - 1, **fields)

    def _event(self, kind: str, **fields: Any) -> str:
        self._events += 1
        return event({"type": kind, "sequence_number": self._events - 1, **fields}, kind)


def _status(reason: str | None) -> str:
    return "incomplete" if reason == "length" else "completed"
