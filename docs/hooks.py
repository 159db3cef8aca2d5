"""For mkdocs: what lies beside `docs/` becomes part of the site, where links in `docs/` find it."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {"examples.md": "examples/README.md", "contributing.md": "CONTRIBUTING.md"}


def on_files(files: Any, config: Any) -> Any:
    """Add the results as if they lay in `docs/results`, and the two pages that lie elsewhere."""
    for name, source in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    for path in sorted([*ROOT.glob("results/*.md"), *ROOT.glob("results/*.png")]):
        if not path.stem.endswith("_quick"):
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """In the repository these pages and `results/` lie beside `docs/`, in the site within it."""
    if page.file.src_uri.startswith("results/"):
        return markdown
    if page.file.src_uri == "contributing.md":
        return markdown.replace("](docs/", "](")
    for name, source in PAGES.items():
        markdown = markdown.replace(f"](../{source}", f"]({name}")
    return markdown.replace("](../results/", "](results/")
