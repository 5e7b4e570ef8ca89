"""Spectrum: how many directions a representation uses, and what the projector does to the differences between views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rcdm.figures import general
from rcdm.figures.curves import level_legend
from rcdm.figures.intervals import interval_rows
from rcdm.figures.style import DOUBLE, Look, band, figure, looks, null_line
from rcdm.studies.result import StudyResult


def figures(result: StudyResult, given: Mapping[str, Look]) -> dict[str, Figure]:
    """Singular values and ranks of each source; then the views of each network against their strength."""
    found = result.numbers["sources"]
    look = looks([*given, *(source for source in found if source not in given)])
    drawn = {"": _spectra(found, look)}
    if any(one["strengths"] for one in result.numbers["networks"].values()):
        drawn["views"] = _views(result.numbers["networks"], look)
    return drawn | general.images(result)


def _spectra(found: Mapping[str, Any], look: Mapping[str, Look]) -> Figure:
    drawn = figure(DOUBLE, max(2.1, 0.7 + 0.14 * len(found)))
    left, right = drawn.subplots(1, 2)
    for source, one in found.items():
        values = [value / one["singular_values"][0] for value in one["singular_values"] if value > 0]
        one_look = look[source]
        left.plot(range(1, len(values) + 1), values, color=one_look.colour, linestyle=one_look.line, linewidth=1)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_ylim(bottom=1e-4)
    left.set_xlabel("number of the singular value")
    left.set_ylabel("singular value, over the largest")
    interval_rows(right, {s: one["effective_rank"] | {"other": one["rankme"]["value"]} for s, one in found.items()},
                  list(found), look)  # fmt: skip
    right.set_xlim(left=0)
    right.set_xlabel("effective rank with 95 % interval; cross: RankMe")
    level_legend(drawn, list(found), look, networks=True)
    return drawn


def _views(networks: Mapping[str, Any], look: Mapping[str, Look]) -> Figure:
    """Variance between views in backbone and projector, what the projector removes, hears, and at which angle."""
    shown = {name: one["strengths"] for name, one in networks.items() if one["strengths"]}
    drawn = figure(DOUBLE, 2.2)
    panels = drawn.subplots(1, 4)
    for network, steps in shown.items():
        own = {level: look[f"{network}/{level}"] for level in ("backbone", "projector")}
        for level, one in own.items():
            _over_strength(panels[0], steps, level, one)
        for axes, measure in zip(panels[1:], ("removed", "heard", "angle"), strict=True):
            _over_strength(axes, steps, measure, own["backbone"])
    labels = ("view variance", "removed by the projector", "heard by the projector", "mean principal angle (°)")
    for axes, label in zip(panels, labels, strict=True):
        axes.set_ylabel(label)
        axes.set_xlabel("strength of the views")
    null_line(panels[1], 0)
    sources = [f"{network}/{level}" for network in shown for level in ("backbone", "projector")]
    level_legend(drawn, sources, look, networks=True)
    return drawn


def _over_strength(axes: Axes, steps: list[Mapping[str, Any]], measure: str, look: Look) -> None:
    there = [step for step in steps if measure in step]
    if there:
        band(axes, [step["strength"] for step in there], [step[measure] for step in there], look)
        nulls = [step[measure].get("null") for step in there]
        if measure in ("heard", "angle") and None not in nulls:
            axes.add_line(
                Line2D([s["strength"] for s in there], nulls, color=look.colour, linestyle=":", linewidth=0.8)
            )
