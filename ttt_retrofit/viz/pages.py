"""Pictures as files: PNG, and HTML pages that stand alone, with nothing to fetch.

T tokens.
"""

from __future__ import annotations

from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .data import TextRead
from .figures import SHADES, SURPRISED, WHITE_FROM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of an SVG: it would name who drew it, with an address, and when.
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; color: #222; }}
p {{ max-width: 60rem; }} h1 {{ font-size: 1.3rem; }} h2 {{ font-size: 1rem; margin-top: 2rem; }}
svg {{ max-width: min(100%, 64rem); height: auto; }}
.beside {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 0 2rem; }}
.text {{ font: 0.8rem/1.7 ui-monospace, monospace; color: black; white-space: pre-wrap; overflow-wrap: anywhere; }}
.text span {{ border-radius: 2px; }} .dark {{ color: white; }}
.key span {{ padding: 0.15rem 0.5rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{sentence}</p>
{body}
</body>
</html>
"""


def save(figure: Figure, sentence: str, title: str, stem: Path) -> list[Path]:
    """Write a figure as `stem`.png and as a page `stem`.html; returns both."""
    png, html = stem.with_suffix(".png"), stem.with_suffix(".html")
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, dpi=150)
    drawn = StringIO()
    figure.savefig(drawn, format="svg", metadata=NO_METADATA)
    svg = drawn.getvalue()
    html.write_text(page(title, sentence, svg[svg.index("<svg") :]), encoding="utf-8")
    return [png, html]


def page(title: str, sentence: str, body: str) -> str:
    """A page; `body` is HTML, the rest is text."""
    return PAGE.format(title=escape(title), sentence=escape(sentence), body=body)


def surprise(read: TextRead, title: str, sentence: str) -> str:
    """A page with the whole text twice, side by side where there is room.

    Each token is on the colour of its loss; pointing at one shows its figures.
    """
    steps = range(int(SURPRISED) + 1)
    key = "".join(f'<span class="{_ink(step)}" style="background:{_shade(step)}">{step}</span>' for step in steps)
    parts = [f'<p class="key">loss, nats: {key}</p>', '<div class="beside">']
    for name, losses in (("Without updates", read.without), ("With updates", read.updated)):
        parts.append(
            f"<div><h2>{name}: {losses.mean():.3f} nats/token</h2>\n"
            f"<div class='text'>{_tokens(read, losses)}</div></div>"
        )
    return page(title, sentence, "\n".join([*parts, "</div>"]))


def _tokens(read: TextRead, losses: Tensor) -> str:
    spans = [f"<span>{escape(read.tokens[0])}</span>"]  # nothing predicts the first token
    pairs = zip(read.tokens[1:], losses.tolist(), read.without.tolist(), read.updated.tolist())
    for token, loss, without, updated in pairs:
        hint = f"{without:.2f} without, {updated:.2f} with updates"
        spans.append(
            f'<span class="{_ink(loss)}" style="background:{_shade(loss)}" title="{hint}">{escape(token)}</span>'
        )
    return "".join(spans)


def _shade(loss: float) -> str:
    red, green, blue, _ = SHADES(min(loss / SURPRISED, 1.0), bytes=True)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _ink(loss: float) -> str:
    return "dark" if loss / SURPRISED > WHITE_FROM else "light"
