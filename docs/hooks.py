"""For mkdocs: the pages and pictures of `results/` become part of the site, where links in `docs/` find them."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent


def on_files(files: Any, config: Any) -> Any:
    """Add the results as if they lay in `docs/results`."""
    for path in sorted([*ROOT.glob("results/*.md"), *ROOT.glob("results/*.png")]):
        if not path.stem.endswith("_quick"):
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """In the repository `results/` stands beside `docs/`, in the site within it."""
    return markdown.replace("](../results/", "](results/") if "/" not in page.file.src_uri else markdown
