"""The command line: verbs, their options and help, and what each verb does.

It stands beside the package because importing that takes seconds (torch, transformers), and `--help` should not; so
every verb imports what it needs when it runs.
"""

from .verbs import app

__all__ = ["app", "main"]


def main() -> None:
    """The entry point `ttt-retrofit`."""
    app(prog_name="ttt-retrofit")
