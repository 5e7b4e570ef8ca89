"""A ladder of pictures with a slider: rows side by side, large, at the step that the slider stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from rcdm.figures.result import StudyResult
from rcdm.ui.sheet import img

MANY = 6  # rows from which on they stand in two columns, where there is room
Curves = Mapping[str, Sequence[float]]


def frames_html(
    result: StudyResult,
    *,
    what: str,
    start: int = 0,
    curves: Curves | None = None,
    note: str = "",
    places: Sequence[int] = (),
) -> str:
    """Rows of a study's images over its columns; `what` names the steps. All steps are shown small beside it.

    `curves`: name -> one value per column, drawn below; `note`: HTML after them. `places`: where rows are to stand side
    by side, the place of each in its line, from 1 on.
    """
    width = len(result.columns)
    rows = ""
    for i, name in enumerate(result.rows):
        images = result.images[i * width : (i + 1) * width]
        place = f' style="grid-column:{places[i]}"' if places else ""
        ladder = _ladder(images, result.columns, name, start)
        rows += f'<section class="ladder"{place}><h3>{escape(name)}</h3>{ladder}</section>'
    labels = "|".join(escape(column) for column in result.columns)
    slider = (
        f'<label class="slide"><span>{escape(what)}: <output>{escape(result.columns[start])}</output></span>'
        f'<input type="range" class="steps" min="0" max="{width - 1}" value="{start}" data-labels="{labels}"></label>'
    )
    layout = " beside" if places else " many" if len(result.rows) > MANY else ""
    drawn = "" if curves is None else curves_svg(curves, result.columns)
    return f'<div class="rcdm sheet frames">{slider}<div class="ladders{layout}">{rows}</div>{drawn}{note}</div>'


def _ladder(images: Sequence[Image.Image], columns: Sequence[str], row: str, start: int) -> str:
    figures = ""
    for i, (image, column) in enumerate(zip(images, columns, strict=True)):
        marked = " on" if i == start else ""
        figures += f'<figure class="frame{marked}">{img(image, f"{row}, {column}")}</figure>'
    big = f'<figure class="big">{img(images[start], f"{row}, {columns[start]}, large")}</figure>'
    return f'<div class="reel">{big}<div class="film">{figures}</div></div>'


def curves_svg(curves: Curves, columns: Sequence[str], *, top: float | None = None) -> str:
    """Lines over the steps from 0 to `top`, with their names; 1 is marked."""
    values = [value for line in curves.values() for value in line]
    top = max([1.05, *values]) if top is None else top
    width, height, left = 560, 150, 34
    pace = (width - left - 10) / max(1, len(columns) - 1)

    def place(i: int, value: float) -> str:
        return f"{left + i * pace:.1f},{height - 20 - (height - 30) * min(max(value, 0), top) / top:.1f}"

    lines = ""
    for k, (name, line) in enumerate(curves.items()):
        points = " ".join(place(i, value) for i, value in enumerate(line))
        lines += f'<polyline class="line c{k % 6}" points="{points}"><title>{escape(name)}</title></polyline>'
    marks = ""
    for value in sorted({0.0, 1.0, *([float(int(top))] if top >= 3 else [])}):
        y = place(0, value).partition(",")[2]
        marks += f'<line x1="{left}" x2="{width - 10}" y1="{y}" y2="{y}"/><text x="{left - 6}" y="{y}">{value:g}</text>'
    for i in sorted({0, (len(columns) - 1) // 2, len(columns) - 1}):
        anchor = "end" if i == len(columns) - 1 else "middle"
        where = f'x="{left + i * pace:.1f}" y="{height - 8}" style="text-anchor:{anchor}"'
        marks += f"<text {where}>{escape(columns[i])}</text>"
    names = "".join(f'<span class="key c{k % 6}">{escape(name)}</span>' for k, name in enumerate(curves))
    words = "; ".join(f"{name}: " + ", ".join(f"{v:.2f}" for v in line) for name, line in curves.items())
    return (
        f'<figure class="curves"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(words)}">'
        f"{marks}{lines}</svg><figcaption>{names}</figcaption></figure>"
    )
