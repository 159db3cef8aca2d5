"""`--config FILE.yaml`: options by name in a file. What is given on the command line wins."""

from pathlib import Path
from typing import Any

import typer

# What a file cannot hold: itself, and a question about the verb.
NEVER = ("config", "help")
PAIRS = "NAME=VALUE"


def read_defaults(context: typer.Context, path: Path | None) -> Path | None:
    """Take what a file says as the defaults of a verb; called before its other options are read."""
    if path is not None:
        try:
            context.default_map = _defaults(context, path)
        except ValueError as error:
            typer.echo(f"error: {path}: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from None
    return path


def merge_pairs(context: typer.Context, given: dict[str, Any]) -> dict[str, Any]:
    """NAME=VALUE options of the command line after those of the file, so that each wins by its name."""
    filed, merged = context.default_map or {}, dict(given)
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if parameter.metavar == PAIRS and source is not None and source.name == "COMMANDLINE":
            merged[parameter.name] = [*filed.get(parameter.name, ()), *given[parameter.name]]
    return merged


def _defaults(context: typer.Context, path: Path) -> dict[str, Any]:
    """Values by the names of parameters.

    Raises
    ------
    ValueError
        For what cannot be read, names that the verb does not have, and values that do not fit.
    """
    import yaml

    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"no YAML: {error}") from None
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise ValueError("expected option names with values, such as 'window: 1024'.")
    known = {_name(parameter): parameter for parameter in context.command.params}
    known = {name: parameter for name, parameter in known.items() if name not in NEVER}
    found = {}
    for key, value in said.items():
        parameter = known.get(str(key).removeprefix("--").replace("_", "-"))
        if parameter is None:
            raise ValueError(f"{key} is no option of {context.command_path}. Known are {sorted(known)}.")
        if value is None:  # as if it were not there
            continue
        try:
            found[parameter.name] = _spelt(parameter, value)
            parameter.process_value(context, found[parameter.name])
        except (ValueError, typer.BadParameter) as error:
            raise ValueError(f"{key}: {value!r} does not fit. {getattr(error, 'message', error)}") from None
    return found


def _name(parameter: Any) -> str:
    """As the help of the verb has it, without dashes."""
    if parameter.param_type_name == "argument":
        return (parameter.metavar or parameter.name).lower()
    return max(parameter.opts, key=len).removeprefix("--").replace("_", "-")


def _spelt(parameter: Any, value: Any) -> Any:
    """A value as the command line would bring it, so that it is checked like one."""
    several = parameter.multiple or parameter.nargs == -1
    if isinstance(value, dict):
        if parameter.metavar != PAIRS:
            raise ValueError("Expected a value, not names with values.")
        return [f"{name}={_word(part)}" for name, part in value.items()]
    if isinstance(value, list):
        if not several:
            raise ValueError("Expected one value, not a list.")
        return [str(part) for part in value]
    return [str(value)] if several else str(value)


def _word(value: Any) -> str:
    """What NAME=VALUE reads as this value."""
    import json

    return value if isinstance(value, str) else json.dumps(value, default=str)  # YAML knows dates
