"""What backbones hold at each level, by the probes of their pretraining: a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rcdm.figures.style import DOUBLE, SINGLE, STYLE, band, figure, looks, null_line

Sources = Mapping[str, Mapping[str, Any]]
"""Name of a network -> its metrics.json (see `ssl.source_metrics.measure_source`)."""


def levels_table(sources: Sources) -> str:
    """Method x level: linear-probe top-1 (kNN-20 top-1) in per cent, and projector minus backbone."""
    names = _by_depth(sources)
    lines = ["| network | " + " | ".join(names) + " | projector − backbone |", "|---" * (len(names) + 2) + "|"]
    for name, metrics in sources.items():
        levels = metrics["levels"]
        cells = [
            f"{_percent(levels[n]['linear_top1'])} ({_percent(levels[n]['knn20'])})" if n in levels else ""
            for n in names
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {_gap(levels)} |")
    n = ", ".join(sorted({str(metrics["n"]) for metrics in sources.values()}))
    chance = next(iter(next(iter(sources.values()))["levels"].values()))["linear_top1"]["null"]
    return f"Linear probe top-1 (kNN-20 top-1) in %, N {n} held-out images, chance {100 * chance:.1f}.\n\n" + "\n".join(
        lines
    )


def _by_depth(sources: Sources) -> list[str]:
    """The levels of all networks; the end of the longest projector comes last."""
    names = dict.fromkeys(level for metrics in sources.values() for level in metrics["levels"])
    return sorted(names, key=lambda name: name == "projector")


def levels_figure(sources: Sources, sweep: Mapping[float, Mapping[str, Any]] | None = None) -> Figure:
    """Linear-probe accuracy along the levels, one line per network; with a sweep, effective rank by view strength.

    `sweep`: factor of the view strengths -> metrics.json of the network that was trained with it.
    """
    with matplotlib.rc_context(STYLE):
        drawn = figure(DOUBLE if sweep else SINGLE, 2.4)
        panels = drawn.subplots(1, 2 if sweep else 1, squeeze=False)[0]
        names = _by_depth(sources)
        of = looks(sources)
        for name, metrics in sources.items():
            present = [level for level in names if level in metrics["levels"]]
            numbers = [metrics["levels"][level]["linear_top1"] for level in present]
            band(panels[0], [names.index(level) for level in present], numbers, of[name])
        null_line(panels[0], numbers[0]["null"], label="chance")
        panels[0].set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
        panels[0].set_ylabel("linear probe, top-1")
        handles = [Line2D([], [], label=name, **of[name].curve) for name in sources]
        panels[0].legend(handles=handles, ncols=1 + len(handles) // 4)
        if sweep:
            _sweep(panels[1], sweep)
    return drawn


def _sweep(axes: Axes, sweep: Mapping[float, Mapping[str, Any]]) -> None:
    """Effective rank of the backbone and the projector against the strength of the views."""
    strengths = sorted(sweep)
    of = looks(["simclr/backbone", "simclr/projector"])
    for source, look in of.items():
        level = source.partition("/")[2]
        numbers = [sweep[strength]["levels"][level]["effective_rank"] for strength in strengths]
        band(axes, strengths, numbers, look)
    axes.set_xticks(strengths)
    axes.set_xlabel("strength of the views")
    axes.set_ylabel(f"effective rank (N {sweep[strengths[0]]['n']})")
    axes.set_ylim(bottom=0)
    axes.legend(handles=[Line2D([], [], label=s.partition("/")[2], **look.curve) for s, look in of.items()])


def _percent(number: Mapping[str, float]) -> str:
    return f"{100 * number['value']:.1f}"


def _gap(levels: Mapping[str, Any]) -> str:
    if "projector" not in levels:
        return ""
    gap = levels["projector"]["linear_top1"]["value"] - levels["backbone"]["linear_top1"]["value"]
    return f"{100 * gap:+.1f}"
