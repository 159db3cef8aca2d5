"""The chats of a page: what is shown of each, and what of it is in the prompt of the next answer.

They are kept as long as the page runs. What outlives it is the session's: messages that wait, and the memory.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import InputError
from ...util.messages import Message

LONGEST_TITLE = 60  # characters


@dataclass(eq=False)
class Chat:
    """A conversation: messages of the user and of the assistant in turn, each with its day.

    Attributes
    ----------
    changed : how often messages were changed by other than talking.
    """

    messages: list[Message] = field(default_factory=list)
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    changed: int = 0

    @property
    def title(self) -> str:
        """How the chat begins; empty where nothing was said."""
        said = " ".join(self.messages[0]["content"].split()) if self.messages else ""
        return said if len(said) <= LONGEST_TITLE else f"{said[: LONGEST_TITLE - 1]}…"

    def before(self, place: int | None) -> list[Message]:
        """The messages before one of the user, by its place; None is a new one at the end.

        Raises
        ------
        InputError
            When no message of the user is there.
        """
        if place is None:
            return list(self.messages)
        if not 0 <= place < len(self.messages) or self.messages[place]["role"] != "user":
            raise InputError(f"No message of the user is at place {place} of this chat.")
        return self.messages[:place]

    def to_dict(self, waiting: Sequence[Message]) -> dict[str, Any]:
        """A dictionary of JSON values; it tells of each message whether it waits to become memory."""
        messages = [{**message, "waiting": message in waiting} for message in self.messages]
        return {"id": self.id, "title": self.title, "messages": messages}


class Chats:
    """All chats, oldest first; there is always one.

    Parameters
    ----------
    waiting : the messages of earlier runs that are not in the memory. They are the first chat.
    """

    def __init__(self, waiting: Sequence[Message]) -> None:
        self._chats = [Chat(list(waiting))]

    def __iter__(self) -> Iterator[Chat]:
        return iter(tuple(self._chats))

    def get(self, name: str) -> Chat:
        """A chat by its id. Raises InputError where there is none."""
        for chat in self._chats:
            if chat.id == name:
                return chat
        raise InputError("This chat is not there anymore.")

    def begin(self) -> Chat:
        """The chat in which nothing was said, or a new one."""
        for chat in self._chats:
            if not chat.messages:
                return chat
        self._chats.append(Chat())
        return self._chats[-1]

    def remove(self, chat: Chat) -> None:
        self._chats.remove(chat)
        if not self._chats:
            self._chats.append(Chat())

    def keep(self, kept: Callable[[Sequence[Message]], list[Message]]) -> None:
        """Leave in every chat what `kept` gives of its messages."""
        for chat in self._chats:
            left = kept(chat.messages)
            if left != chat.messages:
                chat.messages, chat.changed = left, chat.changed + 1


def in_prompt(said: Sequence[Message], waiting: Sequence[Message], keep_turns: int) -> list[Message]:
    """What of a chat precedes the next question: all from the first message that waits on, and its last turns."""
    first = next((place for place, message in enumerate(said) if message in waiting), len(said))
    first = min(first, max(0, len(said) - 2 * keep_turns))
    while 0 < first < len(said) and said[first]["role"] != "user":
        first -= 1
    return list(said[first:])
