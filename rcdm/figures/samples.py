"""Samples: how similar the draws are to the given representation, how much they vary, and the draws themselves."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from rcdm.figures import general
from rcdm.figures.grids import Maps
from rcdm.figures.style import Look
from rcdm.studies.result import StudyResult


def figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Similarity and spread of each source; images with the map of their spread in colour."""
    maps = Maps(("spread",), 1.0, "spread: pixel deviation over draws") if "spread" in result.columns else None
    panels = general.numbers_of(result, looks)
    null = "of the next image's representation" + ("; nearest: of the given images" if "nearest" in panels else "")
    numbers = general.measures(panels, looks, null=null)
    return numbers | general.images(result, maps=maps, group=len(result.numbers["sources"]))
