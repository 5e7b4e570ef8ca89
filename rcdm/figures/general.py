"""What can be drawn of any result: a panel per measure with an interval for each source, and the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from rcdm.figures.grids import Maps, grid_figures
from rcdm.figures.intervals import Rows, interval_panels
from rcdm.figures.result import StudyResult
from rcdm.figures.style import Look


def figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Every number with an interval that `sources` holds for a source, and all images."""
    panels = numbers_of(result, looks)
    return (measures(panels, looks) if panels else {}) | images(result)


def numbers_of(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, dict[str, Any]]:
    """Measure -> source -> number, of those with an interval."""
    panels: dict[str, dict[str, Any]] = {}
    for source, numbers in result.numbers.get("sources", {}).items():
        for name, number in numbers.items():
            if isinstance(number, Mapping) and {"value", "low"} <= set(number) and source in looks:
                panels.setdefault(name, {})[source] = number
    return panels


def measures(panels: Mapping[str, Rows], looks: Mapping[str, Look], *, null: str = "null") -> dict[str, Figure]:
    """The main figure: a panel per measure."""
    return {"": interval_panels(panels, looks, xlabel="", value="value, 95 % interval", null=null)}


def images(result: StudyResult, *, maps: Maps | None = None, group: int = 1) -> dict[str, Figure]:
    """The images of a result, on as many pages as they need; `images` is the first."""
    if not result.images:
        return {}
    pages = grid_figures(result.images, _short(result.rows), result.columns, maps=maps, group=group)
    return {"images" if i == 0 else f"images-{i + 1}": page for i, page in enumerate(pages)}


def _short(labels: Sequence[str]) -> list[str]:
    """Labels without those of their parts that all of them share, such as the only seed."""
    parts = [label.split(", ") for label in labels]
    if len(parts) < 2 or len({len(part) for part in parts}) > 1:
        return list(labels)
    differing = [i for i, values in enumerate(zip(*parts, strict=True)) if len(set(values)) > 1]
    return [", ".join(part[i] if "/" in part[i] else part[i].replace("_", " ") for i in differing) for part in parts]
