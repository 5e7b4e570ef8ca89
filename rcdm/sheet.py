"""What the page shows of a drawing: HTML, its style sheet, one labelled picture, and the numbers."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image

from rcdm import images as im
from rcdm.drawing import Column, Request

READING = """<p><b>What stays the same over a column is in the representation; what varies is not.</b></p>
<p>Each image of a column is drawn from the representation of the given image alone. The same place in every column
starts from the same noise: columns differ by nothing but what their representations hold.</p>"""
SEEN = "The central square, {0} × {0} pixels: all that the networks see."
LEGEND = """<p class="legend"><b>Similarity</b>, under each image: cosine between the representation of the drawn image
and the given one, standardised; 1 is the same.{kept}</p>"""
LEGEND_KEPT = """ <b>Kept</b>: the share of an attribute’s variance that these draws hold fixed. At 1 it never varies,
at 0 it varies as much as over all images. From {n} draws of one image it is a rough reading, and may fall below 0."""

EMPTY = """<div class="rcdm"><div class="empty"><div>Press <b>Draw</b>: one column per source fills in here.<br>
What stays the same over a column is in the representation; what varies is not.</div></div></div>"""

CSS = """
.gradio-container { max-width: 1280px !important; }
#controls { flex: 0 1 336px !important; }
#results { flex: 1 1 480px !important; }
#results .html-container, #controls .html-container { padding: 0; }
#examples button { width: 66px; height: 66px; padding: 0; overflow: hidden; }
#examples button span, #examples button div { display: block; width: 100%; height: 100%; max-height: none; }
#examples img { width: 100%; height: 100%; max-width: none; max-height: none; object-fit: cover; }
.rcdm { --quiet: color-mix(in srgb, var(--body-text-color) 68%, transparent); color: var(--body-text-color);
  font-size: 14px; line-height: 1.5; }
.rcdm img { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; border-radius: 4px; }
.rcdm figure { margin: 0; min-width: 0; }
.rcdm p { margin: 0 0 6px; max-width: 80ch; }
.rcdm figcaption, .rcdm .meta, .rcdm .legend, .rcdm.view, .rcdm.status { color: var(--quiet); font-size: 12px; }
.rcdm figcaption { display: flex; justify-content: space-between; margin-top: 2px; font-variant-numeric: tabular-nums; }
.rcdm .given { display: flex; gap: 16px; align-items: center; margin-bottom: 14px; }
.rcdm .given img { flex: none; width: 112px; }
.rcdm.view .given { gap: 10px; margin: 0; }
.rcdm.view .given img { width: 56px; }
.rcdm .columns { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(190px, 1fr); gap: 12px;
  overflow-x: auto; }
.rcdm section { padding: 12px; border: 1px solid var(--border-color-primary);
  border-radius: 8px; background: var(--background-fill-primary); }
.rcdm h3 { margin: 0; font-size: 15px; font-weight: 600; overflow-wrap: anywhere; color: var(--body-text-color); }
.rcdm .draws { display: grid; gap: 8px; grid-template-columns: repeat(var(--across), 1fr); }
.rcdm .kept { display: grid; grid-template-columns: auto minmax(24px, 1fr) auto; gap: 4px 8px; align-items: center;
  margin-top: 12px; padding-top: 10px; border-top: 1px solid var(--border-color-primary); font-size: 12px; }
.rcdm .kept b { grid-column: 1 / -1; }
.rcdm .kept .number { text-align: right; font-variant-numeric: tabular-nums; }
.rcdm .track { height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; }
.rcdm .track i { display: block; height: 100%; border-radius: 3px; background: var(--color-accent); }
.rcdm .legend { margin: 12px 0 0; max-width: 100ch; }
.rcdm.status { min-height: 26px; }
.rcdm .empty { display: grid; place-items: center; min-height: 300px; padding: 24px; text-align: center;
  border: 1px dashed var(--border-color-primary); border-radius: 8px; color: var(--quiet); }
