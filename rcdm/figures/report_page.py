"""One HTML page that needs nothing else: figures with captions, numbers in words, on screen, phone and paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from pathlib import Path

from PIL import Image

_STYLE = """
:root { color-scheme: light dark; --text: #1d1d1f; --quiet: #5f6368; --ground: #fff; --edge: #d9dce1; --soft: #f4f5f7;
  --bad: #9b1c1c; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8ea; --quiet: #a3a7ae; --ground: #16181c; --edge: #363a41;
  --soft: #1f2227; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 4rem; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; }
h2::first-letter, nav a::first-letter { text-transform: uppercase; }
p { margin: 0 0 .5rem; max-width: 75ch; overflow-wrap: anywhere; }
.quiet, figcaption, nav { color: var(--quiet); font-size: .875rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin-top: 1rem; padding: .5rem 0;
  border-block: 1px solid var(--edge); }
a { color: inherit; }
figure { margin: 1rem 0 1.5rem; }
.plate { overflow-x: auto; background: #fff; border: 1px solid var(--edge); border-radius: 6px; padding: .5rem; }
.plate img { display: block; height: auto; margin: 0 auto; }
figcaption { margin-top: .4rem; max-width: 90ch; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
pre, code { font: .8125rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { overflow-x: auto; background: var(--soft); padding: .75rem; border-radius: 6px; }
.command { white-space: pre-wrap; overflow-wrap: anywhere; }
.failure { border-left: 4px solid var(--bad); background: var(--soft); padding: .5rem .75rem; }
@media print { body { max-width: none; font-size: 10pt; padding: 0; } nav { display: none; }
  figure { break-inside: avoid; } .plate { border: 0; padding: 0; overflow: visible; }
  .plate img { max-width: 100%; width: 100% !important; min-width: 0 !important; }
  details > pre { font-size: 7pt; white-space: pre-wrap; } h2 { break-after: avoid; } }
"""

_WIDEST = 1000
"""Pixels of the screen that the widest figure takes."""


@dataclass(frozen=True)
class Section:
    """A study on the page: PNG figures with their captions, its summary, the command that does it, its JSON file.

    `failure` is the sentence that stands in their place.
    """

    title: str
    question: str
    figures: Sequence[tuple[Path, str]] = field(default_factory=list)
    summary: str = ""
    command: str = ""
    numbers: str = ""
    failure: str = ""


def page_html(title: str, about: Sequence[str], sections: Sequence[Section]) -> str:
    """A whole page; figures are embedded."""
    links = "".join(f'<a href="#{_anchor(s)}">{escape(s.title)}</a>' for s in sections)
    head = "".join(f'<p class="quiet">{escape(line)}</p>' for line in about)
    body = "".join(_section_html(section) for section in sections)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{head}<nav>{links}</nav>{body}</body></html>\n"
    )


def _anchor(section: Section) -> str:
    return escape(section.title.replace(" ", "-"), quote=True)


def _section_html(section: Section) -> str:
    parts = [f'<section id="{_anchor(section)}"><h2>{escape(section.title)}</h2><p>{escape(section.question)}</p>']
    if section.failure:
        parts.append(f'<p class="failure">Not answered: {escape(section.failure)}</p>')
    parts += [_figure_html(file, caption) for file, caption in section.figures]
    if section.summary:
        where = f" (all of them in {escape(section.numbers)})" if section.numbers else ""
        parts.append(f"<details><summary>Numbers{where}</summary><pre>{escape(section.summary)}</pre></details>")
    if section.command:
        parts.append(f'<p class="quiet">Made by <code class="command">{escape(section.command)}</code></p>')
    return "".join(parts) + "</section>"


@lru_cache(maxsize=1024)
def _embedded(file: Path, changed: int) -> tuple[str, float]:
    """A PNG as lossless WebP, half as large, in base64; and its width in inches. `changed`: when it was written."""
    with Image.open(file) as image:
        stream = io.BytesIO()
        image.convert("RGB").save(stream, "webp", lossless=True, method=1, quality=30)
        inches = image.width / image.info.get("dpi", (300, 300))[0]
    return base64.b64encode(stream.getvalue()).decode(), inches


def _figure_html(file: Path, caption: str) -> str:
    """The figure as wide as it is drawn for: on a phone it is scrolled where it would be too small to read."""
    data, inches = _embedded(file, file.stat().st_mtime_ns)
    width = min(_WIDEST, round(_WIDEST * inches / 6.9))
    style = f"width: min(100%, {width}px); min-width: {min(width, 620)}px"
    return (
        f'<figure><div class="plate"><img src="data:image/webp;base64,{data}" alt="{escape(caption, quote=True)}" '
        f'style="{style}"></div><figcaption>{escape(caption)} '
        f"<i>{escape(file.name)}, {escape(file.with_suffix('.pdf').name)}</i></figcaption></figure>"
    )
