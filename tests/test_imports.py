"""The layout is the architecture: a package imports only from packages below it, and no import runs in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = "ttt_retrofit"

# From the top down: the rooms of docs/architecture.md. What is listed imports from any line below its own.
ORDER = [
    "ttt_retrofit_cli",
    "serving",
    "chat",
    "outer",
    "viz",
    "evaluation",
    "model",
    "consolidation",
    "streaming",
    "memory",
    "inner",
    "config",
    "util",
    "errors",
]
FILES = {"__init__", "config", "errors", "evaluation"}  # what stands beside the packages


def room(module: str) -> str:
    """Where a module lives: its package below the library's, or the file that stands beside them."""
    first, *rest = module.split(".")
    return rest[0] if first == LIBRARY and rest else first


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for name in (LIBRARY, "ttt_retrofit_cli") for path in (ROOT / name).rglob("*.py")}


def imported(module: str, *, later: bool) -> set[str]:
    """The project's modules that a module imports; `later` counts imports inside functions, too."""
    path = MODULES[module]
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if later else tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
        base = base if node.level else (node.module or "")
        names = {f"{base}.{alias.name}" for alias in node.names}
        found |= {name if name in MODULES else base for name in names}
    return found & MODULES.keys()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {LIBRARY}))
def test_imports_run_downwards(module):
    below = ORDER[ORDER.index(room(module)) + 1 :]
    elsewhere = {name for name in imported(module, later=True) if room(name) != room(module)}
    if room(module) == "ttt_retrofit_cli":  # it may take what users take
        elsewhere.discard(LIBRARY)
    assert {room(name) for name in elsewhere} <= set(below)


@pytest.mark.parametrize("name", ORDER)
def test_no_import_runs_in_a_circle_inside_a_package(name):
    inside = {module for module in MODULES if room(module) == name}
    graph = {module: (imported(module, later=False) & inside) - {module} for module in inside}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_every_module_lives_in_a_package():
    beside = {path.stem for path in (ROOT / LIBRARY).glob("*.py")}
    assert beside == FILES
    assert {room(module) for module in MODULES} - {LIBRARY} == set(ORDER)


def test_the_library_imports_itself_relatively():
    for module, path in MODULES.items():
        if module.split(".")[0] == LIBRARY:
            for node in ast.walk(ast.parse(path.read_text())):
                absolute = (
                    isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith(LIBRARY)
                )
                assert not absolute, f"{module} imports {node.module} by its full name"
