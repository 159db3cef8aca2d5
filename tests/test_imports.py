"""The layout is the architecture: a module imports only what stands below it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ttt_retrofit"

# From the top down. A module may import from any line below its own, never from above or beside.
ORDER = [
    "auto",
    "modeling",
    "hub",
    "calls",
    "reading",
    "sinks",
    "learning",
    "cache",
    "kv",
    "layer",
    "state",
    "inner_loop",
    "inner_optimizers",
    "window",
    "attention",
    "fast_weights",
    "discovery",
    "fingerprint",
    "config",
    "errors",
]


def imported(module: str) -> set[str]:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ttt_retrofit."):
            names.add(node.module.split(".")[1])
    return names


@pytest.mark.parametrize("module", ORDER)
def test_imports_run_downwards(module):
    above = ORDER[: ORDER.index(module) + 1]
    assert not imported(module) & set(above)


def test_every_module_has_its_place():
    found = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert found == set(ORDER)
