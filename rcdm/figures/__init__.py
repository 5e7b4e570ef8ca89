"""A study's result -> its figures: numbers as plots with intervals and nulls, and the images in rows and columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import matplotlib
from matplotlib.figure import Figure

from rcdm.figures import (
    adversarial,
    general,
    information,
    interpolation,
    invariance,
    levels,
    manipulation,
    out_of_distribution,
    retention,
    samples,
    spectrum,
    width,
)
from rcdm.figures.captions import captions_of
from rcdm.figures.style import STYLE, Look, looks, save
from rcdm.studies.result import StudyResult

Draw = Callable[[StudyResult, Mapping[str, Look]], dict[str, Figure]]

FIGURES: dict[str, Draw] = {
    "samples": samples.figures,
    "retention": retention.figures,
    "information": information.figures,
    "invariance": invariance.figures,
    "interpolation": interpolation.figures,
    "manipulation": manipulation.figures,
    "adversarial": adversarial.figures,
    "levels": levels.figures,
    "spectrum": spectrum.figures,
    "width": width.figures,
    "out_of_distribution": out_of_distribution.figures,
}
"""Study -> its figures: key "" is the main one, of the numbers; "images" and others stand beside it.

A study that is not here has those of `general`.
"""


def figures_of(study: str, result: StudyResult, sources: Iterable[str]) -> dict[str, Figure]:
    """The figures of a result; `sources` are all that the checkpoint has, so that each keeps its colour."""
    with matplotlib.rc_context(STYLE):
        return FIGURES.get(study, general.figures)(result, looks(sources))


__all__ = ["FIGURES", "captions_of", "figures_of", "save"]
