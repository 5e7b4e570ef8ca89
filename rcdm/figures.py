"""Numbers -> matplotlib figures and Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

Sources = Mapping[str, Mapping[str, Any]]
"""Name of a network -> its metrics.json (see `ssl.source_metrics.measure_source`)."""


def levels_table(sources: Sources) -> str:
    """Method x level: linear-probe top-1 (kNN-20 top-1) in per cent, and projector minus backbone."""
    names = list(dict.fromkeys(level for metrics in sources.values() for level in metrics["levels"]))
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


def levels_figure(sources: Sources, sweep: Mapping[float, Mapping[str, Any]] | None = None) -> Figure:
    """Linear-probe accuracy along the levels, one line per network; with a sweep, effective rank by view strength.

    `sweep`: factor of the view strengths -> metrics.json of the network that was trained with it.
    """
    figure = Figure(figsize=(11 if sweep else 6.5, 4), layout="constrained")
    axes = figure.subplots(1, 2 if sweep else 1, squeeze=False)[0]
    names = list(dict.fromkeys(level for metrics in sources.values() for level in metrics["levels"]))
    for name, metrics in sources.items():
        present = [level for level in names if level in metrics["levels"]]
        numbers = [metrics["levels"][level]["linear_top1"] for level in present]
        places = [names.index(level) for level in present]
        line = axes[0].plot(places, [n["value"] for n in numbers], marker="o", markersize=3, label=name)[0]
        low, high = ([n[end] for n in numbers] for end in ("low", "high"))
        axes[0].fill_between(places, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    axes[0].axhline(numbers[0]["null"], color="grey", linestyle=":", linewidth=1)
    axes[0].text(0, numbers[0]["null"], " chance", va="bottom", color="grey", fontsize=8)
    axes[0].set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes[0].set_ylabel("linear probe, top-1")
    axes[0].legend(frameon=False, fontsize=8)
    if sweep:
        strengths = sorted(sweep)
        for level in ("backbone", "projector"):
            ranks = [sweep[strength]["levels"][level]["effective_rank"]["value"] for strength in strengths]
            axes[1].plot(strengths, ranks, marker="o", label=level)
        axes[1].set_xticks(strengths)
        axes[1].set_xlabel("strength of the views")
        axes[1].set_ylabel(f"effective rank (N {sweep[strengths[0]]['n']})")
        axes[1].set_ylim(bottom=0)
        axes[1].legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _percent(number: Mapping[str, float]) -> str:
    return f"{100 * number['value']:.1f}"


def _gap(levels: Mapping[str, Any]) -> str:
    gap = levels["projector"]["linear_top1"]["value"] - levels["backbone"]["linear_top1"]["value"]
    return f"{100 * gap:+.1f}"
