"""How retention is shown: beside its null and probes, calibration, differences of levels, and a second answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from rcdm.figures import general
from rcdm.figures.curves import level_legend
from rcdm.figures.intervals import interval_panels
from rcdm.figures.result import StudyResult
from rcdm.figures.style import DOUBLE, SINGLE, Look, figure
from rcdm.measures.retention import below_zero


def retention_figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
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
        note="wholly below 0: draws vary more than the images or are off; more steps, and see the calibration"
        if below_zero(result.numbers["sources"])
        else "",
    )
    calibration = interval_panels(
        honest,
        looks,
        xlabel="calibration ρ: 1 exact, above 1 too certain; unstable where retention is above 0.9",
        value="calibration, 95 % interval",
        null="exact posterior draws",
        limits=(0.0, 4.0),
    )
    drawn = {"": main, "calibration": calibration}
    if differences := result.numbers.get("differences"):
        drawn["differences"] = _differences_figure(differences, looks)
    if "agreement" in result.numbers:
        drawn["agreement"] = _agreement_figure(result.numbers, looks)
    if "cross_check" in result.numbers:
        drawn["cross-check"] = _cross_check_figure(result.numbers["cross_check"], looks)
    return drawn | general.images(result, group=min(4, result.numbers["images"]))


def _differences_figure(differences: Mapping[str, Any], looks: Mapping[str, Look]) -> Figure:
    """A panel per attribute, a row per network; hollow where it may be chance."""
    names = list(next(iter(differences.values())))
    panels = {name: {network: found[name] for network, found in differences.items()} for name in names}
    drawn = interval_panels(
        panels,
        {network: looks[f"{network}/backbone"] for network in differences},
        xlabel="retention: backbone − projector",
        value="difference, 95 % interval (hollow: may be chance)",
        null="no difference",
        limits=(-1.5, 1.5),
    )
    for axes, name in zip(drawn.axes, names, strict=False):
        for place, (network, found) in enumerate(differences.items()):
            if found[name]["p_holm"] >= 0.05:
                marker = looks[f"{network}/backbone"].marker
                axes.plot(found[name]["value"], place, marker, markersize=2.2, color="white", zorder=4)
    return drawn


def _agreement_figure(numbers: Mapping[str, Any], looks: Mapping[str, Look]) -> Figure:
    """Retention against the R² of each probe, a point per source and attribute."""
    probes = {"ridge": "ridge probe", "probe": "small network"}
    drawn = figure(DOUBLE if len(numbers["agreement"]) > 1 else SINGLE, 2.7)
    panels = drawn.subplots(1, len(numbers["agreement"]), squeeze=False, sharey=True)[0]
    for axes, (probe, rho) in zip(panels, numbers["agreement"].items(), strict=True):
        for source, attributes in numbers["sources"].items():
            points = [(n[probe], n["value"]) for n in attributes.values()]
            axes.plot(*zip(*points, strict=True), linewidth=0, **looks[source].point)
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, zorder=0)
        axes.set_title(f"Spearman {rho['value']:.2f} ({rho['low']:.2f} … {rho['high']:.2f})", loc="left")
        axes.set_xlabel(f"R² of the {probes[probe]}")
    panels[0].set_ylabel("retention")
    level_legend(drawn, list(numbers["sources"]), looks, networks=True)
    return drawn


def _calibration(number: Mapping[str, Any]) -> dict[str, Any]:
    low, high = number.get("calibration_interval", [number["calibration"]] * 2)
    return {"value": number["calibration"], "low": low, "high": high, "null": 1.0}


def _cross_check_figure(found: Mapping[str, Any], looks: Mapping[str, Look]) -> Figure:
    """Retention in the draws of the trained decoder and in guided ones, a point per source and attribute."""
    drawn, lowest = figure(SINGLE, 3.0), -0.5
    axes = drawn.subplots()
    for source, attributes in found.items():
        for cell in attributes.values():
            one, two = cell["trained"], cell["guided"]
            lowest = min(lowest, one["value"], two["value"])
            shape = [[v["value"] - v["low"], v["high"] - v["value"]] for v in (one, two)]
            spans = [[[max(0.0, part)] for part in parts] for parts in shape]
            look = {**looks[source].point, "linewidth": 0, "elinewidth": 0.6}
            axes.errorbar(one["value"], two["value"], xerr=spans[0], yerr=spans[1], **look)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlim(lowest - 0.1, 1.1)
    axes.set_ylim(lowest - 0.1, 1.1)
    axes.set_xlabel("retention, trained decoder")
    axes.set_ylabel("retention, guided prior")
    level_legend(drawn, list(found), looks, networks=True)
    return drawn
