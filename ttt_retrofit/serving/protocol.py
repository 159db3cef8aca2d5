"""OpenAI's chat completions as they are spoken here: what a request may say, and the shapes of the replies.

Whatever a request asks for is done, or refused by name; what asks for nothing is taken, whatever it is called.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from ..errors import clipped, quoted
from .identity import check_identity

# What asks for nothing, whatever it is given to, and so does what OpenAI documents as the default.
NOTHING: list[Any] = [None, False, 0, "", [], {}, "none", "auto"]
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
}
MUST_BE = ("n",)  # it asks for something even where it is 0


def asks_for_nothing(name: str, value: Any) -> bool:
    """Whether a parameter that is not known here may be left out."""
    if name in DEFAULTS and value == DEFAULTS[name]:
        return True
    return value is None if name in MUST_BE else value in NOTHING


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


class _Said(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, said: Any) -> Any:
        if not isinstance(said, dict):
            return said
        return {
            name: value for name, value in said.items() if name in cls.model_fields or not asks_for_nothing(name, value)
        }


class TextPart(_Said):
    type: Literal["text"]
    text: str


def _parts(said: Any) -> Any:
    if said is None:
        return []
    return [{"type": "text", "text": said}] if isinstance(said, str) else said


def _listed(said: Any) -> Any:
    listed = [said] if isinstance(said, str) else said
    return [stop for stop in listed if stop != ""] if isinstance(listed, list) else listed


def _or_none(said: Any) -> Any:
    return None if said == "" else said


def _or_all(said: Any) -> Any:
    """-1 is how some clients say that there is no limit."""
    return None if said == -1 else said


Identity = Annotated[Annotated[str, AfterValidator(check_identity)] | None, BeforeValidator(_or_none)]
Parts = Annotated[list[TextPart], BeforeValidator(_parts)]
Stops = Annotated[Annotated[list[str], Field(max_length=4)] | None, BeforeValidator(_listed)]
Most = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_or_all)]


class Message(_Said):
    role: Literal["system", "developer", "user", "assistant"]
    content: Parts = []

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content)


class StreamOptions(_Said):
    include_usage: bool | None = False


class ChatRequest(_Said):
    """The body of a POST to /v1/chat/completions."""

    model: str
    messages: list[Message] = Field(min_length=1)
    user: Identity = None
    safety_identifier: Identity = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_tokens: Most = None
    max_completion_tokens: Most = None
    stop: Stops = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @classmethod
    def read(cls, body: bytes) -> ChatRequest:
        """A request that can be answered as it asks.

        Raises
        ------
        ApiError
            400, naming the parameter and what was expected.
        """
        try:
            request = cls.model_validate_json(body)
        except ValidationError as error:
            raise _explained(error) from None
        said = request.messages[-1]
        if said.role != "user":
            raise ApiError(400, f"The last message is of role {said.role!r}, expected 'user'.", "messages")
        for index, message in enumerate(request.messages):
            if message.role == "user" and not message.text.strip():
                raise ApiError(400, "A message of the user says nothing.", f"messages.{index}.content")
        for one, other in (("max_tokens", "max_completion_tokens"), ("user", "safety_identifier")):
            first, second = getattr(request, one), getattr(request, other)
            if first is not None and second is not None and first != second:
                raise ApiError(
                    400, f"{one}={quoted(first)} and {other}={quoted(second)} contradict each other; give one.", one
                )
        if request.include_usage and not request.stream:
            raise ApiError(400, "stream_options is only for stream=true.", "stream_options")
        return request

    @property
    def identity(self) -> str | None:
        """Whose memory it is about; None for nobody's."""
        return self.user or self.safety_identifier

    @property
    def most(self) -> int | None:
        return self.max_tokens or self.max_completion_tokens

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def conversation(self) -> list[dict[str, str]]:
        """The messages as chat templates know them: `developer` is what `system` was called before."""
        roles = {"developer": "system"}
        return [{"role": roles.get(m.role, m.role), "content": m.text} for m in self.messages]


def _explained(error: ValidationError) -> ApiError:
    """The first thing that is wrong."""
    first = error.errors()[0]
    place = ".".join(clipped(str(part), 100) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        name = first["loc"][-1]
        asked = f"{place}={quoted(first['input'])}"
        if name in DEFAULTS:
            return ApiError(400, f"{asked} is not supported; it can only be {DEFAULTS[name]!r}.", place)
        return ApiError(400, f"{asked} is not supported; leave it out.", place)
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is no JSON: {first['msg']}.")
    if first["type"] == "value_error":  # of this library, in words of its own
        return ApiError(400, f"{place}: {first['ctx']['error']}", place)
    return ApiError(400, f"{place or 'The body'}: {first['msg']}.", place or None)


def usage(prompt: int, written: int) -> dict[str, int]:
    """Tokens read and written."""
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


class Reply:
    """The shapes of one reply, whole or in pieces."""

    def __init__(self, model: str) -> None:
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, text: str, reason: str, prompt: int, written: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return {**self.head, "object": "chat.completion", "choices": [choice], "usage": usage(prompt, written)}

    def piece(self, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return {**self.head, "object": "chat.completion.chunk", "choices": [choice]}

    def total(self, prompt: int, written: int) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk", "choices": [], "usage": usage(prompt, written)}
