"""Tables of numbers as shaded cells, each with its value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

_COLOURS = "Greys"


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
    """Cells from white at 0 to dark at `top`, with the values in them; NaN is left empty. Returns the shading."""
    table = np.array(values, dtype=float)
    shading = axes.pcolormesh(
        np.ma.masked_invalid(table), cmap=_COLOURS, norm=Normalize(0, top * 1.25), edgecolor="white", linewidth=0.8
    )
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            dark = value > 0.62 * top
            text = form.format(value).replace("-0.00", "0.00")
            axes.text(
                column + 0.5,
                row + 0.5,
                text,
                ha="center",
                va="center",
                fontsize=size,
                color="white" if dark else "black",
            )
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=rotation)
    for label in axes.get_xticklabels() if rotation else ():
        label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    return shading
