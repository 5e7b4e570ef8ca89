"""Interpolation: how similar the draws along the path are to both ends, and where they jump."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rcdm.figures import general
from rcdm.figures.curves import level_legend, network_panels
from rcdm.figures.style import Look, null_line
from rcdm.studies.result import StudyResult


def figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Similarity to the first (falling) and second image (rising) and the jumps; the draws along the path."""
    numbers = result.numbers
    ratios, found = numbers["ratios"], numbers["sources"]
    between = [(a + b) / 2 for a, b in pairwise(ratios)]

    def similarity(axes: Axes, source: str) -> None:
        axes.plot(ratios, found[source]["to_first"], **looks[source].curve)
        axes.plot(ratios, found[source]["to_second"], **{**looks[source].curve, "marker": "", "linewidth": 0.9})

    def jumps(axes: Axes, source: str) -> None:
        axes.plot(between, found[source]["jumps"], **looks[source].curve)
        null_line(axes, 1 / (len(ratios) - 1))

    panels = [("similarity", similarity), ("jump", jumps)]
    drawn = network_panels(list(found), panels, xlabel="ratio: 0 first, 1 second image")
    for axes in drawn.axes[len(drawn.axes) // 2 :]:
        axes.set_ylim(bottom=0)
    level_legend(drawn, list(found), looks, null="an even path", grey="unmarked: to the second image")
    return {"": drawn} | general.images(result, group=len(numbers["seeds"]))
