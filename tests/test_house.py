"""The maps of the house and the tree are the same: CONTRIBUTING.md, the picture of the architecture, the packages."""

import ast
import re

from test_imports import FILES, LIBRARY, MODULES, ORDER, ROOT

TABLE = re.compile(r"^\| `([\w/.]+)` \| (.+) \|$", re.MULTILINE)


def first_line(name: str) -> str:
    """Of the docstring of a package, or of a file that stands beside the packages."""
    module = name if name == "ttt_retrofit_cli" else f"{LIBRARY}.{name}"
    return (ast.get_docstring(ast.parse(MODULES[module].read_text())) or "").partition("\n")[0]


def shown(name: str) -> str:
    return f"{name}.py" if name in FILES else f"{name}/"


def test_the_map_in_contributing_lists_every_package_in_order_with_its_docstring():
    _, _, house = (ROOT / "CONTRIBUTING.md").read_text().partition("## The house")
    listed = TABLE.findall(house.partition("\n## ")[0])
    assert listed == [(shown(name), first_line(name)) for name in ORDER]


def test_the_picture_of_the_architecture_has_every_package_in_order():
    picture = (ROOT / "docs/images/architecture.svg").read_text()
    rooms = re.findall(r'class="room"[^>]*>(\w+)<', picture)
    assert rooms == ORDER and len(rooms) <= 20


def test_no_text_holds_what_a_merge_left_open():
    texts = [path for suffix in ("md", "toml", "py", "js", "css", "html") for path in ROOT.rglob(f"*.{suffix}")]
    own = [path for path in texts if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
    assert len(own) > 200
    assert [str(path) for path in own if re.search(r"^(<{7}|>{7}) ", path.read_text("utf-8"), re.MULTILINE)] == []
