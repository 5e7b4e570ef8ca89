"""Out of distribution: how well draws keep the representation of images unlike the training set, and the draws."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from rcdm.figures import general
from rcdm.figures.intervals import interval_panels
from rcdm.figures.style import Look
from rcdm.studies.result import StudyResult

_ALL = (-1e9, 1e9)
_MEASURES = {
    "": ("similarity", "similarity of the draws to the given representation", "to the next image's", _ALL),
    "drop": ("drop", "similarity of the draws lost against the image as given", "none", _ALL),
    "cycle-error": (
        "cycle_error",
        "cycle error of the draws: 0 the given representation",
        "shuffled draws",
        (0.0, 4.0),
    ),
    "distance": ("distance", "mean square of the standardised representation", "training images", _ALL),
}
"""Key of a figure -> measure, what it says, what its null is, and the range that all panels share."""


def figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """A panel per kind of image, a row per source; the first images of each kind with their draws."""
    drawn = {}
    for key, (measure, says, null, limits) in _MEASURES.items():
        panels: dict[str, dict[str, Mapping[str, float]]] = {}
        for source, found in result.numbers["sources"].items():
            for kind, number in found[measure].items():
                panels.setdefault(kind, {})[source] = number
        drawn[key] = interval_panels(panels, looks, xlabel=says, value="value, 95 % interval", null=null, limits=limits)
    kinds = len(result.numbers["images"])
    return drawn | general.images(result, group=len(result.rows) // kinds if len(result.rows) % kinds == 0 else 1)
