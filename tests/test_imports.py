"""The layout is the architecture: a module imports only what stands below it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ttt_retrofit"

# From the top down. A module may import from any line below its own, never from above or beside.
ORDER = [
    "cli.plotting",
    "cli.training",
    "cli.serving",
    "cli.chatting",
    "cli.remembering",
    "cli.reading",
    "cli.models",
    "cli.loading",
    "cli.contexts",
    "cli.temporary",
    "cli.output",
    "viz.pages",
    "viz.figures",
    "viz.text",
    "viz.collect",
    "viz.data",
    "serving.page",
    "serving.app",
    "serving.connections",
    "serving.browsers",
    "serving.door",
    "serving.keeper",
    "serving.users",
    "serving.directories",
    "serving.answering",
    "serving.writing",
    "serving.places",
    "serving.spelling",
    "serving.sampling",
    "serving.protocol",
    "serving.identity",
    "agent",
    "measure",
    "meta.trainer",
    "meta.resuming",
    "meta.checkpoints",
    "meta.positions",
    "meta.gradients",
    "meta.chunks",
    "meta.smoothing",
    "meta.replay",
    "meta.parameters",
    "meta.data",
    "meta.estimate",
    "meta.config",
    "meta.choices",
    "auto",
    "modeling",
    "generating",
    "forwarding",
    "packed",
    "remembering",
    "consolidation.job",
    "consolidation.consolidate",
    "consolidation.kept_writer",
    "consolidation.work",
    "consolidation.verify",
    "consolidation.plan",
    "consolidation.supersede",
    "consolidation.overview",
    "consolidation.elsewhere",
    "consolidation.chats",
    "consolidation.distill",
    "consolidation.student",
    "consolidation.notepad",
    "consolidation.gatekeeping",
    "consolidation.earlier",
    "consolidation.study",
    "consolidation.asking",
    "consolidation.pieces",
    "consolidation.writer",
    "consolidation.prompts",
    "consolidation.aliases",
    "consolidation.words",
    "consolidation.plain",
    "consolidation.control",
    "consolidation.config",
    "memory.store",
    "memory.ready",
    "memory.chorus",
    "memory.trust",
    "memory.memory",
    "memory.stored",
    "memory.card",
    "memory.checks",
    "memory.entry",
    "memory.report",
    "memory.lora",
    "memory.lessons",
    "memory.notes",
    "memory.projections",
    "memory.config",
    "hub",
    "weights_seal",
    "calls",
    "reading",
    "joining",
    "sinks",
    "learning",
    "cache",
    "saved_cache",
    "cache_file",
    "kv",
    "layer",
    "state",
    "inner_loop",
    "inner_optimizers",
    "in_place",
    "window",
    "attention",
    "voices",
    "gates",
    "fast_weights",
    "backbone",
    "alike",
    "discovery",
    "rotary",
    "inference",
    "digest",
    "fingerprint",
    "config",
    "messages",
    "texts",
    "sealed",
    "files",
    "shown",
    "errors",
]
PACKAGES = {name.split(".")[0] for name in ORDER if "." in name}


def imported(module: str) -> set[str]:
    """The modules of the package that a module imports; importing a subpackage is importing its highest module."""
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())
    own = module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = own[: len(own) - node.level + 1]
            base = ".".join([*above, *(node.module.split(".") if node.module else [])])
            names = [f"{base}.{alias.name}".strip(".") for alias in node.names]
            found |= {name if name in ORDER else base for name in names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ttt_retrofit"):
            raise AssertionError(f"{module} imports {node.module} by its full name; import relatively.")
    return {next((n for n in ORDER if n.startswith(f"{name}.")), name) if name in PACKAGES else name for name in found}


@pytest.mark.parametrize("module", ORDER)
def test_imports_run_downwards(module):
    above = ORDER[: ORDER.index(module) + 1]
    assert imported(module) <= set(ORDER) - set(above)


def test_every_module_has_its_place():
    paths = {path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py") if path.stem != "__init__"}
    assert {".".join(path.parts) for path in paths} == set(ORDER)
