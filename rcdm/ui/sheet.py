"""What the page shows of a drawing, as HTML: a column per source, aligned, previews and results in the same places."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from rcdm.figures.result import StudyResult
from rcdm.measures.attributes import Kept
from rcdm.ui.drawing import Column

READING = """<p><b>What stays the same over a column is in the representation; what varies is not.</b></p>
<p>Each image of a column is drawn from the representation of the given image alone. The same place in every column
starts from the same noise: columns differ by nothing but what their representations hold.</p>"""
AGAIN = "<p>The next row: the same seeds, the same noise.</p>"
SEEN = "The central square, {0} × {0} pixels: all that the networks see."
LEGEND = """<p class="legend"><b>Similarity</b>, under each image: cosine between the representation of the drawn image
and the given one, standardised; 1 is the same. <b>Mean</b> and <b>spread</b> of the draws: where the spread is bright,
the draws differ. A click on an image shows it large beside the given one.{kept}</p>"""
LEGEND_KEPT = """ <b>Kept</b>: the share of an attribute’s variance that these draws hold fixed. At 1 it never varies,
at 0 it varies as much as over all images. From {n} draws of one image it is a rough reading, and may fall below 0; the
thin line is its 95 % interval over the draws."""
FOREIGN = """<p class="note" role="note"><b>This image is foreign to this checkpoint.</b> Its draws are less similar to
it than those of 95 % of the held-out images are to theirs, as {sources} {sees} it. Read what is drawn with
care.</p>"""

EMPTY = """<div class="rcdm"><div class="empty"><div>Press <b>Draw</b>: one column per source fills in here.<br>
What stays the same over a column is in the representation; what varies is not.</div></div></div>"""


def png_of(image: Image.Image) -> bytes:
    """A lossless PNG."""
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def img(image: Image.Image, words: str) -> str:
    """An <img> that carries its lossless PNG."""
    code = base64.b64encode(png_of(image)).decode()
    return f'<img src="data:image/png;base64,{code}" alt="{escape(words)}">'


def large(image: Image.Image, words: str) -> str:
    """The same as a button: pressed, the image is shown large."""
    return f'<button type="button" class="look" aria-label="Show large: {escape(words)}">{img(image, words)}</button>'


def given_html(given: Image.Image, words: str) -> str:
    """The given image as the networks see it, with words beside it."""
    return f'<div class="given">{img(given, "the given image, cropped")}<div>{words}</div></div>'


def heading(source: str, words: str) -> str:
    """Name of a source and a line below."""
    network, _, level = source.partition("/")
    return f'<div class="head"><h3>{escape(network)} <span>{escape(level)}</span></h3><p class="meta">{words}</p></div>'


def sheet_html(given: Image.Image, columns: Sequence[Column], seeds: Sequence[int], *, first: bool = True) -> str:
    """What is shown of one drawing: the given image, one column per source, and, for the first, how to read them."""
    words = (READING if first else AGAIN) + _foreign_html(columns)
    body = "".join(_column_html(column, seeds) for column in columns)
    end = _legend(columns, seeds) if first else ""
    return f'<div class="rcdm sheet">{given_html(given, words)}{_columns(body, len(columns))}{end}</div>'


def skeleton_html(given: Image.Image, sources: Sequence[str], seeds: Sequence[int], *, first: bool = True) -> str:
    """The same places, still empty, so that nothing jumps when the first previews arrive."""
    body = "".join(_column_html(Column(source, []), seeds) for source in sources)
    shown = given_html(given, READING if first else AGAIN) + _columns(body, len(sources))
    return f'<div class="rcdm sheet waiting" aria-busy="true">{shown}</div>'


def _columns(body: str, count: int) -> str:
    across = {1: 8, 2: 4}.get(count, 2)  # images beside each other in a column, on a wide screen
    return f'<div class="columns" style="--across: {across}">{body}</div>'


def _column_html(column: Column, seeds: Sequence[int]) -> str:
    likeness = column.similarity
    mean = f"mean similarity {sum(likeness) / len(likeness):.2f}" if likeness else "…"
    figures = ""
    for i, seed in enumerate(seeds):
        value = f"<b>{likeness[i]:.2f}</b>" if likeness else "<b>…</b>"
        words = f"drawn from {column.source} with seed {seed}"
        shown = large(column.images[i], words) if column.images else '<div class="bone"></div>'
        figures += f"<figure>{shown}<figcaption><span>#{seed}</span>{value}</figcaption></figure>"
    extra = _spread_html(column) if len(seeds) > 1 else ""
    draws = f'<div class="draws">{figures}</div>'
    return f"<section>{heading(column.source, mean)}{draws}{extra}{_kept_html(column.kept)}</section>"


def _spread_html(column: Column) -> str:
    parts = ""
    for name, image in (("mean", column.mean), ("spread", column.spread)):
        words = f"{name} of the draws from {column.source}"
        shown = '<div class="bone"></div>' if image is None else large(image, words)
        parts += f"<figure>{shown}<figcaption><span>{name}</span></figcaption></figure>"
    return f'<div class="draws summary">{parts}</div>'


def _kept_html(kept: Mapping[str, Kept]) -> str:
    bars = ""
    for name, number in kept.items():
        value = number.value
        width = 100 * min(max(value, 0.0), 1.0) if math.isfinite(value) else 0
        line, interval = "", ""
        if number.low is not None and number.high is not None:
            low, high = (100 * min(max(end, 0.0), 1.0) for end in (number.low, number.high))
            line = f'<u style="left:{low:.0f}%;width:{max(high - low, 1):.0f}%"></u>'
            interval = f' title="95 %: {number.low:.2f} … {number.high:.2f}"'
        label = escape(name.replace("_", " "))
        bars += f"<span>{label}</span>"
        bars += f'<div class="track"{interval}><i style="width:{width:.0f}%"></i>{line}</div>'
        bars += f'<span class="number">{value:.2f}</span>'
    return f'<div class="kept"><b>Kept</b>{bars}</div>' if bars else "<div></div>"


def _foreign_html(columns: Sequence[Column]) -> str:
    names = [column.source for column in columns if column.foreign]
    if not names:
        return ""
    sources = ", ".join(escape(name) for name in names)
    return FOREIGN.format(sources=sources, sees="sees" if len(names) == 1 else "see")


def _legend(columns: Sequence[Column], seeds: Sequence[int]) -> str:
    kept = LEGEND_KEPT.format(n=len(seeds)) if any(column.kept for column in columns) else ""
    return LEGEND.format(kept=kept) if any(column.similarity for column in columns) else '<p class="legend"></p>'


def status_html(words: str, share: float | None = None) -> str:
    track = "" if share is None else f'<div class="track"><i style="width:{100 * share:.0f}%"></i></div>'
    return f'<div class="rcdm status" role="status" aria-live="polite">{words}{track}</div>'


def bits_html(result: StudyResult) -> str:
    """Bits of one image per source, with where h speaks."""
    maps = dict(zip(result.columns, result.images, strict=True))
    body = ""
    for source, found in result.numbers["sources"].items():
        one, two = found["form_1"], found["form_2"]
        words = f"{one['value']:.0f} bits ({one['low']:.0f} … {one['high']:.0f}); form 2: {two['value']:.0f}"
        body += f"<section>{heading(source, words)}{large(maps[source], f'where {source} speaks')}</section>"
    low, high = result.numbers["logsnr"]
    gaps = "".join(
        f"<p>{escape(name)}: {gap['value']:.0f} bits ({gap['low']:.0f} … {gap['high']:.0f})"
        + (", limited by the decoder" if gap["limited_by_decoder"] else "") + "</p>"
        for name, gap in result.numbers["differences"].items()
    )  # fmt: skip
    note = (
        f"Bits that the representation spares the denoiser, from ln SNR {low:g} to {high:g}, over "
        f"{result.numbers['images']} noises of this image (95 % over these). An estimate with a trained denoiser is no "
        "bound. The map is bright where the representation speaks, on one scale."
    )
    return f'<div class="rcdm sheet">{_columns(body, 4)}{gaps}<p class="legend">{note}</p></div>'


def nearest_html(result: StudyResult) -> str:
    """The nearest training images, a strip per source."""
    width, body = len(result.columns), ""
    for i, source in enumerate(result.rows):
        likeness = result.numbers["sources"][source]["similarity"]
        words = f"training image near by {source}"
        figures = "".join(
            f"<figure>{large(image, words)}<figcaption><b>{value:.2f}</b></figcaption></figure>"
            for image, value in zip(result.images[i * width : (i + 1) * width], likeness, strict=True)
        )
        body += f'<section>{heading(source, "nearest training images")}<div class="strip">{figures}</div></section>'
    return f'<div class="rcdm sheet"><div class="stack">{body}</div></div>'


def table_html(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A plain table; the cells are HTML already where they are not text."""
    top = "".join(f"<th scope='col'>{cell}</th>" for cell in head)
    body = "".join(
        "<tr>" + f"<th scope='row'>{row[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f'<div class="rcdm table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
