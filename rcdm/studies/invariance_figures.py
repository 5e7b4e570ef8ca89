"""Invariance: one table of source x transformation, and a figure per transformation over its ladder of strengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rcdm.figures.curves import level_legend
from rcdm.figures.grids import grid_figures
from rcdm.figures.intervals import interval_panels, interval_rows
from rcdm.figures.matrix import below, matrix
from rcdm.figures.result import StudyResult
from rcdm.figures.style import DOUBLE, Look, band, figure, null_line

CAPTIONS = {
    "": "Each transformation at its strongest: alignment (change of the representation, over that of another "
    "image), and the slope with which the attribute that it moves follows in the draws.",
    "telling": "How well a linear probe tells from each representation which case of a transformation was applied.",
    "*-images": "{key}: images at growing strength and draws from what they became, with one noise.",
    "*": "{key}: change of the representation and of the draws over the strengths, and the slope with which the "
    "attribute follows.",
}
"""Key of a figure -> what it shows."""

_ABOVE = 11  # points between a table and its title, for words between them
_READABLE = 0.24
"""Side in inches that an image needs beside others."""


def figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """The summary, then per transformation its curves (key: its name) and its draws (`NAME-images`)."""
    by_name = result.numbers["transformations"]
    drawn = {"": _summary(by_name, result.numbers["sources"])}
    for name, one in by_name.items():
        key = name.replace(" ", "-")
        drawn[key] = _curves(name, one, looks)
        if pictures := _pictures(result, name, one):
            drawn[f"{key}-images"] = pictures
    if telling := result.numbers.get("transformation_probe"):
        says = "telling which case was applied"
        drawn["telling"] = interval_panels(telling, looks, xlabel=says, value="accuracy, 95 % interval", null="chance")
    return drawn


def _summary(by_name: Mapping[str, Any], sources: list[str]) -> Figure:
    """Alignment at the strongest, and how far the attribute that moves follows; those in the SSL views first."""
    names = sorted(by_name, key=lambda name: not by_name[name]["in_views"])
    inside = sum(by_name[name]["in_views"] for name in names)
    moved = [name for name in names if any("transport" in n for n in by_name[name]["sources"].values())]
    drawn = figure(DOUBLE, 1.1 + 0.16 * len(sources) * (2 if moved else 1) + (0.6 if moved else 0))
    panels = drawn.subplots(2 if moved else 1, 1, squeeze=False)[:, 0]
    table = [[by_name[name]["sources"][source]["alignment"][-1]["value"] for name in names] for source in sources]
    labels = [f"{name} {by_name[name]['strengths'][-1]:g}" for name in names]
    matrix(panels[0], table, sources, labels, top=1.0)
    panels[0].set_title("alignment at the strongest: 0 invariant, 1 another image", loc="left", pad=_ABOVE)
    _divide(panels[0], inside, len(names))
    if moved:
        slopes = [[_slope(by_name[name]["sources"][source]) for name in moved] for source in sources]
        follows = [f"{name}:\n{_attribute(by_name[name])}" for name in moved]
        matrix(panels[1], slopes, sources, follows, top=1.0, rotation=0 if len(moved) < 6 else 35)
        hatched = "; hatched: below 0, against the change" if any(below(v) for row in slopes for v in row) else ""
        panels[1].set_title(f"slope of the attribute in the draws: 0 ignored, 1 kept{hatched}", loc="left", pad=_ABOVE)
        _divide(panels[1], sum(by_name[name]["in_views"] for name in moved), len(moved))
    return drawn


def _divide(axes: Axes, inside: int, total: int) -> None:
    """A line between the transformations of the SSL views and the others, with words above."""
    if 0 < inside < total:
        axes.axvline(inside, color="black", linewidth=0.8)
        for x, words, side in ((inside - 0.1, "in usual SSL views", "right"), (inside + 0.1, "not in them", "left")):
            axes.annotate(
                words, (x, 1), xycoords=("data", "axes fraction"), ha=side, va="bottom", fontsize=5.5, style="italic"
            )


def _slope(numbers: Mapping[str, Any]) -> float:
    return numbers["transport"]["value"] if "transport" in numbers else float("nan")


def _attribute(one: Mapping[str, Any]) -> str:
    return next(n["transport"]["attribute"] for n in one["sources"].values() if "transport" in n).replace("_", " ")


def _curves(name: str, one: Mapping[str, Any], looks: Mapping[str, Look]) -> Figure:
    """Alignment and seen change over the strengths, and the slope of each source."""
    sources = list(one["sources"])
    slopes = {s: n["transport"] for s, n in one["sources"].items() if "transport" in n}
    drawn = figure(DOUBLE, max(1.9, 0.7 + 0.14 * len(sources)))
    panels = drawn.subplots(1, 3 if slopes else 2)
    for axes, measure, label in ((panels[0], "alignment", "alignment"), (panels[1], "seen", "seen change")):
        numbers = {source: by_name[measure] for source, by_name in one["sources"].items()}
        if len(one["strengths"]) > 1:
            _ladder(axes, numbers, one["strengths"], looks)
            axes.set_xlabel(f"{name}, {one['unit']}")
            axes.set_ylabel(label)
        else:
            interval_rows(axes, {source: n[0] for source, n in numbers.items()}, sources, looks)
            axes.set_xlim(left=-0.04 * axes.get_xlim()[1])  # room for marks at 0
            axes.set_xlabel(f"{label} (grey: another image)")
    if slopes:
        interval_rows(panels[2], slopes, sources, looks)
        panels[2].set_xlabel(f"slope of {_attribute(one)}\n(0 ignored, 1 kept)")
        panels[2].axvline(1, color="0.8", linewidth=0.6, zorder=0)
    level_legend(drawn, sources, looks, networks=len(one["strengths"]) > 1)
    return drawn


def _ladder(
    axes: Axes,
    numbers: Mapping[str, Sequence[Mapping[str, float]]],
    strengths: Sequence[float],
    looks: Mapping[str, Look],
) -> None:
    """A curve per source over the strengths, with intervals."""
    places = range(1, len(strengths) + 1)
    for source, ladder in numbers.items():
        band(axes, places, ladder, looks[source])
    null_line(axes, 1, label="another image")
    axes.set_xticks(places, [f"{s:g}" for s in strengths])
    axes.set_xlim(0.7, len(strengths) + 0.3)
    axes.set_ylim(bottom=0)


def _pictures(result: StudyResult, name: str, one: Mapping[str, Any]) -> Figure | None:
    """Images side by side, each at every strength; below them the draws of every source."""
    width = len(result.columns)
    at = {row: i * width for i, row in enumerate(result.rows)}
    steps = 1 + len(one["strengths"])
    shown = [i for i in range(len(result.rows)) if f"{name}, image {i}" in at]
    count = min(len(shown), max(1, int((DOUBLE - 1.4) / _READABLE / steps)))
    if not count:
        return None
    grid = []
    for source in ("", *one["sources"]):
        for i in shown[:count]:
            start = at[f"{name}, image {i}" + (f", {source}" if source else "")]
            grid += result.images[start : start + steps]
    columns = [f"{s:g}" if s else "none" for s in (0, *one["strengths"])] * count
    return grid_figures(grid, ["given", *one["sources"]], columns, smallest=0.1, block=steps)[0]
