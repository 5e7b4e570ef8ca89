"""One HTML page that needs nothing else: figures with captions, numbers in words, on screen, phone and paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image

from rcdm.figures.html_templates import templates

_HTML = templates(Path(__file__).parent / "templates")

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
    return _HTML("report.html", title=title, about=about, sections=sections, plate=_plate)


@dataclass(frozen=True)
class _Plate:
    """A figure as the page shows it: lossless WebP in base64, and its width and least width in pixels."""

    data: str
    width: int
    least: int


def _plate(file: Path) -> _Plate:
    """The figure as wide as it is drawn for: on a phone it is scrolled where it would be too small to read."""
    data, inches = _embedded(file, file.stat().st_mtime_ns)
    width = min(_WIDEST, round(_WIDEST * inches / 6.9))
    return _Plate(data, width, min(width, 620))


@lru_cache(maxsize=1024)
def _embedded(file: Path, changed: int) -> tuple[str, float]:
    """A PNG as lossless WebP, half as large, in base64; and its width in inches. `changed`: when it was written."""
    with Image.open(file) as image:
        stream = io.BytesIO()
        image.convert("RGB").save(stream, "webp", lossless=True, method=1, quality=30)
        inches = image.width / image.info.get("dpi", (300, 300))[0]
    return base64.b64encode(stream.getvalue()).decode(), inches
