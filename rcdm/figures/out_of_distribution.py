"""Out of distribution: how similar draws of unlike images are to what was given, beside those of usual ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from rcdm.figures import general
from rcdm.figures.intervals import interval_panels
from rcdm.figures.style import Look
from rcdm.studies.result import StudyResult

_MEASURES = {
    "similarity": ("similarity of the draws to the given representation (1 the same)", "of the next image's"),
    "cycle_error": ("cycle error: 0 the draw has the given h, 1 as far as another image", "of shuffled draws"),
    "distance": ("mean square of the standardised representation", "training images"),
}
"""Measure -> what it says, and its null."""


def figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """A figure per measure, a panel per kind of image; the images with a draw of each source."""
    found = result.numbers["sources"]
    drawn: dict[str, Figure] = {}
    for measure, (words, null) in _MEASURES.items():
        panels: dict[str, dict[str, Any]] = {}
        for source, one in found.items():
            for kind, number in one[measure].items():
                panels.setdefault(kind, {})[source] = number
        key = measure.replace("_", "-") if drawn else ""
        drawn[key] = interval_panels(panels, looks, xlabel=words, value="value, 95 % interval", null=null)
    return drawn | general.images(result)
