"""Retention: what share of each attribute every source keeps, and whether the draws are honest about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from rcdm.figures import general
from rcdm.figures.intervals import interval_panels
from rcdm.figures.style import Look
from rcdm.studies.result import StudyResult


def figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Retention and calibration, a panel per attribute; the draws of the first images."""
    kept: dict[str, dict[str, Any]] = {}
    honest: dict[str, dict[str, Any]] = {}
    for source, attributes in result.numbers["sources"].items():
        for name, number in attributes.items():
            probe = number.get("probe")
            value = probe["value"] if isinstance(probe, Mapping) else probe
            kept.setdefault(name, {})[source] = number if value is None else {**number, "other": value}
            honest.setdefault(name, {})[source] = _calibration(number)
    main = interval_panels(
        kept,
        looks,
        xlabel="retention: share of the attribute's variance that the representation fixes (1 kept, 0 gone)",
        value="retention, 95 % interval",
        null="unconditional draws",
        other="probe R²" if any("other" in n for rows in kept.values() for n in rows.values()) else "",
        limits=(-1.0, 1.1),
    )
    calibration = interval_panels(
        honest,
        looks,
        xlabel="calibration ρ: 1 exact, above 1 too certain; unstable where retention is above 0.9",
        value="calibration, 95 % interval",
        null="exact posterior draws",
        limits=(0.0, 4.0),
    )
    return {"": main, "calibration": calibration} | general.images(result, group=min(4, result.numbers["images"]))


def _calibration(number: Mapping[str, Any]) -> dict[str, Any]:
    low, high = number.get("calibration_interval", [number["calibration"]] * 2)
    return {"value": number["calibration"], "low": low, "high": high, "null": 1.0}
