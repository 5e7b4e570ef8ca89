"""Ladders with a slider: a column per source, its draws large at the step that the slider stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from rcdm.ui.ladders import Ladders
from rcdm.ui.sheet import render

Curves = Mapping[str, Sequence[float]]


def frames_html(
    ladders: Ladders,
    seeds: Sequence[int],
    *,
    what: str,
    start: int = 0,
    curves: Curves | None = None,
    steps: Sequence[str] = (),
    note: Markup | str = "",
) -> Markup:
    """Every step small, one large; `what` names the steps, and the slider begins at `start`.

    `curves`: name -> one value per step, or per name in `steps` where those are others; `note`: what is said after
    them.
    """
    drawn = "" if curves is None else curves_svg(curves, steps or ladders.steps)
    return render("frames.html", ladders=ladders, seeds=seeds, what=what, start=start, drawn=drawn, note=note)


def curves_svg(curves: Curves, columns: Sequence[str]) -> Markup:
    """Lines over the steps, with their names, from 0 to the largest value; 1 is marked where it is in sight."""
    values = [value for line in curves.values() for value in line]
    top = max([0.05, *values]) * 1.05
    width, height, left = 560, 150, 44
    pace = (width - left - 10) / max(1, len(columns) - 1)

    def x(i: int) -> str:
        return f"{left + i * pace:.1f}"

    def y(value: float) -> str:
        return f"{height - 20 - (height - 30) * min(max(value, 0), top) / top:.1f}"

    last = len(columns) - 1
    marks = {
        0.0,
        *([1.0] if top >= 1 else [float(f"{max([0.05, *values]):.1g}")]),
        *([float(int(top))] if top >= 3 else []),
    }
    return render(
        "curves.html", width=width, height=height, left=left,
        lines=[(name, " ".join(f"{x(i)},{y(value)}" for i, value in enumerate(line))) for name, line in curves.items()],
        marks=[(y(value), value) for value in sorted(marks)],
        steps=[(x(i), "end" if i == last else "middle", columns[i]) for i in sorted({0, last // 2, last})],
        words="; ".join(f"{name}: " + ", ".join(f"{v:.2f}" for v in line) for name, line in curves.items()),
    )  # fmt: skip
