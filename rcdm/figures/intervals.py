"""Numbers of several sources with their intervals and nulls: a panel per measure, a row per source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rcdm.figures.style import DOUBLE, NULL, SINGLE, Look, figure, fill_handles

Rows = Mapping[str, Mapping[str, Any]]
"""Source -> number: `value`, `low`, `high` and perhaps `null`; `other` is a second estimate, marked with a cross."""


def interval_panels(
    panels: Mapping[str, Rows],
    looks: Mapping[str, Look],
    *,
    xlabel: str,
    value: str,
    null: str,
    other: str = "",
    limits: tuple[float, float] | None = None,
    note: str = "",
) -> Figure:
    """A panel per measure. `value`, `null` and `other` name the marks in the legend; `note` is a line below all.

    `limits`: one range of x for all panels, cut where nothing is; each has its own if not given. Values and crosses
    beyond them are written at the edge, beside an arrow.
    """
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    sources = list(dict.fromkeys(source for rows in panels.values() for source in rows))
    width = SINGLE if columns == 1 else DOUBLE
    drawn = figure(width, 0.55 + lines * (0.35 + 0.135 * len(sources)))
    grid = drawn.subplots(lines, columns, squeeze=False, sharex=limits is not None, sharey=True)
    for axes, (name, rows) in zip(grid.flat, panels.items(), strict=False):
        interval_rows(axes, rows, sources, looks)
        axes.set_title(name.replace("_", " "), loc="left")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    if limits is not None:
        low, high = grid[0, 0].get_xlim()
        low, high = max(low, limits[0]), min(high, limits[1])
        grid[0, 0].set_xlim(low, high)
        for axes, rows in zip(grid.flat, panels.values(), strict=False):
            _beyond(axes, rows, sources, low, high)
    drawn.supxlabel("\n".join(line for line in (xlabel, note) if line), fontsize=7)
    has_null = any("null" in number for rows in panels.values() for number in rows.values())
    handles = [*marks(value, null if has_null else "", other), *fill_handles(sources, looks)]
    drawn.legend(handles=handles, loc="outside upper center", ncols=2 if columns == 1 else 6)
    return drawn


def interval_rows(axes: Axes, rows: Rows, sources: Sequence[str], looks: Mapping[str, Look]) -> None:
    """One panel: a source per row from the top, its value with the interval, its null as a tick, `other` as a cross."""
    for place, source in enumerate(sources):
        if (number := rows.get(source)) is None:
            continue
        look = looks[source]
        if "low" in number:
            axes.plot([number["low"], number["high"]], [place, place], color=look.colour, linewidth=1.2)
        if "null" in number:
            axes.plot([number["null"]] * 2, [place - 0.42, place + 0.42], color="0.45", linewidth=0.9, zorder=1)
        if "other" in number:
            axes.plot(number["other"], place, marker="x", color="0.2", markersize=3.2, markeredgewidth=0.7, linewidth=0)
        axes.plot(number["value"], place, linewidth=0, zorder=3, **look.point)
    axes.set_yticks(range(len(sources)), sources)
    axes.set_ylim(len(sources) - 0.4, -0.6)
    axes.grid(axis="x", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)


def _beyond(axes: Axes, rows: Rows, sources: Sequence[str], low: float, high: float) -> None:
    """Write what the axes do not show at their edge: values, and behind × what crosses mark."""
    text: dict[str, Any] = {"va": "center", "fontsize": 5, "zorder": 4}
    text["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
    for place, source in enumerate(sources):
        number = rows.get(source, {})
        marked = [(number[key], f"{sign}{number[key]:.1f}".replace("-", "−"))
                  for key, sign in (("value", ""), ("other", "×")) if key in number]  # fmt: skip
        if below := [words for value, words in marked if value < low]:
            axes.text(low, place, f"◂ {', '.join(below)}", ha="left", **text)
        if above := [words for value, words in marked if value > high]:
            axes.text(high, place, f"{', '.join(above)} ▸", ha="right", **text)


def marks(value: str, null: str, other: str = "") -> list[Line2D]:
    """Handles of a legend that says what the marks of `interval_rows` are; of those without a name there is none."""
    dark = "0.2"
    handles = [Line2D([], [], color=dark, marker="o", label=value)]
    if null:
        handles.append(Line2D([], [], color=NULL["color"], marker="|", markersize=7, linewidth=0, label=null))
    if other:
        handles.append(Line2D([], [], color=dark, marker="x", markersize=3.2, linewidth=0, label=other))
    return handles
