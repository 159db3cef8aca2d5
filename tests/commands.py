"""Verbs of the command line, run in this process."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from ttt_retrofit_cli import app

SMALL = ["--window", "16", "--set", "chunk_size=8", "--set", "sink_tokens=2", "--set", "inner_lr=1e-2"]


def run(*arguments: object, stdin: str | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(part) for part in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


def document(*arguments: object, **kwargs: Any) -> Any:
    """What a verb says with --json: exactly one document on stdout."""
    return json.loads(run(*arguments, "--json", **kwargs).stdout)


def fails(*arguments: object, stdin: str | None = None) -> str:
    """The one line on stderr."""
    result = run(*arguments, stdin=stdin, code=1)
    assert result.stdout == "" and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    return result.stderr
