"""A ladder of pictures with a slider: rows side by side, large, at the step that the slider stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from rcdm.figures.result import StudyResult
from rcdm.ui.sheet import render

MANY = 6  # rows from which on they stand in two columns, where there is room
Curves = Mapping[str, Sequence[float]]


def frames_html(
    result: StudyResult,
    *,
    what: str,
    start: int = 0,
    curves: Curves | None = None,
    note: Markup | str = "",
    places: Sequence[int] = (),
) -> Markup:
    """Rows of a study's images over its columns; `what` names the steps. All steps are shown small beside it.

    `curves`: name -> one value per column, drawn below; `note`: what is said after them. `places`: where rows are to
    stand side by side, the place of each in its line, from 1 on.
    """
    layout = " beside" if places else " many" if len(result.rows) > MANY else ""
    return render(
        "frames.html", images=result.images, rows=result.rows, columns=result.columns, what=what, start=start,
        places=places, layout=layout, drawn="" if curves is None else curves_svg(curves, result.columns), note=note,
    )  # fmt: skip


def curves_svg(curves: Curves, columns: Sequence[str], *, top: float | None = None) -> Markup:
    """Lines over the steps from 0 to `top`, with their names; 1 is marked."""
    values = [value for line in curves.values() for value in line]
    top = max([1.05, *values]) if top is None else top
    width, height, left = 560, 150, 34
    pace = (width - left - 10) / max(1, len(columns) - 1)

    def x(i: int) -> str:
        return f"{left + i * pace:.1f}"

    def y(value: float) -> str:
        return f"{height - 20 - (height - 30) * min(max(value, 0), top) / top:.1f}"

    last = len(columns) - 1
    return render(
        "curves.html", width=width, height=height, left=left,
        lines=[(name, " ".join(f"{x(i)},{y(value)}" for i, value in enumerate(line))) for name, line in curves.items()],
        marks=[(y(value), value) for value in sorted({0.0, 1.0, *([float(int(top))] if top >= 3 else [])})],
        steps=[(x(i), "end" if i == last else "middle", columns[i]) for i in sorted({0, last // 2, last})],
        words="; ".join(f"{name}: " + ", ".join(f"{v:.2f}" for v in line) for name, line in curves.items()),
    )  # fmt: skip
