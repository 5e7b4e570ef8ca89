"""Tables of numbers as shaded cells, each with its value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

_COLOURS = "Greys"


def below(value: float) -> bool:
    """Whether a value is below 0 as it is written, to two digits."""
    return value < -0.005


def matrix(
    axes: Axes,
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    top: float,
    form: str = "{:.2f}",
    size: float = 5.5,
    rotation: float = 35,
) -> Any:
    """Cells from white at 0 to dark at `top` either way, with the values in them; NaN is left empty.

    Cells below 0 are hatched, and so told from those above in grey too. Returns the shading.
    """
    table = np.array(values, dtype=float)
    shading = axes.pcolormesh(
        np.ma.masked_invalid(np.abs(table)),
        cmap=_COLOURS,
        norm=Normalize(0, top * 1.25),
        edgecolor="white",
        linewidth=0.8,
    )
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            dark = abs(value) > 0.62 * top
            around = []
            if below(value):
                ink, around = (
                    "white" if dark else "0.45",
                    [withStroke(linewidth=2.2, foreground=shading.to_rgba(-value))],
                )
                axes.add_patch(Rectangle((column, row), 1, 1, fill=False, hatch="///", edgecolor=ink, linewidth=0))
            text = form.format(value).replace("-0.00", "0.00")
            axes.text(
                column + 0.5,
                row + 0.5,
                text,
                ha="center",
                va="center",
                fontsize=size,
                color="white" if dark else "black",
                path_effects=around,
            )
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=rotation)
    for label in axes.get_xticklabels() if rotation else ():
        label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    return shading
