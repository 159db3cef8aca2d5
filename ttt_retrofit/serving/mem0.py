"""mem0's interface over this library's memories: `Memory` over a store or a server, `MemoryClient` over a server.

Code written for mem0 changes one import. Signatures and shapes are those of mem0ai 2.2.1. What a memory of facts does
not have, such as metadata, is refused by name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from ..chat.fact_change import FactChange
from ..errors import ConfigError, InputError, quoted
from ..util.messages import studied
from .fact_access import Facts, Fields, known, succession
from .served_facts import PAGE, ServedFacts
from .stored_facts import StoredFacts, session_opener
from .user import KEEP_VERSIONS

STORE, MODEL, URL, KEY = "TTT_RETROFIT_STORE", "TTT_RETROFIT_MODEL", "TTT_RETROFIT_URL", "TTT_RETROFIT_API_KEY"
LOCAL = "http://127.0.0.1:8000"
PENDING = {"message": "The messages become memory when the user is idle.", "status": "PENDING"}
UNSET: Any = object()


class Memory:
    """mem0's `Memory`. The id of a memory is "USER/FACT"; it stays the same when the fact is updated.

    Parameters
    ----------
    config : {"store": DIR, "model": NAME or model} and more of `session_opener`, or {"url": URL, "key": KEY}. None
        reads the environment: TTT_RETROFIT_STORE and TTT_RETROFIT_MODEL, or TTT_RETROFIT_URL and TTT_RETROFIT_API_KEY.

    Raises
    ------
    ConfigError
        When neither a store with a model nor a server is given.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self._facts: Facts = _opened(_environment() if config is None else config)

    @classmethod
    def from_config(cls, config_dict: dict[str, Any]) -> Memory:
        """The same as `Memory(config)`."""
        return cls(config_dict)

    def add(
        self,
        messages: Any,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: Fields | None = None,
        timestamp: Any = None,
        expiration_date: Any = None,
        infer: bool = True,
        memory_type: str | None = None,
        prompt: str | None = None,
    ) -> Fields:
        """Consolidate messages, in minutes, over a server later; with infer=False each of the user's as it stands.

        Returns
        -------
        {"results": [{"id", "memory", "event": "ADD"}, ...]}, empty where nothing new was accepted. What a server does
        later has the status "PENDING".
        """
        _refuse(
            agent_id=agent_id, run_id=run_id, metadata=metadata, timestamp=timestamp, expiration_date=expiration_date,
            memory_type=memory_type, prompt=prompt,
        )  # fmt: skip
        user, said = _named(user_id), _messages(messages)
        if infer:
            new = self._facts.tell(user, said)
            if new is None:
                return {"results": [PENDING]}
        else:
            before = {fact["id"] for fact in self._facts.facts(user)}
            for message in said:
                if message["role"] == "user":
                    self._change(user, FactChange((), message["content"]))
            new = [fact for fact in self._facts.facts(user) if fact["id"] not in before]
        return {"results": [{"id": f"{user}/{f['id']}", "memory": f["text"], "event": "ADD"} for f in new if f["text"]]}

    def get(self, memory_id: str) -> Fields | None:
        """A fact as it is now, or None."""
        user, _, fact = self._found(memory_id)
        return None if fact is None else {**_item(user, fact), "id": memory_id}

    def get_all(
        self, *, filters: Fields | None = None, top_k: int = 20, show_expired: bool = False, **kwargs: Any
    ) -> Fields:
        """The facts of a user that hold, oldest first: {"results": [...]}. Nothing expires. filters={"user_id": ...}.

        Those that wait to become memory are the last ones, and have the status "waiting" in their metadata.
        """
        user, most = _scope(filters, top_k, kwargs)
        return {"results": [_item(user, fact) for fact in known(self._facts.facts(user))[:most]]}

    def search(
        self,
        query: str,
        *,
        top_k: int = 20,
        filters: Fields | None = None,
        threshold: float | None = 0.1,
        rerank: bool = False,
        explain: bool = False,
        reference_date: Any = None,
        show_expired: bool = False,
        **kwargs: Any,
    ) -> Fields:
        """The facts that hold and share words with a query, best first, with a "score" of at least the threshold."""
        _refuse(rerank=rerank or None, explain=explain or None, reference_date=reference_date)
        user, most = _scope(filters, top_k, kwargs)
        if not isinstance(query, str):
            raise InputError(f"query is {quoted(query)}; expected words.")
        found = self._facts.search(user, query, most)
        return {"results": [_item(user, fact) for fact in found if fact["score"] >= (threshold or 0.0)]}

    def update(
        self,
        memory_id: str,
        text: str | None = None,
        metadata: Fields | None = None,
        expiration_date: Any = UNSET,
        data: str | None = None,
    ) -> Fields:
        """Put another text in a fact's place, verified. Raises `ConfigError` where that is refused."""
        _refuse(metadata=metadata, expiration_date=None if expiration_date is UNSET else expiration_date)
        said = data if text is None else text
        if said is None:
            raise InputError("update() was given no text.")
        user, _, fact = self._found(memory_id, known=True)
        self._change(user, FactChange((fact["id"],), said))
        return {"message": "Memory updated successfully!"}

    def delete(self, memory_id: str) -> Fields:
        """Delete a fact, verified, and the versions that hold it. Raises `ConfigError` where that is refused."""
        user, _, fact = self._found(memory_id, known=True)
        self._change(user, FactChange((fact["id"],), purge=True))
        return {"message": "Memory deleted successfully!"}

    def delete_all(self, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None) -> Fields:
        """Erase everything of a user: facts, messages, what was learned."""
        _refuse(agent_id=agent_id, run_id=run_id)
        self._facts.erase(_named(user_id))
        return {"message": "Memories deleted successfully!"}

    def history(self, memory_id: str) -> list[Fields]:
        """What a fact was, oldest first. Of a text that was corrected nothing is kept: it is None."""
        _, chain, _ = self._found(memory_id)
        said = [None, *(fact["text"] or None for fact in chain)]
        return [
            {
                "id": fact["id"], "memory_id": memory_id, "old_memory": before, "new_memory": now,
                "event": "UPDATE" if place else "ADD", "created_at": fact["said_at"], "updated_at": None,
                "is_deleted": False, "actor_id": None, "role": fact["said_by"],
            }
            for place, (fact, before, now) in enumerate(zip(chain, said, said[1:]))
        ]  # fmt: skip

    def reset(self) -> None:
        """Erase all users."""
        for user in self._facts.users():
            self._facts.erase(user)

    def close(self) -> None:
        """End the use of the store or the server."""
        self._facts.close()

    def _change(self, user: str, change: FactChange) -> None:
        changed = self._facts.change(user, change)
        if not changed.accepted:
            raise ConfigError(f"The change was refused: {changed.reason}")

    def _found(self, memory_id: str, known: bool = False) -> tuple[str, list[Fields], Any]:
        """The user, the fact with what superseded it, and the last of these; None where there is none.

        known : raise `InputError` for None. It is always raised for what is no text.
        """
        if not isinstance(memory_id, str):
            raise InputError(
                f"memory_id is {quoted(memory_id)}; expected 'USER/FACT', as search() and get_all() give it."
            )
        user, _, name = memory_id.rpartition("/")
        chain = succession(self._facts.facts(user), name) if user else []
        if known and not chain:
            raise InputError(f"Memory with id {memory_id} not found")
        return user, chain, chain[-1] if chain else None