@media (max-width: 640px) {
  .rcdm section { padding: 8px; }
  .rcdm .columns { gap: 8px; grid-auto-columns: minmax(150px, 1fr); }
  .rcdm .draws { grid-template-columns: repeat(2, 1fr); }
  .rcdm .kept { grid-template-columns: 1fr auto; grid-auto-flow: row dense; gap: 2px 8px; }
  .rcdm .kept .track { grid-column: 1 / -1; margin-bottom: 4px; }
  .rcdm .given { align-items: flex-start; }
  .rcdm .given img { width: 80px; }
}
"""


def _img(image: Image.Image, words: str) -> str:
    """An <img> that carries its lossless PNG."""
    file = io.BytesIO()
    image.save(file, "png")
    return f'<img src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}" alt="{escape(words)}">'


def given_html(given: Image.Image, words: str) -> str:
    """The given image as the networks see it, with words beside it."""
    return f'<div class="given">{_img(given, "the given image, cropped")}<div>{words}</div></div>'


def _column_html(column: Column, seeds: Sequence[int]) -> str:
    network, _, level = column.source.partition("/")
    likeness = column.similarity
    mean = f"mean similarity {sum(likeness) / len(likeness):.2f}" if likeness else "preview"
    figures = ""
    for i, image in enumerate(column.images):
        caption = f"<span>#{seeds[i]}</span>" + (f"<b>{likeness[i]:.2f}</b>" if likeness else "")
        drawn = _img(image, f"drawn from {column.source} with seed {seeds[i]}")
        figures += f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"
    bars = ""
    for name, value in column.kept.items():
        width = 100 * min(max(value, 0.0), 1.0) if math.isfinite(value) else 0
        bars += f"<span>{escape(name.replace('_', ' '))}</span>"
        bars += f'<div class="track"><i style="width:{width:.0f}%"></i></div><span class="number">{value:.2f}</span>'
    kept = f'<div class="kept"><b>Kept</b>{bars}</div>' if bars else ""
    head = f'<h3>{escape(network)} <span>{escape(level)}</span></h3><p class="meta">{mean}</p>'
    return f'<section>{head}<div class="draws">{figures}</div>{kept}</section>'


def sheet_html(given: Image.Image, columns: Sequence[Column], seeds: Sequence[int]) -> str:
    """Everything that is shown of a drawing: the given image, one column per source, and how to read them."""
    body = "".join(_column_html(column, seeds) for column in columns)
    across = {1: 8, 2: 4}.get(len(columns), 2)  # images beside each other in a column, on a wide screen
    columns_html = f'<div class="columns" style="--across: {across}">{body}</div>'
    kept = LEGEND_KEPT.format(n=len(seeds)) if any(column.kept for column in columns) else ""
    legend = LEGEND.format(kept=kept) if any(column.similarity for column in columns) else ""
    return f'<div class="rcdm">{given_html(given, READING)}{columns_html}{legend}</div>'


def status_html(words: str, share: float | None = None) -> str:
    track = "" if share is None else f'<div class="track"><i style="width:{100 * share:.0f}%"></i></div>'
    return f'<div class="rcdm status" role="status">{words}{track}</div>'


def labelled_grid(given: Image.Image, columns: Sequence[Column], seeds: Sequence[int]) -> Image.Image:
    """One labelled picture: a row per seed, a column per source, the given image in front of the first row."""
    rows = [[given if i == 0 else None, *(column.images[i] for column in columns)] for i in range(len(seeds))]
    labels = ["given", *(column.source for column in columns)]
    return im.grid(rows, row_labels=[f"seed {seed}" for seed in seeds], column_labels=labels)


def numbers_of(request: Request, columns: Sequence[Column]) -> dict[str, Any]:
    sources = {column.source: {"similarity": column.similarity, "kept": column.kept} for column in columns}
    return {"seeds": request.seeds, "steps": request.steps, "sources": sources}
