"""For mkdocs: `results/` and the list of examples become part of the site, where links in `docs/` find them."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent


def on_files(files: Any, config: Any) -> Any:
    """Add the results as if they lay in `docs/results`, and the list of examples as a page."""
    files.append(File.generated(config, "examples.md", abs_src_path=str(ROOT / "examples/README.md")))
    for path in sorted([*ROOT.glob("results/*.md"), *ROOT.glob("results/*.png")]):
        if not path.stem.endswith("_quick"):
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """In the repository `results/` and `examples/` stand beside `docs/`, in the site within it."""
    if "/" in page.file.src_uri:
        return markdown
    return markdown.replace("](../results/", "](results/").replace("](../examples/README.md)", "](examples.md)")
