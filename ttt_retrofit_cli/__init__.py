"""The command line: each verb in a file, with its options and its body.

Importing `ttt_retrofit` takes seconds (torch, transformers), and `--help` should not: a verb imports what it needs in
its body. Other files of this package hold what several verbs do, and may import it on top.
"""

from .app import app

__all__ = ["app", "main"]


def main() -> None:
    """The entry point `ttt-retrofit`."""
    app(prog_name="ttt-retrofit")
