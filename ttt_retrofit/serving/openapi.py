"""What the server answers, as an OpenAPI document, and as a page that loads nothing and runs no script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from html import escape
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from ..chat.all_facts import SHOWN
from .memories import ITEM, MAX_LISTED, RESOURCES, Correction, NewFact, Said
from .protocol import ChatRequest, StrictModel
from .responses import ResponseRequest

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
BODIES: dict[str, type[StrictModel]] = {
    "chat_completions": ChatRequest,
    "create_response": ResponseRequest,
    "add_fact": NewFact,
    "correct_fact": Correction,
    "add_messages": Said,
}
# By handler: what it does, and the status of its reply.
SUMMARIES: dict[str, tuple[str, int]] = {
    "chat_completions": ("Answer a conversation; with `user` by that user's memory. `stream` sends events.", 200),
    "create_response": ("The same as chat completions, as OpenAI's Responses API has it. Nothing is stored.", 200),
    "list_models": ("The model.", 200),
    "get_model": ("The model.", 200),
    "health": ("Whether the server answers. Needs no key.", 200),
    "list_memories": ("All users of whom something is stored.", 200),
    "get_memory": ("The state of a user's memory: entries, waiting messages, consolidation, last report.", 200),
    "delete_memory": ("Erase everything that is stored of a user.", 200),
    "list_facts": (
        "A user's facts, those that wait last; with `query` those that share words, best first.",
        200,
    ),
    "add_fact": ("Add a fact. The reply is a change that waits.", 202),
    "get_fact": ("One fact.", 200),
    "correct_fact": ("Put another text in a fact's place. The reply is a change that waits, or is done.", 202),
    "forget_fact": ("Delete a fact and all that was learned of it. The reply is a change that waits, or is done.", 202),
    "fact_history": ("The fact, those that it superseded and those that superseded it, oldest first.", 200),
    "list_changes": ("Changes of a user's facts: those that ended since the server started, and those that wait.", 200),
    "get_change": ("A change: waiting, working, accepted, refused or failed; with its report.", 200),
    "list_messages": ("The messages of a user that wait to become memory.", 200),
    "add_messages": ("Record turns that were answered elsewhere. They become memory when the user is idle.", 202),
    "list_versions": ("The versions of a user's memory on disk.", 200),
}
QUERY: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "list_facts": [
        ("status", {"enum": list(SHOWN), "default": "known"}, "Which facts. `known` is `current` and `waiting`."),
        ("query", {"type": "string"}, "Words to look for."),
        ("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": 100}, "How many."),
        ("after", {"type": "string"}, "The id of the last fact of the list before."),
    ],
    "forget_fact": [
        ("purge", {"type": "boolean", "default": False}, "Delete the earlier versions, which still hold it."),
    ],
}
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {name: {"type": ["string", "null"]} for name in ("message", "type", "param", "code")},
        }
    },
}


def operations() -> Iterator[tuple[str, str, str]]:
    """Address, HTTP method and handler of everything that is answered."""
    yield "/v1/chat/completions", "POST", "chat_completions"
    yield "/v1/responses", "POST", "create_response"
    yield "/v1/models", "GET", "list_models"
    yield "/v1/models/{model}", "GET", "get_model"
    yield "/health", "GET", "health"
    yield "/v1/memories", "GET", "list_memories"
    for behind, handlers in RESOURCES.items():
        names = ["{fact}" if part == ITEM and behind[0] == "facts" else part for part in behind]
        path = "/".join(["/v1/memories/{user}", *names]).replace(ITEM, "{change}")
        for method, name in handlers.items():
            yield path, method, name


@cache
def specification() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    template = "#/components/schemas/{model}"
    kinds = [(kind, "validation") for kind in BODIES.values()]
    refs, schemas = models_json_schema(kinds, ref_template=template)  # type: ignore[arg-type]
    paths: dict[str, dict[str, Any]] = {}
    for path, method, name in operations():
        summary, status = SUMMARIES[name]
        inside = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        parameters = [{"name": one, "in": "path", "required": True, "schema": {"type": "string"}} for one in inside]
        for key, schema, meaning in QUERY.get(name, ()):
            parameters.append({"name": key, "in": "query", "schema": schema, "description": meaning})
        operation: dict[str, Any] = {
            "operationId": name,
            "summary": summary,
            "parameters": parameters,
            "responses": {
                str(status): {"description": "Done." if status == 200 else "Recorded.", "content": _json({})},
                "default": {"description": "An error.", "content": _json(ERROR)},
            },
        }
        if name in BODIES:
            schema = refs[BODIES[name], "validation"]
            operation["requestBody"] = {"required": True, "content": _json(schema)}
        if name == "health":
            operation["security"] = []
        paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "ttt-retrofit", "version": version("ttt-retrofit"), "summary": "Users with memories."},
        "security": [{"key": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color-scheme:light dark}summary{cursor:pointer;padding:.3rem 0}code,pre{font-size:.9em}pre{overflow-x:auto}
b{display:inline-block;min-width:4.5rem}
table{border-collapse:collapse}td{padding:.1rem .8rem .1rem 0;vertical-align:top}"""


@cache
def _html() -> str:
    document = specification()
    schemas = document["components"]["schemas"]
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'><title>ttt-retrofit: API</title>",
        f"<style>{STYLE}</style><h1>{escape(document['info']['title'])}</h1>",
        "<p>Escape everything in the id of a user that an address names. <a href='openapi.json'>openapi.json</a></p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(
                f"<details id='{operation['operationId']}'><summary><b>{method.upper()}</b> "
                f"<code>{escape(path)}</code></summary><p>{escape(operation['summary'])}</p><table>"
            )
            for one in operation["parameters"]:
                about = escape(f"{one.get('description', '')} {json.dumps(one['schema'])}")
                parts.append(f"<tr><td><code>{one['name']}</code><td>in the {one['in']}<td>{about}")
            parts.append("</table>")
            if "requestBody" in operation:
                name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                shown = json.dumps(schemas[name], indent=2, ensure_ascii=False)
                parts.append(f"<p>Body: {name}</p><pre>{escape(shown)}</pre>")
            parts.append("</details>")
    return "\n".join(parts)


async def document(request: Request) -> Response:
    return JSONResponse(specification())


async def page(request: Request) -> Response:
    return HTMLResponse(_html(), headers={"Content-Security-Policy": POLICY})
