"""What the page shows of a drawing, as HTML: a column per source, aligned, previews and results in the same places."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from rcdm.figures.html_templates import templates
from rcdm.figures.result import StudyResult
from rcdm.measures.attributes import MEANINGS, Kept
from rcdm.studies.information_study import ERROR_SPARED, GUESS_MOVED, WITHHELD
from rcdm.ui.drawing import Column
from rcdm.ui.export import KINDS, Result, command_of, link_of, words_of
from rcdm.ui.loaded import Abilities

EMPTY = """<div class="rcdm"><div class="empty"><div>Press <b>Draw</b>: one column per source fills in here.
</div></div></div>"""


def png_of(image: Image.Image) -> bytes:
    """A lossless PNG."""
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def _data_uri(image: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(png_of(image)).decode()}"


def _percent(share: float) -> float:
    """Of a bar's length, 0 … 100, whatever the share is."""
    return 100 * min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0


def _nulls(kept: Mapping[str, Kept]) -> bool:
    """Whether any of the numbers has a null."""
    return any(number.null is not None for number in kept.values())


render = templates(Path(__file__).parent / "templates", data_uri=_data_uri, percent=_percent, nulls=_nulls)
"""A file of this package's `templates`, filled in."""


def sheet_html(
    given: Image.Image,
    columns: Sequence[Column],
    seeds: Sequence[int],
    *,
    above: Sequence[int] | None = None,
    abilities: Abilities | None = None,
) -> Markup:
    """What is shown of one drawing: the given image, one column per source, and, for the first, how to read them.

    `above`: the seeds of the row before it; None for the first. `abilities`: what the decoder can draw and cannot.
    """
    about = {"above": above, "waiting": False, "meanings": MEANINGS, "abilities": abilities}
    return render("sheet.html", given=given, columns=columns, seeds=seeds, **about)


def skeleton_html(
    given: Image.Image, columns: Sequence[Column], seeds: Sequence[int], *, above: Sequence[int] | None = None
) -> Markup:
    """The same places for columns without images, so that nothing jumps when the first previews arrive."""
    about = {"above": above, "waiting": True, "meanings": MEANINGS, "abilities": None}
    return render("sheet.html", given=given, columns=columns, seeds=seeds, **about)


def status_html(words: str, share: float | None = None) -> Markup:
    """What is going on, and a bar of the share that is done."""
    return render("status.html", words=words, share=share)


def previews_html(pictures: Sequence[Image.Image]) -> Markup:
    """What is being drawn just now."""
    return render("previews.html", pictures=pictures)


def take_html(result: Result, key: str) -> Markup:
    """Links to the files of finished work, a link to its settings, and its command."""
    link, command = link_of(result), command_of(result)
    return render("take.html", key=key, kinds=KINDS, link=link, command=command, words=words_of(command), result=result)


def bits_html(result: StudyResult) -> Markup:
    """Bits of one image per source, with where h speaks."""
    maps = dict(zip(result.columns, result.images, strict=True))
    return render("bits.html", result=result, maps=maps, names=(ERROR_SPARED, GUESS_MOVED), withheld=WITHHELD)


def nearest_html(result: StudyResult) -> Markup:
    """The nearest training images, a strip per source."""
    return render("nearest.html", result=result)


def table_html(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Markup:
    """A plain table."""
    return render("table.html", head=head, rows=rows)


def shaded_html(
    head: Sequence[Any], rows: Sequence[tuple[str, Sequence[tuple[float, str]]]], *, top: float = 1.0
) -> Markup:
    """A table of numbers and marks, each shaded by its share of `top`."""
    return render("shaded.html", head=head, rows=rows, top=top)
