"""The routes below /v1/memories: users, and what is remembered of each, fact by fact.

An address is split before it is unescaped: the id of a user may hold any character, an escaped slash, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote_to_bytes

from pydantic import AfterValidator, BeforeValidator, Field
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..chat.all_facts import SHOWN
from ..chat.fact_change import FactChange
from ..consolidation.facts.turns import day_of
from ..errors import InputError, TTTError, quoted
from ..memory.facts import Fact, history
from ..memory.search import search
from .admission import Limits
from .auth import read_body
from .changes import FactChanges, TooManyChanges
from .identity import check_identity
from .known_users import KnownUsers
from .protocol import ApiError, ChatMessage, StrictModel
from .user import User

ROOT = b"/v1/memories/"
ITEM = "{id}"  # stands for any one part of an address
MAX_TEXT = 2000  # characters of a fact
MAX_LISTED = 1000  # facts of one reply
DEFAULT_LISTED = 100

# What stands behind a user's address, and the method of `Memories` for each HTTP method.
RESOURCES: dict[tuple[str, ...], dict[str, str]] = {
    (): {"GET": "get_memory", "DELETE": "delete_memory"},
    ("facts",): {"GET": "list_facts", "POST": "add_fact"},
    ("facts", ITEM): {"GET": "get_fact", "POST": "correct_fact", "DELETE": "forget_fact"},
    ("facts", ITEM, "history"): {"GET": "fact_history"},
    ("changes",): {"GET": "list_changes"},
    ("changes", ITEM): {"GET": "get_change"},
    ("messages",): {"GET": "list_messages", "POST": "add_messages"},
    ("versions",): {"GET": "list_versions"},
}
QUERIES = {"list_facts": ("status", "query", "limit", "after"), "forget_fact": ("purge",)}
MAKES_USERS = ("add_fact", "add_messages")


def _iso(date: str) -> str:
    return day_of(date, "date").isoformat()


def _sentence(text: str) -> str:
    if not text.strip():
        raise InputError("expected a sentence, such as 'My dog is called Bolt.'")
    return text


Body = TypeVar("Body", bound=StrictModel)
Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_sentence)]
Date = Annotated[Annotated[str, AfterValidator(_iso)] | None, BeforeValidator(lambda value: value or None)]


class NewFact(StrictModel):
    """The body of a POST to /v1/memories/USER/facts."""

    text: Text
    date: Date = None


class Correction(NewFact):
    """The body of a POST to /v1/memories/USER/facts/ID."""

    purge: bool = False


class Said(StrictModel):
    """The body of a POST to /v1/memories/USER/messages."""

    messages: list[ChatMessage] = Field(min_length=1)


class RestOfPath(Convertor[str]):
    """The rest of a path, slashes and line breaks included. Starlette's own `path` loses a line break at the end."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("rest", RestOfPath())


def split_address(request: Request) -> tuple[str, tuple[str, ...]]:
    """The user id of an address, and the parts behind it. What is no known resource is part of the id."""
    raw: bytes = request.scope["raw_path"]
    parts = [_unescaped(part) for part in raw.partition(ROOT)[2].split(b"/")]
    for resource in RESOURCES:
        behind = tuple(parts[1:])
        if len(behind) == len(resource) and all(a in (ITEM, b) for a, b in zip(resource, behind)):
            return parts[0], behind
    return "/".join(parts), ()


def _unescaped(part: bytes) -> str:
    return unquote_to_bytes(part).decode(errors="replace")


def _resource(behind: tuple[str, ...]) -> dict[str, str]:
    pattern = tuple(ITEM if place == 1 else part for place, part in enumerate(behind))
    return RESOURCES[pattern]


def _shown(fact: Fact) -> dict[str, Any]:
    return {"object": "memory.fact", **fact.to_dict(), "provenance": fact.provenance}


def _listed(data: list[dict[str, Any]], **more: Any) -> Response:
    return JSONResponse({"object": "list", "data": data, **more})


