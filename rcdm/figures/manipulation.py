"""Manipulation: which attributes move along each direction, and the draws along it."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from rcdm.figures import general
from rcdm.figures.matrix import matrix
from rcdm.figures.style import DOUBLE, SINGLE, Look, figure, fill_handles
from rcdm.studies.result import StudyResult


def figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Direction x attribute, a table per source; or how many dimensions the neighbours share; the draws."""
    found = result.numbers["sources"]
    drawn = _moves(result) if all("moves" in one for one in found.values()) else _shared(result, looks)
    return {"": drawn} | general.images(result, group=len(result.numbers["seeds"]))


def _moves(result: StudyResult) -> Figure:
    moves = {source: one["moves"] for source, one in result.numbers["sources"].items()}
    columns = min(2, len(moves))
    lines = -(-len(moves) // columns)
    attributes = list(next(iter(next(iter(moves.values())).values())))
    most = max(len(ways) for ways in moves.values())
    drawn = figure(SINGLE if columns == 1 else DOUBLE, 0.75 + lines * (0.3 + 0.14 * most))
    grid = drawn.subplots(lines, columns, squeeze=False, sharex=True)
    values = [value for ways in moves.values() for way in ways.values() for value in way.values()]
    top = min(max([*values, 0.1]), 1.0)
    names = [name.replace("_", " ") for name in attributes]
    for axes, (source, ways) in zip(grid.flat, moves.items(), strict=False):
        table = [[way.get(name, float("nan")) for name in attributes] for way in ways.values()]
        matrix(axes, table, [name.replace("_", " ") for name in ways], names, top=top)
        axes.set_title(source, loc="left")
    for axes in list(grid.flat)[len(moves) :]:
        axes.set_axis_off()
    drawn.supxlabel("movement per step of one deviation, in deviations of the attribute", fontsize=7)
    return drawn


def _shared(result: StudyResult, looks: Mapping[str, Look]) -> Figure:
    found = result.numbers["sources"]
    drawn = figure(SINGLE, 0.6 + 0.17 * len(found))
    axes = drawn.subplots()
    for place, (source, one) in enumerate(found.items()):
        counts = [len(dims) for dims in one["dimensions"]]
        axes.plot(counts, [place] * len(counts), linewidth=0, **looks[source].point)
    if handles := fill_handles(found, looks):
        drawn.legend(handles=handles, loc="outside upper center", ncols=3)
    one = next(iter(found.values()))
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.4, -0.6)
    most = max(len(dims) for each in found.values() for dims in each["dimensions"])
    axes.set_xlim(0, 1.04 * max(most, 1))
    axes.set_xlabel(
        f"shared dimensions, of each image: active in\nmore than {one['more_than']} of {one['neighbours']} neighbours"
    )
    return drawn
