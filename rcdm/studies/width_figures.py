"""Width control: what is lost from backbone to projector by fewer dimensions, and what by invariance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rcdm.figures import general
from rcdm.figures.result import StudyResult
from rcdm.figures.style import DOUBLE, Look, figure, null_line

CAPTIONS = {
    "": "What is lost from backbone to projector, of a ridge probe's R² in each attribute: by fewer dimensions "
    "(principal components of the backbone), and by what remains.",
    "retention": "The same for retention in the draws.",
    "bits": "The same for bits per image.",
    "images": "Draws from the backbone, from its principal components, and from the projector.",
}
"""Key of a figure -> what it shows."""

_STEPS = {"by_width": ("o", "by fewer dimensions"), "by_invariance": ("D", "by what remains")}
_LABELS = {
    "ridge": "loss of probe R²",
    "retention": "loss of retention",
    "bits": "loss of bits per image",
}


def figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """A figure per measure of several attributes: a column per network, a row of panels per reduced variant."""
    networks = {name: reduced for name, reduced in result.numbers["networks"].items() if reduced}
    drawn: dict[str, Figure] = {}
    for measure, label in _LABELS.items():
        of = {n: {v: m[measure] for v, m in reduced.items() if measure in m} for n, reduced in networks.items()}
        if of := {network: variants for network, variants in of.items() if variants}:
            drawn["" if not drawn else measure] = _losses(of, looks, label)
    return drawn | general.images(result)


def _losses(networks: Mapping[str, Mapping[str, Any]], looks: Mapping[str, Look], label: str) -> Figure:
    lines = max(len(variants) for variants in networks.values())
    attributes = len(next(iter(next(iter(networks.values())).values())))
    drawn = figure(DOUBLE if len(networks) > 1 else DOUBLE / 2, 0.65 + lines * (0.5 + 0.17 * attributes))
    grid = drawn.subplots(lines, len(networks), squeeze=False, sharex=True, sharey=True)
    for column, (network, variants) in enumerate(networks.items()):
        for axes, (variant, cells) in zip(grid[:, column], variants.items(), strict=False):
            _panel(axes, cells, looks[f"{network}/backbone"])
            axes.set_title(f"{network}\n{variant.rpartition(', ')[2]}", loc="left")
        for axes in grid[len(variants) :, column]:
            axes.set_axis_off()
    if attributes > 1:  # shares: long intervals are cut, or they would hide all else
        cells = [cell for variants in networks.values() for own in variants.values() for cell in own.values()]
        reach = max(1.5, 1.1 * max(abs(cell[step]["value"]) for cell in cells for step in _STEPS))
        low, high = grid[0, 0].get_xlim()
        grid[0, 0].set_xlim(max(low, -reach), min(high, reach))
    drawn.supxlabel(f"{label}, backbone to projector", fontsize=7)
    handles = [
        Line2D([], [], color="0.2", marker=marker, label=words, markerfacecolor="0.2" if i == 0 else "white")
        for i, (marker, words) in enumerate(_STEPS.values())
    ]
    drawn.legend(handles=handles, loc="outside upper center", ncols=2)
    return drawn


def _panel(axes: Axes, cells: Mapping[str, Any], look: Look) -> None:
    """An attribute per row: both losses with their intervals."""
    for place, steps in enumerate(cells.values()):
        for i, (step, (marker, _)) in enumerate(_STEPS.items()):
            number, y = steps[step], place - 0.17 + 0.34 * i
            axes.plot([number["low"], number["high"]], [y, y], color=look.colour, linewidth=1)
            face = look.colour if i == 0 else "white"
            axes.plot(number["value"], y, marker=marker, color=look.colour, markerfacecolor=face, linewidth=0)
    null_line(axes, 0, across=False)
    axes.set_yticks(range(len(cells)), [name.replace("_", " ") for name in cells])
    axes.set_ylim(len(cells) - 0.5, -0.5)
