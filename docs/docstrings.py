"""For mkdocstrings: the house's docstrings as the page shows them.

Parameters are written as `name : what it is`, where numpydoc expects a type. Fields are documented by the `help` of
their metadata, or by the comment behind them.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from griffe import Attribute, Docstring, Extension, Function, Object

SECTION = re.compile(r"^(Parameters|Attributes|Returns|Raises)\n-+\n", re.MULTILINE)
ITEM = re.compile(r"^(\*{0,2}\w[\w, ]*?) : (.*)$")


class House(Extension):
    """Rewrites docstrings before they are parsed."""

    def on_function_instance(self, *, func: Function, **_: Any) -> None:
        _rewrite(func)

    def on_class_instance(self, *, cls: Object, **_: Any) -> None:
        _rewrite(cls)

    def on_attribute_instance(self, *, node: Any, attr: Attribute, **_: Any) -> None:
        """The help of a dataclass field, or the comment in its line."""
        if attr.docstring is not None or not isinstance(node, ast.AnnAssign):
            return
        found = _help(node.value) or _comment(attr)
        if found:
            attr.docstring = Docstring(found, parent=attr)


def _rewrite(of: Object) -> None:
    if of.docstring is None or not SECTION.search(of.docstring.value):
        return
    before, *rest = SECTION.split(of.docstring.value)
    sections = dict(zip(rest[::2], rest[1::2]))
    returns = sections.pop("Returns", "")
    if returns:  # a sentence, where numpydoc expects a type
        before = f"{before.rstrip()}\n\n**Returns:** {' '.join(returns.split())}\n\n"
    parts = [f"{name}\n{'-' * len(name)}\n{_items(text)}" for name, text in sections.items()]
    of.docstring.value = before + "\n\n".join(parts)


def _items(text: str) -> str:
    lines = []
    for line in text.rstrip().splitlines():
        match = ITEM.match(line)
        lines += [match[1], f"    {match[2]}"] if match else [line]
    return "\n".join(lines)


def _help(value: ast.expr | None) -> str | None:
    if not isinstance(value, ast.Call):
        return None
    metadata = next((word.value for word in value.keywords if word.arg == "metadata"), None)
    return None if metadata is None else ast.literal_eval(metadata).get("help")


def _comment(attr: Attribute) -> str | None:
    assert not isinstance(attr.filepath, list)
    _, found, comment = attr.filepath.read_text().splitlines()[(attr.lineno or 1) - 1].partition("  # ")
    return comment if found else None
