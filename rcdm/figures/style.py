"""How every figure looks: widths of journal columns, one colour and marker per source, how it is saved."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

SINGLE, DOUBLE = 3.3, 6.9
"""Widths of one and of two columns, in inches."""

TALLEST = 9.0
"""Height of a page, in inches."""

NULL: dict[str, Any] = {"color": "0.45", "linestyle": (0, (1, 1.5)), "linewidth": 0.9, "zorder": 1}
"""Lines of what a number would be if nothing were true."""

STYLE: Any = {
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "axes.titleweight": "bold",
    "axes.titlepad": 3,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "hatch.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.6,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}

_COLOURS = {
    "simclr": "#0072B2",
    "simclr-nojitter": "#E69F00",
    "vicreg": "#009E73",
    "supervised": "#8F3F97",
    "barlow": "#D55E00",
    "byol": "#56B4E9",
    "isoloss": "#B59A00",
    "spectral": "#5B4B3A",
}
"""Network -> colour, after Okabe & Ito; a network that is not here takes the first that is free."""
_MARKERS = "os^DvPXp"


@dataclass(frozen=True)
class Look:
    """How a source is drawn: the network gives the hue and the marker, the level fills it or leaves it open."""

    colour: tuple[float, float, float]
    face: tuple[float, float, float]
    marker: str
    line: Any

    @property
    def point(self) -> dict[str, Any]:
        """Settings of `Axes.plot` for its marker."""
        return {"marker": self.marker, "markerfacecolor": self.face, "markeredgecolor": self.colour}

    @property
    def fill(self) -> str:
        """Whether its marker is `filled` (backbones), `open` (projectors) or `pale` (other levels)."""
        return "filled" if self.face == self.colour else "open" if self.face == (1.0, 1.0, 1.0) else "pale"

    @property
    def curve(self) -> dict[str, Any]:
        """Settings of `Axes.plot` for its line with markers."""
        return {"color": self.colour, "linestyle": self.line, **self.point}


FILLS = {"filled": "0.2", "open": "white", "pale": "0.75"}
"""`Look.fill` -> face of a marker in a legend."""


def fill_handles(sources: Iterable[str], looks: Mapping[str, Look]) -> list[Line2D]:
    """Handles of a legend that says which levels have filled, open and pale markers; none where all are alike."""
    levels: dict[str, list[str]] = {}
    for source in sources:
        _, slash, level = source.partition("/")
        own = levels.setdefault(looks[source].fill, [])
        if slash and level not in own:
            own.append(level)
    shown = {fill: own for fill, own in levels.items() if own} if len(levels) > 1 else {}
    return [
        Line2D(
            [], [], label=f"{fill}: {', '.join(own)}", color="0.2", marker="o", markerfacecolor=FILLS[fill], linewidth=0
        )
        for fill, own in shown.items()
    ]


def looks(sources: Iterable[str]) -> dict[str, Look]:
    """Source -> look, the same for every figure of a checkpoint: give all of its sources.

    Levels between backbone and projector have a line of their own each, as far as there are lines.
    """
    names = list(sources)
    between = [level for level in dict.fromkeys(name.partition("/")[2] for name in names) if level not in ENDS]
    networks = list(dict.fromkeys(name.partition("/")[0] for name in names))
    free = [name for name in _COLOURS if name not in networks]
    slots = list(_COLOURS)
    slot = {
        n: slots.index(n if n in _COLOURS else free.pop(0) if free else slots[i % len(slots)])
        for i, n in enumerate(networks)
    }
    lines = {level: _LINES[i % len(_LINES)] for i, level in enumerate(between)}
    return {name: _look(slot[name.partition("/")[0]], name.partition("/")[2], lines) for name in names}


ENDS = ("", "backbone", "projector")
_LINES: tuple[Any, ...] = (
    *((0, (1, 1)), (0, (5, 1, 1, 1)), (0, (2, 2)), (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (6, 3))),
)


def _look(slot: int, level: str, lines: Mapping[str, Any]) -> Look:
    base, marker = to_rgb(list(_COLOURS.values())[slot]), _MARKERS[slot]
    if level == "backbone" or level == "":
        dark = _lightness(base, 0.8)
        return Look(dark, dark, marker, "-")
    if level == "projector":
        return Look(_lightness(base, 1.25), (1.0, 1.0, 1.0), marker, (0, (4, 1.5)))
    return Look(base, _lightness(base, 1.7), marker, lines[level])


def _lightness(colour: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    hue, light, saturation = colorsys.rgb_to_hls(*colour)
    return colorsys.hls_to_rgb(hue, min(0.92, light * factor), saturation)


def by_network(sources: Sequence[str]) -> dict[str, list[str]]:
    """Network -> its sources, in order."""
    result: dict[str, list[str]] = {}
    for source in sources:
        result.setdefault(source.partition("/")[0], []).append(source)
    return result


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), layout="constrained", dpi=300)


def null_line(axes: Axes, value: float, *, across: bool = True, label: str = "") -> None:
    """A dotted line where a number would lie if nothing were true; `across` is horizontal."""
    (axes.axhline if across else axes.axvline)(value, **NULL)
    if label and across:
        axes.annotate(
            label, (0.01, value), xycoords=("axes fraction", "data"), ha="left", va="bottom", fontsize=5.5, color="0.35"
        )


def band(axes: Axes, x: Sequence[float], numbers: Sequence[Mapping[str, float]], look: Look) -> None:
    """A curve of numbers over x with its 95 % intervals."""
    axes.plot(x, [n["value"] for n in numbers], **look.curve)
    low, high = ([n.get(end, n["value"]) for n in numbers] for end in ("low", "high"))
    if len(x) == 1:  # an area has no width there
        axes.plot([x[0], x[0]], [low[0], high[0]], color=look.colour, linewidth=0.8)
    axes.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)


def save(figures: Mapping[str, Figure], stem: Path) -> list[Path]:
    """Write STEM.png and STEM.pdf, or STEM-KEY.png and .pdf for keys that are not empty; the PNG files' paths."""
    written = []
    with matplotlib.rc_context(STYLE):
        for key, drawn in figures.items():
            file = stem.with_name(f"{stem.name}-{key}.png" if key else f"{stem.name}.png")
            drawn.savefig(file)
            drawn.savefig(file.with_suffix(".pdf"), metadata={"CreationDate": None})
            written.append(file)
    return written
