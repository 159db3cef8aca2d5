"""How a function becomes a verb: its options, those that every verb has, and the frame it runs in.

A verb is a function whose first parameter is an `Output`. Its other parameters are arguments and options as typer reads
them; a parameter that is one of the dataclasses of `options` stands for an option for each field.
"""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from .configfile import merge_pairs, read_defaults
from .frame import verb_frame

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE.yaml", help="Options by name; those given here win.", is_eager=True,
        callback=read_defaults,
    ),
]  # fmt: skip


def command(verb: Callable[..., None]) -> Callable[..., None]:
    """What typer calls for a verb."""
    _, *own = inspect.signature(verb).parameters.values()
    groups: dict[str, Any] = {each.name: each.annotation for each in own if dataclasses.is_dataclass(each.annotation)}

    def run(called: typer.Context, config: Path | None, as_json: bool, **given: Any) -> None:
        given = merge_pairs(called, given)
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
        with verb_frame(as_json) as out:
            verb(out, **given)

    keyword = inspect.Parameter.KEYWORD_ONLY
    shown = [inspect.Parameter("called", keyword, annotation=typer.Context)]
    shown += [parameter.replace(kind=keyword) for parameter in own if parameter.name not in groups]
    for group in groups.values():
        shown += _options(group)
    shown.append(inspect.Parameter("config", keyword, default=None, annotation=Config))
    shown.append(inspect.Parameter("as_json", keyword, default=False, annotation=Json))
    run.__name__, run.__doc__ = verb.__name__, verb.__doc__
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


def _options(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in dataclasses.fields(group)
    ]
