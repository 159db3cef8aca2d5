"""LangGraph's `BaseStore` over the facts of users: a namespace is a user, an item is a fact."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from ..chat.fact_change import FactChange
from ..errors import ConfigError, InputError, MissingExtraError, quoted
from .fact_access import Facts, Fields, known, succession

try:
    from langgraph.store.base import BaseStore, GetOp, ListNamespacesOp, MatchCondition, Op, PutOp, SearchItem, SearchOp
except ImportError as error:
    raise MissingExtraError("FactStore", "langgraph", "langgraph") from error

UNKNOWN = datetime.fromtimestamp(0, UTC)  # of a fact whose day nobody knows
Namespace = tuple[str, ...]


class FactStore(BaseStore):
    """Items are {field: a sentence}. To put or to delete one takes seconds to minutes: it is learned and verified.

    The key of an item is the id of its fact. This object finds an item under the key with which it was put, too; one
    made later does not.

    Parameters
    ----------
    facts : `StoredFacts` or `ServedFacts`.
    prefix : what namespaces begin with; one more label, the last, is the user's id.
    field : the only field of a value.

    Raises
    ------
    ConfigError
        By `put` and `delete`, where the change is refused.
    InputError
        For another namespace, other fields, a filter, and changes of a fact that is not known.
    """

    def __init__(self, facts: Facts, prefix: Namespace = ("memories",), field: str = "text") -> None:
        self.facts, self.prefix, self.field = facts, prefix, field
        self._keys: dict[tuple[str, str], str] = {}  # of a user and a key: the fact

    def batch(self, ops: Iterable[Op]) -> list[Any]:
        """One after the other."""
        return [self._do(op) for op in ops]

    async def abatch(self, ops: Iterable[Op]) -> list[Any]:
        """The same, in a thread."""
        return await asyncio.to_thread(self.batch, ops)

    def _do(self, op: Op) -> Any:
        if isinstance(op, GetOp):
            user = self._user(op.namespace)
            fact = self._known(user, op.key)
            return None if fact is None else self._item(user, fact, op.key)
        if isinstance(op, PutOp):
            return self._put(self._user(op.namespace), op.key, op.value)
        return self._search(op) if isinstance(op, SearchOp) else self._namespaces(op)

    def _user(self, namespace: Namespace) -> str:
        if namespace[:-1] != self.prefix:
            raise InputError(f"The namespace is {quoted(namespace)}; expected {(*self.prefix, 'USER')}.")
        return namespace[-1]

    def _known(self, user: str, key: str) -> Fields | None:
        found = succession(self.facts.facts(user), self._keys.get((user, key), key))
        return found[-1] if found and found[-1]["text"] else None

    def _item(self, user: str, fact: Fields, key: str | None = None) -> SearchItem:
        told = UNKNOWN if fact["said_at"] is None else datetime.fromisoformat(fact["said_at"]).replace(tzinfo=UTC)
        value, namespace = {self.field: fact["text"]}, (*self.prefix, user)
        return SearchItem(namespace, key or fact["id"], value, told, told, fact.get("score"))

    def _put(self, user: str, key: str, value: Mapping[str, Any] | None) -> None:
        fact = self._known(user, key)
        if value is None and fact is None:
            return
        if value is not None and (set(value) != {self.field} or not isinstance(value[self.field], str)):
            raise InputError(f"The value is {quoted(value)}; expected {{{self.field!r}: 'a sentence'}}.")
        ids = () if fact is None else (fact["id"],)
        text = None if value is None else value[self.field]
        changed = self.facts.change(user, FactChange(ids, text, purge=value is None))
        if not changed.accepted:
            raise ConfigError(f"The change was refused: {changed.reason}")
        if fact is None and changed.fact is not None:
            self._keys[user, key] = changed.fact

    def _search(self, op: SearchOp) -> list[SearchItem]:
        if op.filter:
            raise InputError(f"filter={quoted(op.filter)} is not supported: an item has one field.")
        found: list[SearchItem] = []
        most = op.offset + op.limit
        for namespace in self._below(op.namespace_prefix):
            user = namespace[-1]
            facts = self.facts.search(user, op.query, most) if op.query else known(self.facts.facts(user))
            found += [self._item(user, fact) for fact in facts]
        if op.query:
            found.sort(key=lambda item: -(item.score or 0.0))
        return found[op.offset : most]

    def _below(self, prefix: Namespace) -> list[Namespace]:
        """The namespaces of users that begin with a prefix."""
        return [namespace for namespace in self._all() if namespace[: len(prefix)] == prefix]

    def _all(self) -> list[Namespace]:
        return sorted((*self.prefix, user) for user in self.facts.users())

    def _namespaces(self, op: ListNamespacesOp) -> list[Namespace]:
        found = [one for one in self._all() if all(_matches(one, condition) for condition in op.match_conditions or ())]
        cut = sorted({one[: op.max_depth] for one in found})
        return cut[op.offset : op.offset + op.limit]


def _matches(namespace: Namespace, condition: MatchCondition) -> bool:
    path = condition.path
    place = 0 if condition.match_type == "prefix" else len(namespace) - len(path)
    there = namespace[max(place, 0) : max(place, 0) + len(path)]
    return len(there) == len(path) and all(asked in ("*", label) for asked, label in zip(path, there))
