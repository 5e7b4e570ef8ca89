"""Images in rows and columns: every pixel as it was drawn, a label to the left of each row and above each column."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product

import matplotlib
import numpy as np
from matplotlib.axes import Axes
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
_LARGEST = 2**16  # pixels of a side that matplotlib can draw


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
    """Images, row-major over (rows, columns), on as few pages as there can be, `group` rows staying together.

    Few columns are set in several stacks side by side; after every `block` columns there is a wider gap. Every image
    pixel is a square of whole pixels of the PNG, and itself in the PDF; labels are text. Maps are coloured on one
    scale, from 0 to the largest value, with a colour bar.
    """
    side = max(max(image.size) for image in images)
    pictures, top = _pictures(images, columns, side, maps)
    layout = _layout(side, rows, columns, _BAR if maps else 0.0, group, smallest, block)
    result = []
    for first in range(0, len(rows), layout.rows * layout.stacks):
        starts = range(first, min(len(rows), first + layout.rows * layout.stacks), layout.rows)
        stacks = [
            (pictures[at * len(columns) : (at + layout.rows) * len(columns)], rows[at : at + layout.rows])
            for at in starts
        ]
        page, place = _page(stacks, columns, layout)
        if maps:
            _bar(page, place, top, maps.unit)
        result.append(page)
    return result


def grid_png(images: Sequence[Image.Image], rows: Sequence[str], columns: Sequence[str], *, pixels: int = 225) -> bytes:
    """A PNG with all of them on one page, as large as that must be: images about so many pixels wide, at 300 dpi.

    Raises ValueError where there are more than a picture can hold.
    """
    side = max(max(image.size) for image in images)
    room = _LARGEST // (max(len(rows), len(columns)) + 3)  # pixels of the page for an image, its gap and the labels
    times = min(max(1, round(pixels / side)), room // (side + 8))
    if times < 1:
        raise ValueError(f"{len(rows)} x {len(columns)} images of {side} pixels are too many for one picture.")
    scale = _Scale(side * times / 300, 300, times)
    labels = [_plain(_in_lines(row)) for row in rows]
    columns = [_plain(column) for column in columns]
    left = max((_width(line) for label in labels for line in label.split("\n")), default=0.0) + 0.1
    layout = _Layout(scale, 1, len(rows), left, _above(columns, scale.cell), 0.0, 0)
    page, _ = _page([(_pictures(images, columns, side, None)[0], labels)], columns, layout)
    file = io.BytesIO()
    page.savefig(file, format="png", dpi=scale.dpi)
    return file.getvalue()


def _in_lines(label: str, longest: int = 24, most: int = 3) -> str:
    """A label in a few lines, broken after blanks, slashes, hyphens and underscores where that is possible."""
    lines = [""]
    for part in re.split(r"(?<=[\s/_-])", label):
        for piece in textwrap.wrap(part, longest, drop_whitespace=False):
            if lines[-1] and len((lines[-1] + piece).strip()) > longest:
                lines.append("")
            lines[-1] += piece
    if len(lines) > most:  # the end stays: there stands the level
        lines = [*lines[: most - 2], lines[most - 2].strip() + "…", lines[-1]]
    return "\n".join(line.strip() for line in lines)


def _plain(label: str) -> str:
    """No formula for matplotlib, whatever a file is called."""
    return label.replace("$", r"\$")


@dataclass(frozen=True)
class _Layout:
    """How images are set: `stacks` beside each other of `rows` rows; margins of each stack in inches."""

    scale: _Scale
    stacks: int
    rows: int
    left: float
    above: float
    below: float
    block: int


def _layout(
    side: int, rows: Sequence[str], columns: Sequence[str], below: float, group: int, smallest: float, block: int
) -> _Layout:
    """No image below the smallest size if there is a way; then the fewest pages; then the largest images."""
    breaks = _BREAK * ((len(columns) - 1) // block) if block else 0.0
    left = max((_width(label) for label in rows), default=0.0) + 0.1
    options: list[tuple[tuple[bool, int, float, int], _Layout]] = []
    for stacks, scale in product((1, 2, 3), _scales(side)):
        too_wide = len(columns) * (scale.cell + _GAP) > DOUBLE / stacks - left - breaks
        if too_wide and (stacks > 1 or scale.times > 1 or scale.dpi < 2400):
            continue
        above = _above(columns, scale.cell)
        room = int((TALLEST - above - below) / (scale.cell + _GAP))
        room = max(1, room // group * group or room)  # rows of a stack
        pages = -(-len(rows) // (room * stacks))
        groups = -(-len(rows) // (pages * stacks * group))  # of a stack, evenly
        layout = _Layout(scale, stacks, min(room, groups * group), left, above, below, block)
        options.append(((scale.cell < smallest, pages, -scale.cell, stacks), layout))
    return min(options, key=lambda option: option[0])[1]


def _scales(side: int) -> list[_Scale]:
    """From large to small, up to 3/4 inch; finer than 300 dots per inch only where an image would else be large."""
    steps = [(300, times) for times in range(max(1, 225 // side), 0, -1)] + [(600, 1), (1200, 1), (2400, 1)]
    return [_Scale(side * times / dpi, dpi, times) for dpi, times in steps]


def _width(label: str, size: float = 6) -> float:
    """Of a label, in inches."""
    return TextPath((0, 0), label, size=size).get_extents().width / 72 if label.strip() else 0.0


def _above(columns: Sequence[str], cell: float) -> float:
    """Height of the column labels, in inches."""
    return 0.07 + _LETTER * max((1 + _wrapped(label, cell).count("\n") for label in columns if label), default=0)


def _wrapped(label: str, cell: float) -> str:
    """A label in as many lines as it needs above an image, broken after blanks and signs alone, in no number."""
    lines = [""]
    for piece in re.split(r"(?<=[\s/_-])|(?<=\.)(?=[A-Za-z])", label):
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
    stacks: Sequence[tuple[Sequence[np.ndarray], Sequence[str]]], columns: Sequence[str], layout: _Layout
) -> tuple[Figure, tuple[float, float, float, float]]:
    """Stacks of images and row labels beside each other; and the rectangle of the last, in shares of the figure."""
    scale, block = layout.scale, layout.block
    left, above, below, right = (round(n * scale.dpi) for n in (layout.left, layout.above, layout.below, 0.02))
    sheets = [_sheet(pictures, len(columns), scale, block) for pictures, _ in stacks]
    wide, high = sheets[0].shape[1] * scale.times, sheets[0].shape[0] * scale.times
    width, height = (left + wide + right) * len(stacks), above + high + below + right
    drawn = Figure(figsize=((width + 0.01) / scale.dpi, (height + 0.01) / scale.dpi), dpi=scale.dpi)
    for i, (sheet, (_, rows)) in enumerate(zip(sheets, stacks, strict=True)):
        tall = sheet.shape[0] * scale.times
        x = (left + wide + right) * i + left
        place = (x / width, 1 - (above + tall) / height, wide / width, tall / height)
        axes = drawn.add_axes(place)
        axes.imshow(sheet, interpolation="none", extent=(0, sheet.shape[1], sheet.shape[0], 0), aspect="auto")
        axes.set_axis_off()
        _labels(axes, rows, columns, scale, block)
    return drawn, (place[0], 1 - (above + high) / height, place[2], high / height)


def _starts(count: int, side: int, scale: _Scale, block: int = 0) -> list[int]:
    """Where each column (or row) of images begins, in image pixels."""
    gap = max(1, round(_GAP * scale.dpi / scale.times))
    wider = round(_BREAK * scale.dpi / scale.times) if block else 0
    return [(side + gap) * i + wider * (i // block if block else 0) for i in range(count)]


def _sheet(pictures: Sequence[np.ndarray], columns: int, scale: _Scale, block: int) -> np.ndarray:
    """The images on white, uint8 [height,width,3], one image pixel each."""
    side = pictures[0].shape[0]
    xs, ys = _starts(columns, side, scale, block), _starts(len(pictures) // columns, side, scale)
    sheet = np.full((ys[-1] + side, xs[-1] + side, 3), 255, np.uint8)
    for (y, x), picture in zip(product(ys, xs), pictures, strict=True):
        sheet[y : y + side, x : x + side] = picture
    return sheet


def _labels(axes: Axes, rows: Sequence[str], columns: Sequence[str], scale: _Scale, block: int) -> None:
    """Left of each row and above each column."""
    side = round(scale.cell * scale.dpi / scale.times)
    inch = scale.dpi / scale.times
    for y, label in zip(_starts(len(rows), side, scale), rows, strict=True):
        axes.text(-0.04 * inch, y + side / 2, label, ha="right", va="center", fontsize=6)
    for x, label in zip(_starts(len(columns), side, scale, block), columns, strict=True):
        words = _wrapped(label, scale.cell)
        axes.text(x + side / 2, -0.05 * inch, words, ha="center", va="baseline", fontsize=6, linespacing=1.0)


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
