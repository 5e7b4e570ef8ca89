"""Levels: what each level of a network holds, from its first stage to the end of its projector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rcdm.figures import general, style
from rcdm.figures.result import StudyResult
from rcdm.figures.style import DOUBLE, Look, band, figure, null_line
from rcdm.networks.sources import CONTROL

CAPTIONS = {
    "": "Each level of the networks: linear probe of the class, effective rank, and, where the checkpoint has a "
    "decoder, bits and cycle error. Dotted: chance.",
    "attributes": "Each attribute over the levels: held-out R² of a ridge probe, and retention in the draws.",
    "transformations": "How well a probe tells from each level what was done to the image. Dotted: chance.",
    "images": "Draws of one image from every level that the checkpoint has a decoder for.",
}
"""Key of a figure -> what it shows."""

Curves = dict[str, dict[str, Mapping[str, Any]]]
"""Network -> level -> number."""


def figures(result: StudyResult, given: Mapping[str, Look]) -> dict[str, Figure]:
    """Class, rank and bits over the levels; then each attribute, and each transformation that a probe tells."""
    levels = {network: found["levels"] for network, found in result.numbers["networks"].items()}
    names = _in_depth(levels)
    own = {source.partition("/")[0] for source in given}
    looks = style.looks([*given, *(f"{network}/backbone" for network in levels if network not in own)])
    look = {network: looks[f"{network}/backbone"] for network in levels if f"{network}/backbone" in looks}
    look |= {n: next(looks[s] for s in looks if s.partition("/")[0] == n) for n in levels if n not in look}

    control = [network for network, found in result.numbers["networks"].items() if found.get("objective") == CONTROL]

    def panels(measures: Mapping[str, tuple[Curves, Curves]]) -> Figure:
        return _panels({title: curves for title, curves in measures.items() if curves[0]}, names, look, control)

    main: dict[str, tuple[Curves, Curves]] = {
        "linear probe, top-1": (_one(levels, "linear_top1"), {}),
        "effective rank": (_one(levels, "effective_rank"), {}),
        "bits per image": (_one(levels, "bits"), {}),
        "cycle error": (_one(levels, "cycle_error"), {}),
    }
    tellings: dict[str, tuple[Curves, Curves]] = {
        f"telling {name}": (_of(levels, "transformation_probe", name), {})
        for name in _names(levels, "transformation_probe")
    }
    held = {
        name.replace("_", " "): (_of(levels, "ridge", name), _of(levels, "retention", name))
        for name in _names(levels, "ridge")
    }
    drawn = {"": panels(main), "attributes": panels(held), "transformations": panels(tellings)}
    return drawn | general.images(result)


def _in_depth(levels: Mapping[str, Iterable[str]]) -> list[str]:
    """The levels of all networks, each behind the one that it follows in its own network."""
    names: list[str] = []
    for own in levels.values():
        place = 0
        for level in own:
            if level not in names:
                names.insert(place, level)
            place = names.index(level) + 1
    return names


def _one(levels: Mapping[str, Any], measure: str) -> Curves:
    curves = {n: {k: m[measure] for k, m in own.items() if measure in m} for n, own in levels.items()}
    return {network: curve for network, curve in curves.items() if curve}


def _of(levels: Mapping[str, Any], measure: str, name: str) -> Curves:
    curves = {
        n: {k: m[measure][name] for k, m in own.items() if name in m.get(measure, {})} for n, own in levels.items()
    }
    return {network: curve for network, curve in curves.items() if curve}


def _names(levels: Mapping[str, Any], measure: str) -> Iterable[str]:
    return dict.fromkeys(name for own in levels.values() for m in own.values() for name in m.get(measure, {}))


def _panels(
    measures: Mapping[str, tuple[Curves, Curves]], names: list[str], look: Mapping[str, Look], control: list[str]
) -> Figure:
    """A panel per measure: curves of probes with intervals; large open markers where there are numbers of draws.

    The legend names networks, and those of `control` as what they are.
    """
    columns = min(4, max(1, len(measures)))
    lines = -(-len(measures) // columns)
    drawn = figure(DOUBLE if columns > 1 else DOUBLE / 2, 0.75 + 1.35 * lines)
    grid = drawn.subplots(lines, columns, squeeze=False, sharex=True)
    for axes, (title, (curves, draws)) in zip(grid.flat, measures.items(), strict=False):
        for network, curve in curves.items():
            _curve(axes, curve, names, look[network])
        for i, (network, curve) in enumerate(draws.items()):
            _points(axes, curve, names, look[network], 0.16 * (i - (len(draws) - 1) / 2))
        if draws:  # every value is seen, but not how far down each interval goes
            lowest = min(n["value"] for of in (curves, draws) for curve in of.values() for n in curve.values())
            axes.set_ylim(bottom=max(axes.get_ylim()[0], min(-0.5, 1.1 * lowest)))
        axes.set_title(title, loc="left")
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    for axes in list(grid.flat)[len(measures) :]:
        axes.set_axis_off()
    says = {network: f"{network} (control: pairs share the label)" for network in control}
    handles = [Line2D([], [], label=says.get(network, network), **one.curve) for network, one in look.items()]
    if any(draws for _, draws in measures.values()):
        ring: Any = {"marker": "o", "markersize": 5.5, "markerfacecolor": "white", "color": "0.3", "linewidth": 0}
        handles.append(Line2D([], [], label="retention in draws", **ring))
    drawn.legend(handles=handles, loc="outside upper center", ncols=min(6, len(handles)))
    return drawn


def _points(axes: Axes, curve: Mapping[str, Mapping[str, Any]], names: list[str], look: Look, aside: float) -> None:
    """Large open markers with thin intervals, a little aside so that networks do not cover each other."""
    for level, number in curve.items():
        x = names.index(level) + aside
        axes.plot([x, x], [number["low"], number["high"]], color=look.colour, linewidth=0.6)
        ring = {**look.point, "markerfacecolor": "white", "markersize": 5.5, "markeredgewidth": 0.9}
        axes.plot(x, number["value"], linewidth=0, zorder=3, **ring)


def _curve(axes: Axes, curve: Mapping[str, Mapping[str, Any]], names: list[str], look: Look) -> None:
    places = [names.index(level) for level in curve]
    band(axes, places, list(curve.values()), look)
    nulls = {round(n["null"], 6) for n in curve.values() if "null" in n}
    if len(nulls) == 1:
        null_line(axes, nulls.pop())
