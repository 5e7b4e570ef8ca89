"""Information: bits per image by both estimates, backbone minus projector, and the maps of where h speaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rcdm.figures import general
from rcdm.figures.grids import Maps
from rcdm.figures.intervals import interval_rows, marks
from rcdm.figures.style import DOUBLE, SINGLE, Look, figure, fill_handles, null_line
from rcdm.studies.result import StudyResult


def figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Bits with intervals; the paired differences beside them where there are any; maps on one scale in colour."""
    numbers = result.numbers
    rows = {
        source: {**found["form_1"], "other": found["form_2"]["value"]} for source, found in numbers["sources"].items()
    }
    gaps = numbers.get("differences", {})
    drawn = figure(DOUBLE if gaps else SINGLE, 0.75 + 0.15 * len(rows))
    axes = drawn.subplots(1, 2 if gaps else 1, squeeze=False)[0]
    interval_rows(axes[0], rows, list(rows), looks)
    low, high = numbers["logsnr"]
    axes[0].set_xlabel(f"bits per image, ln SNR {low:g} … {high:g}".replace("-", "−"))
    if gaps:
        _differences(axes[1], gaps, looks)
    handles = [*marks("form 1, 95 % interval", "form 1 of another image's h", "form 2"), *fill_handles(rows, looks)]
    drawn.legend(handles=handles, loc="outside upper center", ncols=6 if gaps else 2)
    maps = Maps(result.columns[1:], numbers.get("white", 1.0), "bits per pixel (form 2)")
    return {"": drawn} | general.images(result, maps=maps)


def _differences(axes: Axes, gaps: Mapping[str, Mapping[str, Any]], looks: Mapping[str, Look]) -> None:
    """Backbone minus projector of each network; a hollow mark where the difference is limited by the decoder."""
    networks = [name.partition("/")[0] for name in gaps]
    for place, (name, gap) in enumerate(gaps.items()):
        look = looks[name.partition(" − ")[0]]
        axes.plot([gap["low"], gap["high"]], [place, place], color=look.colour, linewidth=1.2)
        face = "white" if gap["limited_by_decoder"] else look.face
        axes.plot(gap["value"], place, linewidth=0, **{**look.point, "markerfacecolor": face})
    null_line(axes, 0, across=False)
    axes.set_yticks(range(len(networks)), networks)
    axes.set_ylim(len(networks) - 0.4, -0.6)
    axes.grid(axis="x", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    hollow = "\nhollow: negative, limited by the decoder" if any(g["limited_by_decoder"] for g in gaps.values()) else ""
    axes.set_xlabel(f"backbone − projector, bits (paired){hollow}")
