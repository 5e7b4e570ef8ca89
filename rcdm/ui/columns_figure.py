"""A drawing of Compare as one figure: per source the given image, its draws, and bars of what they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from rcdm.figures.style import STYLE
from rcdm.measures.attributes import Kept
from rcdm.ui.drawing import Column

DPI, CELL = 300, 240  # of the PNG, and about the pixels of an image's side in it
_LEFT, _TITLE, _GAP = 0.32, 0.16, 0.03  # inches: the name of a source, above an image, between images
_NAMES, _BARS, _LINE = 1.05, 1.15, 0.12  # inches: names of attributes, their bars, the height of one
_EDGE, _FOOT = 0.06, 0.38


def columns_figure(given: Image.Image, columns: Sequence[Column], seeds: Sequence[int]) -> Figure:
    """A row per source. At DPI dots per inch every pixel of a draw is a square of whole pixels."""
    side = columns[0].images[0].width
    cell = max(1, round(CELL / side)) * side / DPI
    most = max(len(column.kept) for column in columns)
    row = max(cell + _TITLE, most * _LINE + _TITLE) + 0.04
    images = (1 + len(seeds)) * (cell + _GAP)
    width = _whole(_LEFT + images + (_NAMES + _BARS + _EDGE if most else _EDGE))
    height = _whole(row * len(columns) + (_FOOT if most else _EDGE))
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
        for place, column in enumerate(columns):
            top = height - row * place
            name = column.source + (f"\n{column.guidance}" if column.guidance else "")
            figure.text(0.1 / width, (top - _TITLE - cell / 2) / height, name, rotation=90, ha="center", va="center",
                        fontsize=7)  # fmt: skip
            titles = ["given", *(f"#{seed}  {value:.2f}" for seed, value in zip(seeds, column.similarity, strict=True))]
            for i, (image, title) in enumerate(zip([given, *column.images], titles, strict=True)):
                left, bottom = _whole(_LEFT + i * (cell + _GAP)), _whole(top - _TITLE - cell)
                box = (left / width, bottom / height, cell / width, cell / height)
                _picture(figure.add_axes(box), image, title, cell)
            if column.kept:
                left, tall = _LEFT + images + _NAMES, len(column.kept) * _LINE
                box = (left / width, (top - _TITLE - tall) / height, _BARS / width, tall / height)
                _bars(figure.add_axes(box), column.kept, last=column is columns[-1])
    return figure


def _whole(inches: float) -> float:
    """The nearest length of whole pixels."""
    return round(inches * DPI) / DPI


def _picture(axes: Axes, image: Image.Image, title: str, cell: float) -> None:
    axes.imshow(np.asarray(image), interpolation="nearest")
    axes.set_title(title, fontsize=6 if cell > 0.5 else 4.5, pad=2, fontweight="normal")
    axes.set_axis_off()


def _bars(axes: Axes, kept: Mapping[str, Kept], *, last: bool) -> None:
    """Bars with interval and null; grey where the null is not passed. An end beyond the axis has no cap."""
    for place, number in enumerate(kept.values()):
        colour = "#14a394" if number.told else "0.7"
        axes.barh(place, min(max(number.value, 0), 1), height=0.55, color=colour)
        if number.low is not None and number.high is not None:
            low, high = max(number.low, 0.0), min(number.high, 1.0)
            axes.plot([low, max(high, low)], [place, place], color="0.1", linewidth=0.7)
            caps = [x for x in (number.low, number.high) if 0 <= x <= 1]
            axes.plot(caps, [place] * len(caps), color="0.1", linewidth=0, marker="|", markersize=3)
        if number.null is not None:
            axes.plot([min(max(number.null, 0), 1)], [place], color="#d97706", linewidth=0, marker="|", markersize=6)
        axes.text(1.03, place, f"{number.value:.2f}", va="center", fontsize=5)
    axes.set_yticks(range(len(kept)), [name.replace("_", " ") for name in kept], fontsize=5)
    axes.set_ylim(len(kept) - 0.5, -0.5)
    axes.set_xlim(0, 1.2)
    axes.set_xticks([0, 0.5, 1] if last else [])
    axes.tick_params(length=1.5, labelsize=5)
    axes.spines[:].set_visible(False)
    if last:
        nulls = any(number.null is not None for number in kept.values())
        axes.set_xlabel(
            "kept, 95 % interval" + ("\n(orange: draws without h)" if nulls else ""), fontsize=5, labelpad=1
        )
