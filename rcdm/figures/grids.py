"""Images in rows and columns: every pixel as it was drawn, a label to the left of each row and above each column."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from PIL import Image

from rcdm.figures.style import DOUBLE, TALLEST

SMALLEST = 0.3
"""Side in inches below which images are rather put on another page."""

# inches: between images, between blocks of columns, below all for a colour bar, height of a line of letters
_GAP, _BREAK, _BAR, _LETTER = 0.025, 0.08, 0.4, 0.085
_COLOURS = "magma"


@dataclass(frozen=True)
class Maps:
    """Columns that hold maps in grey: what a white pixel stands for, and of what."""

    columns: Collection[str]
    white: float
    unit: str


@dataclass(frozen=True)
class _Scale:
    """An image pixel is `times` x `times` pixels of a page with `dpi`; `cell` is the side of an image in inches."""

    cell: float
    dpi: int
    times: int


def grid_figures(
    images: Sequence[Image.Image],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    maps: Maps | None = None,
    group: int = 1,
    smallest: float = SMALLEST,
    block: int = 0,
) -> list[Figure]:
    """Images, row-major over (rows, columns), on as many pages as they need, `group` rows staying together, and a wider
    gap after every `block` columns.

    Every image pixel is a square of whole pixels of the PNG, and itself in the PDF; labels are text. Maps are coloured
    on one scale, from 0 to the largest value, with a colour bar.
    """
    side = max(max(image.size) for image in images)
    breaks = _BREAK * ((len(columns) - 1) // block) if block else 0.0
    left = max((_width(label) for label in rows), default=0.0) + 0.1
    scales, width = _scales(side), DOUBLE - left - breaks
    fitting = [s for s in scales if len(columns) * (s.cell + _GAP) <= width] or scales[-1:]
    margins = (left, _above(columns, fitting[0].cell), _BAR if maps else 0.0)
    height = TALLEST - sum(margins[1:])
    large = [s for s in fitting if s.cell >= smallest] or fitting[:1]
    scale = next((s for s in large if len(rows) * (s.cell + _GAP) <= height), large[-1])
    room = max(1, int(height / (scale.cell + _GAP) / group)) * group  # rows on a page
    pages = -(-len(rows) // room)
    each = -(-len(rows) // pages // group) * group
    pictures, top = _pictures(images, columns, side, maps)
    result = []
    for first in range(0, len(rows), each):
        part = pictures[first * len(columns) : (first + each) * len(columns)]
        page, place = _page(part, rows[first : first + each], columns, scale, margins, block)
        if maps:
            _bar(page, place, top, maps.unit)
        result.append(page)
    return result


def _scales(side: int) -> list[_Scale]:
    """From large to small, up to an inch; finer than 300 dots per inch only where an image would else be large."""
    steps = [(300, times) for times in range(max(1, 300 // side), 0, -1)] + [(600, 1), (1200, 1), (2400, 1)]
    return [_Scale(side * times / dpi, dpi, times) for dpi, times in steps]


def _width(label: str, size: float = 6) -> float:
    """Of a label, in inches."""
    return TextPath((0, 0), label, size=size).get_extents().width / 72 if label.strip() else 0.0


def _above(columns: Sequence[str], cell: float) -> float:
    """Height of the column labels, in inches."""
    return 0.07 + _LETTER * max((1 + _wrapped(label, cell).count("\n") for label in columns if label), default=0)


def _wrapped(label: str, cell: float) -> str:
    """A label in as many lines as it needs above an image, broken after blanks, slashes and hyphens alone."""
    lines = [""]
    for piece in re.split(r"(?<=[\s/-])", label):
        if lines[-1] and _width((lines[-1] + piece).strip()) > cell:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.strip() for line in lines)


def _pictures(
    images: Sequence[Image.Image], columns: Sequence[str], side: int, maps: Maps | None
) -> tuple[list[np.ndarray], float]:
    """uint8 [side,side,3] each, maps coloured; and the largest value of a map."""
    arrays = [np.asarray(image.resize((side, side), Image.Resampling.NEAREST)) for image in images]
    if maps is None:
        return arrays, 0.0
    mapped = [i for i in range(len(arrays)) if columns[i % len(columns)] in maps.columns]
    brightest = max(1, *(int(arrays[i].max()) for i in mapped), 1)
    colours = matplotlib.colormaps[_COLOURS]
    for i in mapped:
        arrays[i] = (255 * colours(arrays[i][..., 0] / brightest)[..., :3]).round().astype(np.uint8)
    return arrays, maps.white * brightest / 255


def _page(
    pictures: Sequence[np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    scale: _Scale,
    margins: tuple[float, float, float],
    block: int,
) -> tuple[Figure, tuple[float, float, float, float]]:
    """The images with their labels, and the rectangle of the images in shares of the figure.

    `margins`: left, above and below, in inches.
    """
    side, gap = pictures[0].shape[0], max(1, round(_GAP * scale.dpi / scale.times))
    wider = round(_BREAK * scale.dpi / scale.times) if block else 0
    step = side + gap
    starts = [step * i + wider * (i // block if block else 0) for i in range(len(columns))]  # pixels of the images
    sheet = np.full((len(rows) * step - gap, starts[-1] + side, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = step * (i // len(columns)), starts[i % len(columns)]
        sheet[y : y + side, x : x + side] = picture
    high, wide = (n * scale.times for n in sheet.shape[:2])
    left, above, below, right = (round(inches * scale.dpi) for inches in (*margins, 0.02))
    width, height = left + wide + right, above + high + below + right
    drawn = Figure(figsize=((width + 0.01) / scale.dpi, (height + 0.01) / scale.dpi), dpi=scale.dpi)
    place = (left / width, 1 - (above + high) / height, wide / width, high / height)
    axes = drawn.add_axes(place)
    axes.imshow(sheet, interpolation="none", extent=(0, sheet.shape[1], sheet.shape[0], 0), aspect="auto")
    axes.set_axis_off()
    for i, label in enumerate(rows):
        axes.text(-0.04 * scale.dpi / scale.times, step * i + side / 2, label, ha="right", va="center", fontsize=6)
    for i, label in enumerate(columns):
        middle = starts[i] + side / 2
        words, up = _wrapped(label, scale.cell), -0.05 * scale.dpi / scale.times
        axes.text(middle, up, words, ha="center", va="baseline", fontsize=6, linespacing=1.0)
    return drawn, place


def _bar(page: Figure, images: tuple[float, float, float, float], top: float, unit: str) -> None:
    """A colour bar below the images, from 0 to `top`."""
    width, height = page.get_size_inches()
    left, bottom, wide, _ = images
    length = min(wide, 2.2 / width)
    axes = page.add_axes((left + wide - length - 0.12 / width, bottom - 0.14 / height, length, 0.07 / height))
    bar = page.colorbar(ScalarMappable(Normalize(0, top), _COLOURS), cax=axes, orientation="horizontal")
    bar.outline.set_visible(False)
    axes.tick_params(labelsize=5.5, length=1.5, pad=1)
    axes.set_xlabel(unit, fontsize=6, labelpad=1)
