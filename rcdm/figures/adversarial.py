"""Adversarial: how far the representation goes with the strength of the attack, and what is then drawn."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rcdm.figures import general
from rcdm.figures.curves import level_legend, network_panels
from rcdm.figures.style import Look, band, null_line
from rcdm.studies.result import StudyResult


def figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Distance under attack with random changes in grey beside it, distance of the draws, class flips; the images."""
    numbers = result.numbers
    found, strengths = numbers["sources"], numbers["strengths_of_255"]
    places = range(len(strengths))

    def distance(axes: Axes, source: str) -> None:
        band(axes, places, found[source]["distance"], looks[source])
        axes.plot(places, [n["value"] for n in found[source]["random"]], color="0.6", linewidth=0.8, zorder=1)
        null_line(axes, 1, label="another image")

    def drawn_distance(axes: Axes, source: str) -> None:
        band(axes, places, found[source]["drawn"], looks[source])
        null_line(axes, 1, label="another image")

    def flips(axes: Axes, source: str) -> None:
        if "flips" in found[source]:
            band(axes, places, found[source]["flips"], looks[source])

    panels = [("distance of h", distance), ("distance of draws' h", drawn_distance)]
    if any("flips" in one for one in found.values()):
        panels.append(("class flips", flips))
    drawn = network_panels(list(found), panels, xlabel="largest change, of 255")
    drawn.axes[0].set_xticks(places, [str(s) for s in strengths])
    for axes in drawn.axes:
        if (top := axes.get_ylim()[1]) > 5:
            axes.set_yscale("symlog", linthresh=1, linscale=0.8)  # straight up to 1, then by powers of ten
            axes.set_yticks([y for y in (0, 0.5, 1, 2, 5, 10, 20, 50, 100) if y < top], minor=False)
            axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=0)
    level_legend(drawn, list(found), looks, grey="random change")
    return {"": drawn} | general.images(result, group=2)
