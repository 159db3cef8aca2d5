"""What a verb reads from a file or a pipe: a text, or a conversation in one of the forms that people keep.

What a file holds decides, never its name; only where it is named as JSON and is none, that is said.
"""

from __future__ import annotations

import codecs
import json
import re
import sys
from pathlib import Path
from typing import Any

from ttt_retrofit.errors import InputError
from ttt_retrofit.util.files import read_regular

STDIN = Path("-")
# UTF-32 first: its mark begins as that of UTF-16 does.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NAMED_JSON = (".json", ".jsonl", ".ndjson")
LIKE_JSON = re.compile(r'\s*(\[\s*[\[{]|\{\s*")')  # no prose begins so
# ShareGPT's names of who speaks, and others' for the assistant.
SPEAKERS = {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "observation": "tool", "function_call": "tool", "function_response": "tool",
    "tool_response": "tool",
}  # fmt: skip
DATES = ("date", "timestamp")  # of a message
EXPECTED = (
    'expected a list of {"role": ..., "content": ...}, or of ShareGPT\'s {"from": ..., "value": ...}, alone or under '
    '"messages" or "conversations", or such in the lines of a JSONL file.'
)


def read_text(path: Path) -> str:
    """A text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; stdin for "-".

    Raises
    ------
    InputError
        When it is in another encoding, or empty.
    """
    piped = path.is_fifo()  # as is the shell's <(...)
    data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes() if piped else read_regular(path)
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise InputError(
            f"{path} is no {name} text ({error.reason} at byte {error.start}). Convert it to UTF-8 first."
        ) from None
    if "\0" in text:
        place = len(text[: text.index("\0")].encode(encoding))
        raise InputError(
            f"{path} is no UTF-8 text (a zero at byte {place}): it is UTF-16 without a byte order mark, or no text. "
            "Convert it to UTF-8 first."
        )
    if not text.strip():
        raise InputError(f"{path} is empty: expected a text.")
    return text


def read_context(path: Path) -> str | list[dict[str, Any]]:
    """A text, or the messages of a conversation; of several conversations, all their messages in order.

    Raises
    ------
    InputError
        For JSON that is damaged or holds no conversation.
    """
    text = read_text(path)
    if not LIKE_JSON.match(text) and path.suffix.lower() not in NAMED_JSON:
        return text
    try:
        documents = [json.loads(text)]
    except json.JSONDecodeError as whole:
        try:
            documents = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError:
            raise InputError(f"{path} is no JSON ({whole}); {EXPECTED}") from None
    try:
        messages = [message for document in documents for message in _messages(document)]
    except InputError as error:
        raise InputError(f"{path} holds JSON, but no chat messages: {error} In a chat file is {EXPECTED}") from None
    if not messages:
        raise InputError(f"{path} holds JSON, but no chat messages; {EXPECTED}")
    return messages


def _messages(document: Any) -> list[dict[str, Any]]:
    """The messages of a message, a conversation, or a list of either."""
    if isinstance(document, list):
        return [message for part in document for message in _messages(part)]
    if not isinstance(document, dict):
        raise InputError(f"found {json.dumps(document)[:80]}.")
    for name in ("messages", "conversations", "conversation"):
        if isinstance(document.get(name), list):
            return _messages(document[name])
    if isinstance(document.get("role"), str):
        return [document]
    speaker, said = document.get("from"), document.get("value")
    if isinstance(speaker, str) and isinstance(said, str):
        dates = {name: document[name] for name in DATES if name in document}
        return [{"role": SPEAKERS.get(speaker, speaker), "content": said} | dates]
    raise InputError(f"found an object with the names {sorted(document)}.")
