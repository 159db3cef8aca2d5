"""OpenAI's chat completions: the parameters of a request that this server supports, and the shapes of its replies.

A parameter is supported or refused by name. One whose value asks for nothing is accepted under any name.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from ..errors import InputError, clipped, quoted
from .identity import check_identity

# Values that ask for nothing, for any parameter. The defaults that OpenAI documents ask for nothing either.
NO_OP_VALUES: list[Any] = [None, False, 0, "", [], {}, "none", "auto"]
DEFAULTS: dict[str, Any] = {
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logprobs": False,
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "parallel_tool_calls": True,
    "service_tier": "default",
    "reasoning_effort": "medium",
    "verbosity": "medium",
    "include_obfuscation": True,
    "truncation": "disabled",
    "format": {"type": "text"},
    "effort": "medium",
}
NEVER_NO_OP = ("n",)  # n=0 asks for something
RETRY_AFTER = 2  # seconds
KEEP_ALIVE = 1.0  # seconds without text, after which a keep-alive is sent and the client's connection is checked


def is_no_op(name: str, value: Any) -> bool:
    """Whether a parameter that is not supported can be ignored."""
    if name in DEFAULTS and value == DEFAULTS[name]:
        return True
    return value is None if name in NEVER_NO_OP else value in NO_OP_VALUES


class ApiError(Exception):
    """A reply that is an error, in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(clipped(message))
        self.status, self.code, self.headers = status, code, headers
        self.param = None if param is None else clipped(param, 200)

    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class StrictModel(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_no_ops(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if name in cls.model_fields or not is_no_op(name, value)}

    @classmethod
    def read(cls, body: bytes) -> Self:
        """A body of which every parameter is supported.

        Raises
        ------
        ApiError
            400, naming the parameter and what was expected.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise _to_api_error(error) from None


class TextPart(StrictModel):
    type: Literal["text"]
    text: str


def _to_parts(content: Any) -> Any:
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _to_stops(stop: Any) -> Any:
    stops = [stop] if isinstance(stop, str) else stop
    return [one for one in stops if one != ""] if isinstance(stops, list) else stops


def _empty_to_none(value: Any) -> Any:
    return None if value == "" else value


def _unlimited_to_none(value: Any) -> Any:
    """Some clients send -1 for no limit."""
    return None if value == -1 else value


Identity = Annotated[Annotated[str, AfterValidator(check_identity)] | None, BeforeValidator(_empty_to_none)]
Parts = Annotated[list[TextPart], BeforeValidator(_to_parts)]
Stops = Annotated[Annotated[list[str], Field(max_length=4)] | None, BeforeValidator(_to_stops)]
TokenLimit = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_unlimited_to_none)]


def _to_arguments(said: Any) -> Any:
    return json.loads(said or "{}") if isinstance(said, str) else said


class FunctionCall(StrictModel):
    name: str
    arguments: Annotated[dict[str, Any], BeforeValidator(_to_arguments)]


class ToolCall(StrictModel):
    id: str
    type: Literal["function"] = "function"
    index: int | None = None  # which some clients keep from a stream
    function: FunctionCall


class Function(StrictModel):
    name: str = Field(pattern=r"^[\w.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(StrictModel):
    type: Literal["function"]
    function: Function


class ChatMessage(StrictModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Parts = []
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content)

    def for_template(self) -> dict[str, Any]:
        """As chat templates take it."""
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump(exclude={"index"}) for call in self.tool_calls]
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        return message


class StreamOptions(StrictModel):
    include_usage: bool | None = False


class ChatRequest(StrictModel):
    """The body of a POST to /v1/chat/completions."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    user: Identity = None
    safety_identifier: Identity = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_tokens: TokenLimit = None
    max_completion_tokens: TokenLimit = None
    stop: Stops = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None

    @classmethod
    def parse(cls, body: bytes) -> ChatRequest:
        """A request of which every parameter is supported.

        Raises
        ------
        ApiError
            400, naming the parameter and what was expected.
        """
        return cls.read(body).checked()

    def checked(self) -> ChatRequest:
        """The request itself. Raises ApiError where its parameters do not go together."""
        last = self.messages[-1]
        if last.role not in ("user", "tool"):
            raise ApiError(400, f"The last message is of role {last.role!r}, expected 'user' or 'tool'.", "messages")
        for index, message in enumerate(self.messages):
            if message.role == "user" and not message.text.strip():
                raise ApiError(400, "A message of the user says nothing.", f"messages.{index}.content")
            for name, role in (("tool_calls", "assistant"), ("tool_call_id", "tool")):
                if getattr(message, name) and message.role != role:
                    raise ApiError(400, f"{name} is only for messages of role {role!r}.", f"messages.{index}.{name}")
        if not self._can_choose():
            expected = "'auto', 'none', and with tools 'required' or {'type': 'function', 'function': {'name': NAME}}"
            raise ApiError(400, f"tool_choice is {quoted(self.tool_choice)}; expected {expected}.", "tool_choice")
        if self.offered and self.parallel_tool_calls is False:
            raise ApiError(400, "parallel_tool_calls=False is not supported with tools.", "parallel_tool_calls")
        for one, other in (("max_tokens", "max_completion_tokens"), ("user", "safety_identifier")):
            first, second = getattr(self, one), getattr(self, other)
            if first is not None and second is not None and first != second:
                raise ApiError(
                    400, f"{one}={quoted(first)} and {other}={quoted(second)} contradict each other; give one.", one
                )
        if self.include_usage and not self.stream:
            raise ApiError(400, "stream_options is only for stream=true.", "stream_options")
        return self

    def by(self, sender: str | None) -> ChatRequest:
        """The request of a user whom an application in front of the server has authenticated; None for nobody.

        Raises
        ------
        ApiError
            400 for what is no user id, and where the request names another user.
        """
        if not sender:
            return self
        try:
            check_identity(sender)
        except InputError as error:
            raise ApiError(400, str(error), "user") from None
        if self.identity not in (None, sender):
            raise ApiError(400, f"user={quoted(self.identity)}, and the header says {quoted(sender)}.", "user")
        return self.model_copy(update={"user": sender})

    @property
    def identity(self) -> str | None:
        """The user whose memory is active; None for no user."""
        return self.user or self.safety_identifier

    @property
    def max_new_tokens(self) -> int | None:
        """Tokens of the answer that the request allows; None for no limit."""
        return self.max_tokens or self.max_completion_tokens

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that the model may call."""
        return [] if self.tool_choice == "none" else [tool.model_dump(exclude_none=True) for tool in self.tools or ()]

    @property
    def must_call(self) -> bool:
        """Whether the answer is to be a call."""
        return self.tool_choice == "required" or self.called is not None

    @property
    def called(self) -> str | None:
        """The tool that is to be called, where it is named."""
        choice = self.tool_choice
        function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
        return function.get("name") if isinstance(function, dict) else None

    def _can_choose(self) -> bool:
        names = [tool.function.name for tool in self.tools or ()]
        if self.tool_choice == "required":
            return bool(names)
        return self.tool_choice in (None, "", "auto", "none") or self.called in names

    @property
    def uses_tools(self) -> bool:
        """Whether the model must know of tools to read the request."""
        return bool(self.offered) or any(message.role == "tool" or message.tool_calls for message in self.messages)

    def conversation(self) -> list[dict[str, Any]]:
        """The messages with the roles that chat templates know: `developer` is the newer name of `system`."""
        return [message.for_template() for message in self.messages]


def _to_api_error(error: ValidationError) -> ApiError:
    """The first error that pydantic found, in OpenAI's shape."""
    first = error.errors()[0]
    path = ".".join(clipped(str(part), 100) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        name = first["loc"][-1]
        asked = f"{path}={quoted(first['input'])}"
        if name in DEFAULTS:
            return ApiError(400, f"{asked} is not supported; it can only be {DEFAULTS[name]!r}.", path)
        return ApiError(400, f"{asked} is not supported; leave it out.", path)
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is no JSON: {first['msg']}.")
    if first["type"] == "value_error":  # raised by this library, with a message of its own
        return ApiError(400, f"{path}: {first['ctx']['error']}", path)
    return ApiError(400, f"{path or 'The body'}: {first['msg']}.", path or None)


def usage(prompt: int, written: int) -> dict[str, int]:
    """Tokens read and written."""
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


class Reply(Protocol):
    """The JSON documents of one reply: one of them, or server-sent events, each as the text that is sent."""

    def whole(self, said: dict[str, Any], reason: str, prompt: int, written: int) -> dict[str, Any]:
        """said: fields of the message. reason: why it ended. Then the numbers of tokens."""
        ...

    def begun(self) -> str: ...

    def piece(self, delta: dict[str, Any]) -> str:
        """delta: fields of the message, and what is added to them."""
        ...

    def ended(self, reason: str, prompt: int, written: int) -> str: ...

    def failed(self, error: ApiError) -> str: ...


def event(document: dict[str, Any], kind: str | None = None) -> str:
    """A server-sent event."""
    name = "" if kind is None else f"event: {kind}\n"
    return f"{name}data: {json.dumps(document, ensure_ascii=False)}\n\n"


class ChatReply:
    """A reply of chat completions. include_usage : a stream tells the numbers of tokens, too."""

    def __init__(self, model: str, include_usage: bool) -> None:
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self.include_usage = include_usage

    def whole(self, said: dict[str, Any], reason: str, prompt: int, written: int) -> dict[str, Any]:
        message = {"role": "assistant", "refusal": None, **said}
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return {**self.head, "object": "chat.completion", "choices": [choice], "usage": usage(prompt, written)}

    def begun(self) -> str:
        return self.piece({"role": "assistant", "content": ""})

    def piece(self, delta: dict[str, Any], reason: str | None = None) -> str:
        return self._chunk(choices=[{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}])

    def ended(self, reason: str, prompt: int, written: int) -> str:
        counted = self._chunk(choices=[], usage=usage(prompt, written)) if self.include_usage else ""
        return self.piece({}, reason) + counted + "data: [DONE]\n\n"

    def failed(self, error: ApiError) -> str:
        return event(error.body())

    def _chunk(self, **fields: Any) -> str:
        return event({**self.head, "object": "chat.completion.chunk", **fields})