class MemoryClient:
    """mem0's `MemoryClient`, over a server that `ttt-retrofit serve` started.

    Parameters
    ----------
    api_key : of the server; None reads TTT_RETROFIT_API_KEY.
    host : URL of the server; None reads TTT_RETROFIT_URL, else it is http://127.0.0.1:8000.
    client : with settings of your own, such as a timeout.
    """

    def __init__(self, api_key: str | None = None, host: str | None = None, client: httpx.Client | None = None) -> None:
        url = host or os.environ.get(URL) or LOCAL
        self._memory = Memory({"url": url, "key": api_key or os.environ.get(KEY), "client": client})

    def add(self, messages: Any, options: Any = None, **kwargs: Any) -> Fields:
        """See `Memory.add`."""
        given = _given(options, kwargs)
        filters = given.pop("filters", None) or {}
        return self._memory.add(messages, **{**filters, **given})

    def get(self, memory_id: str) -> Fields | None:
        """See `Memory.get`."""
        return self._memory.get(memory_id)

    def get_all(self, options: Any = None, **kwargs: Any) -> Fields:
        """See `Memory.get_all`."""
        found = self._memory.get_all(**{"top_k": PAGE, **_given(options, kwargs)})
        return {"count": len(found["results"]), "next": None, "previous": None, **found}

    def search(self, query: str, options: Any = None, **kwargs: Any) -> Fields:
        """See `Memory.search`."""
        return self._memory.search(query, **_given(options, kwargs))

    def update(self, memory_id: str, options: Any = None, **kwargs: Any) -> Fields:
        """See `Memory.update`."""
        return self._memory.update(memory_id, **_given(options, kwargs))

    def delete(self, memory_id: str, delete_linked: bool = False) -> Fields:
        """See `Memory.delete`. With `delete_linked` the facts that it superseded are not current again."""
        if delete_linked:
            raise InputError("delete_linked=True is not supported; delete the facts that are current again, too.")
        return self._memory.delete(memory_id)

    def delete_all(self, options: Any = None, **kwargs: Any) -> Fields:
        """See `Memory.delete_all`."""
        given = _given(options, kwargs)
        filters = given.pop("filters", None) or {}
        return self._memory.delete_all(**{**filters, **given})

    def history(self, memory_id: str) -> list[Fields]:
        """See `Memory.history`."""
        return self._memory.history(memory_id)

    def users(self) -> Fields:
        """All users: {"results": [{"name", "type": "user"}, ...]}."""
        return {"results": [{"name": user, "type": "user"} for user in self._memory._facts.users()]}


