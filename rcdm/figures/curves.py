"""Curves of several sources, a column of panels per network so that they can be told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rcdm.figures.style import DOUBLE, FILLS, NULL, SINGLE, Look, by_network, figure


def network_panels(
    sources: Sequence[str], rows: Sequence[tuple[str, Callable[[Axes, str], None]]], *, xlabel: str
) -> Figure:
    """A column per network, a line of panels per measure: `rows` are its y label and what draws a source into axes."""
    networks = by_network(sources)
    columns = len(networks)
    width = SINGLE if columns == 1 else min(DOUBLE, 0.5 + 1.6 * columns)
    drawn = figure(width, 0.55 + 1.25 * len(rows))
    grid = drawn.subplots(len(rows), columns, squeeze=False, sharex=True, sharey="row")
    for column, (network, own) in enumerate(networks.items()):
        for line, (label, draw) in enumerate(rows):
            axes = grid[line, column]
            for source in own:
                draw(axes, source)
            if column == 0:
                axes.set_ylabel(label)
        grid[0, column].set_title(network, loc="left")
    for axes in grid[-1]:
        axes.set_xlabel(xlabel)
    return drawn


def level_legend(
    drawn: Figure,
    sources: Sequence[str],
    looks: Mapping[str, Look],
    *,
    networks: bool = False,
    null: str = "",
    grey: str = "",
) -> None:
    """What filled, open and pale markers, and with `networks` colours, stand for; `null` names the dotted line.

    `grey` names a thin grey one.
    """
    levels: dict[str, Look] = {}
    for source in sources:
        levels.setdefault(source.partition("/")[2], looks[source])
    handles = []
    for level, look in levels.items():
        face = FILLS[look.fill]
        handles.append(Line2D([], [], label=level, color="0.2", linestyle=look.line, marker="o", markerfacecolor=face))
    for network, own in by_network(sources).items() if networks else ():
        colour, marker = looks[own[0]].colour, looks[own[0]].marker
        handles.append(Line2D([], [], label=network, color=colour, marker=marker, markerfacecolor=colour))
    if null:
        handles.append(Line2D([], [], label=null, **{key: value for key, value in NULL.items() if key != "zorder"}))
    if grey:
        handles.append(Line2D([], [], label=grey, color="0.6", linewidth=0.8))
    columns = 6 if drawn.get_figwidth() > 1.4 * SINGLE else 2
    drawn.legend(handles=handles, loc="outside upper center", ncols=min(columns, len(handles)))
