"""The tools over facts as a server of the Model Context Protocol, by its official package (the extra `mcp`)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from ..errors import TTTError
from .fact_tools import FactTools

INSTRUCTIONS = (
    "What is remembered of the user, fact by fact. Search before you answer questions about the user. Add what the "
    "user asks you to remember. Correct and forget delete: ask the user before."
)


def make_mcp_server(tools: FactTools) -> Any:
    """A server with the tools `search`, `list`, `add`, `correct` and `forget`; `run("stdio")` serves them."""
    server = MCPServer("ttt-retrofit", version=version("ttt-retrofit"), instructions=INSTRUCTIONS, log_level="ERROR")
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    adds = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
    deletes = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
    for tool, hints in (
        (tools.search, reads),
        (tools.list, reads),
        (tools.add, adds),
        (tools.correct, deletes),
        (tools.forget, deletes),
    ):
        server.add_tool(_told(tool), description=inspect.getdoc(tool), annotations=hints)
    return server


def _told(tool: Callable[..., Any]) -> Callable[..., Any]:
    """The tool, whose errors reach the caller: they say what to do. Those of any other kind stay here."""

    @functools.wraps(tool)
    def run(**given: Any) -> Any:
        try:
            return tool(**given)
        except TTTError as error:
            raise ToolError(str(error)) from error

    return run