def _opened(config: Mapping[str, Any]) -> Facts:
    if not isinstance(config, Mapping) or not ({"store", "model"} <= set(config) or "url" in config):
        raise ConfigError(
            f'Memory was given {quoted(config)}; expected {{"store": DIRECTORY, "model": NAME}} or {{"url": URL}}, or '
            f"{STORE} and {MODEL}, or {URL}, in the environment."
        )
    given = dict(config)
    if "url" in given:
        unknown = sorted(given.keys() - {"url", "key", "client"})
        if unknown:
            raise ConfigError(f"Memory was given {unknown}; of a server it takes url, key and client.")
        return ServedFacts(**given)
    store = given.pop("store")
    return StoredFacts(store, session_opener(**given), KEEP_VERSIONS)


def _environment() -> Fields:
    if URL in os.environ:
        return {"url": os.environ[URL], "key": os.environ.get(KEY)}
    return {name: os.environ[key] for name, key in (("store", STORE), ("model", MODEL)) if key in os.environ}


def _given(options: Any, more: Fields) -> Fields:
    """The options of a call, pydantic's model or a dictionary, and what was given by name."""
    said = {} if options is None else options if isinstance(options, dict) else options.model_dump(exclude_unset=True)
    return {**said, **more}


def _refuse(**settings: Any) -> None:
    """Raise `InputError` for what a memory of facts does not have."""
    for name, value in settings.items():
        if value is not None:
            raise InputError(
                f"{name}={quoted(value)} is not supported: facts belong to a user and are as they were said."
            )


def _named(user: Any) -> str:
    if not isinstance(user, str) or not user.strip():
        raise InputError(f"user_id is {quoted(user)}; expected the id of a user.")
    return user


def _scope(filters: Fields | None, top_k: int, more: Fields) -> tuple[str, int]:
    """The user and the number of results; mem0ai 1 takes both by name (user_id, limit)."""
    given: Fields = {}
    for one in (filters or {}, *(filters.get("AND", ()) if isinstance(filters, Mapping) else ())):
        if not isinstance(one, Mapping):
            raise InputError(f"filters is {quoted(filters)}; expected {{'user_id': USER}}.")
        given |= one
    given.pop("AND", None)
    given |= {name: value for name, value in more.items() if name != "limit" and value is not None}
    _refuse(**{name: value for name, value in given.items() if name != "user_id"})
    most = more.get("limit") or top_k
    if not isinstance(most, int) or most < 1:
        raise InputError(f"top_k is {quoted(most)}; expected at least 1.")
    return _named(given.get("user_id")), most


def _messages(messages: Any) -> list[Fields]:
    """Chat messages out of a text, one message or several; system prompts are not remembered."""
    said = messages
    if isinstance(messages, str):
        said = [{"role": "user", "content": messages}]
    elif isinstance(messages, dict):
        said = [messages]
    if not isinstance(said, Sequence):
        raise InputError(f"add() was given {quoted(messages)}; expected a text, a message, or a list of messages.")
    kept = studied(said)
    if not kept:
        raise InputError("add() was given nothing to remember.")
    return list(kept)


def _item(user: str, fact: Fields) -> Fields:
    """A fact in mem0's shape."""
    scored = {"score": fact["score"]} if "score" in fact else {}
    return {
        "id": f"{user}/{fact['id']}",
        "memory": fact["text"],
        "hash": hashlib.md5(fact["text"].encode(), usedforsecurity=False).hexdigest(),
        "metadata": {name: fact[name] for name in ("said_by", "status", "learned")},
        "created_at": fact["said_at"],
        "updated_at": None,
        "user_id": user,
        **scored,
    }