class Memories:
    """The handlers. Each is given the request, the user's id and object, and the parts of the address behind them."""

    def __init__(self, users: KnownUsers, changes: FactChanges, limits: Limits) -> None:
        self.users, self.changes, self.limits = users, changes, limits

    async def list_memories(self, request: Request) -> Response:
        stored = await run_in_threadpool(self.users.stored)
        return _listed([{"id": identity, "object": "memory", "directory": name} for identity, name in stored])

    async def handle(self, request: Request) -> Response:
        """Any request below /v1/memories/.

        Raises
        ------
        ApiError
            400 for no user id, an unexpected query or body, 404 for a user, a fact or a change that is not known, 429
            where too much of the user waits.
        HTTPException
            405.
        """
        identity, behind = split_address(request)
        name = _resource(behind).get("GET" if request.method == "HEAD" else request.method)
        self._check_query(request, QUERIES.get(name or "", ()))
        try:
            check_identity(identity)
        except InputError as error:
            raise ApiError(400, str(error), "user") from error
        if name is None:
            raise HTTPException(405)
        if name not in MAKES_USERS and not self.users.known(identity):
            raise ApiError(404, f"Nothing is stored of a user {identity!r}.", "user")
        handler: Callable[..., Awaitable[Response]] = getattr(self, name)
        return await handler(request, identity, *behind[1:2])

    def _check_query(self, request: Request, allowed: tuple[str, ...]) -> None:
        if not allowed and request.url.query:
            raise ApiError(
                400, f"A memory's address takes no query, found ?{request.url.query}. In a user id, write %3F for '?'.",
                "user",
            )  # fmt: skip
        unknown = [key for key, _ in request.query_params.multi_items() if key not in allowed]
        if unknown:
            raise ApiError(400, f"The query has {quoted(unknown[0])}; expected one of {list(allowed)}.", unknown[0])

    async def get_memory(self, request: Request, identity: str) -> Response:
        user = await self._user(identity)
        return JSONResponse({"id": identity, "object": "memory", **await run_in_threadpool(user.status)})

    async def delete_memory(self, request: Request, identity: str) -> Response:
        self.changes.drop(identity)
        await run_in_threadpool(self.users.erase, identity)
        self.changes.drop(identity)  # what was asked for meanwhile
        return JSONResponse({"id": identity, "object": "memory.deleted", "deleted": True})

    # ------------------------------------------------------------------ facts

    async def list_facts(self, request: Request, identity: str) -> Response:
        """The facts of a status, oldest first, those that wait last; with a query those that share words."""
        asked = request.query_params
        status: Any = asked.get("status", "known")
        if status not in SHOWN:
            raise ApiError(400, f"status is {quoted(status)}; expected one of {list(SHOWN)}.", "status")
        limit = asked.get("limit", str(DEFAULT_LISTED))
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:5]) <= MAX_LISTED):
            raise ApiError(400, f"limit is {quoted(limit)}; expected 1 to {MAX_LISTED}.", "limit")
        query = asked.get("query", "")
        if len(query) > MAX_TEXT:
            raise ApiError(400, f"The query has {len(query):,} characters; expected at most {MAX_TEXT:,}.", "query")
        facts = await run_in_threadpool((await self._user(identity)).facts, status)
        found = [_shown(fact) for fact in facts]
        if query.strip():
            found = [{**_shown(fact), "score": score} for fact, score in await run_in_threadpool(search, facts, query)]
        if "after" in asked:
            place = next((n for n, fact in enumerate(found) if fact["id"] == asked["after"]), None)
            if place is None:
                raise ApiError(
                    400, f"after is {quoted(asked['after'])}; expected the id of a fact of the list.", "after"
                )
            found = found[place + 1 :]
        return _listed(found[: int(limit)], has_more=len(found) > int(limit))

    async def get_fact(self, request: Request, identity: str, fact: str) -> Response:
        known = await self._facts(identity, fact)
        return JSONResponse(_shown(next(one for one in known if one.id == fact)))

    async def fact_history(self, request: Request, identity: str, fact: str) -> Response:
        return _listed([_shown(one) for one in history(await self._facts(identity, fact), fact)])

    async def add_fact(self, request: Request, identity: str) -> Response:
        body = await self._body(request, NewFact)
        return await self._request(identity, FactChange((), body.text, body.date))

    async def correct_fact(self, request: Request, identity: str, fact: str) -> Response:
        body = await self._body(request, Correction)
        await self._facts(identity, fact)
        return await self._request(identity, FactChange((fact,), body.text, body.date, body.purge))

    async def forget_fact(self, request: Request, identity: str, fact: str) -> Response:
        purge = request.query_params.get("purge", "false")
        if purge not in ("true", "false"):
            raise ApiError(400, f"purge is {quoted(purge)}; expected true or false.", "purge")
        await self._facts(identity, fact)
        return await self._request(identity, FactChange((fact,), purge=purge == "true"))

    async def _request(self, identity: str, change: FactChange) -> Response:
        """Put a change into the queue, or do it at once. The reply is 202, with the state of the change."""
        user, most = await self._user(identity), self.limits.max_changes
        try:
            requested = await run_in_threadpool(self.changes.request, identity, user, change, most)
        except TooManyChanges:
            raise _wait(f"{most:,} changes of this user's facts wait already, as many as may.") from None
        return JSONResponse(requested.to_dict(), 202)

    async def list_changes(self, request: Request, identity: str) -> Response:
        return _listed([one.to_dict() for one in await run_in_threadpool(self.changes.of, identity)])

    async def get_change(self, request: Request, identity: str, change: str) -> Response:
        for one in await run_in_threadpool(self.changes.of, identity):
            if one.id == change:
                return JSONResponse(one.to_dict())
        raise ApiError(404, f"There is no change {quoted(change)} of this user's facts.", "change")

    # ------------------------------------------------------------------ what is not memory yet, and what was

    async def list_messages(self, request: Request, identity: str) -> Response:
        """The messages that wait to be consolidated."""
        return _listed([{"object": "memory.message", **one} for one in (await self._user(identity)).session.messages])

    async def add_messages(self, request: Request, identity: str) -> Response:
        """Turns that were answered elsewhere. They become memory like those that were answered here."""
        body = await self._body(request, Said)
        said = [{"role": one.role, "content": one.text} for one in body.messages if one.text.strip()]
        answer = said.pop()["content"] if said and said[-1]["role"] == "assistant" else ""
        user = await self._user(identity)
        if user.waiting > self.limits.max_unlearned:
            raise _wait(f"{user.waiting:,} messages of this user wait to become memory, as many as may.")
        try:
            await run_in_threadpool(self.users.record, identity, user, said, answer)
        except (OSError, TTTError) as error:
            raise ApiError(500, "The messages could not be recorded; the server's log says why.") from error
        return JSONResponse({"object": "memory.messages", "waiting": user.waiting}, 202)

    async def list_versions(self, request: Request, identity: str) -> Response:
        """The versions of the memory that are on disk, oldest first."""
        store = (await self._user(identity)).session.store
        now, numbers = await run_in_threadpool(lambda: (store.current(), store.versions()))
        return _listed([{"object": "memory.version", "version": n, "current": n == now} for n in numbers])

    # ------------------------------------------------------------------ of all

    async def _user(self, identity: str) -> User:
        return await run_in_threadpool(self.users.get, identity)

    async def _facts(self, identity: str, fact: str) -> list[Fact]:
        """All facts of a user, of which one has the id."""
        found = await run_in_threadpool((await self._user(identity)).facts, "all")
        if fact not in {one.id for one in found}:
            raise ApiError(404, f"There is no fact {quoted(fact)} of this user.", "fact")
        return found

    async def _body(self, request: Request, kind: type[Body]) -> Body:
        return await run_in_threadpool(kind.read, await read_body(request, self.limits.max_body))


def _wait(message: str) -> ApiError:
    return ApiError(429, message, code="rate_limit_exceeded", headers={"Retry-After": "2"})
