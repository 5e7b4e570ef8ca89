"""The page: an image in, columns of drawn images that share its representation out, filling in while they are drawn."""

from __future__ import annotations

import base64
import io
import json
import math
import queue
import threading
import time
from abc import ABCMeta
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image
from torch import Tensor

from rcdm import images as im
from rcdm import sprites
from rcdm.attributes import Attributes, attributes_of, kept_by_draws
from rcdm.checkpoints import load
from rcdm.metrics import similarity
from rcdm.pipeline import RCDMPipeline

EXAMPLES = [Path(__file__).parent / "examples" / name for name in ("heart.png", "arrow.png", "caps.jpg", "plane.jpg")]
SPRITE = {
    "shape": "heart", "hue": 0.98, "size": 0.58, "rotation": 0.79, "x": -0.05, "y": 0.0, "ground_hue": 0.52,
    "ground_brightness": 0.7,
}  # fmt: skip
MOST_IMAGES, MOST_STEPS, LARGEST_SEED = 16, 100, 2**31 - 1
BATCH = 64  # images drawn together
PREVIEW_SECONDS, PREVIEW_PIXELS = 0.7, 64  # least time between two previews; largest side of their images
IDLE_SECONDS = 0.25  # how soon a closed tab is noticed while a step takes long
SPRITE_PIXELS = 256
NOT_SHOWN_BY_BROWSERS = (".tif", ".tiff", ".heic", ".heif")

TITLE = """# What does this representation keep?
Give an image. A frozen network turns it into a vector, its representation; images that share it are drawn here."""
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

THEME = gr.themes.Default(
    primary_hue="teal", neutral_hue="slate", font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
)
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


def _untouched(_component: gr.Image, payload: Any) -> str | None:
    return payload.path if payload else None


# gr.Image, but it hands over the uploaded file unopened: `images.decode` alone opens it. Made past the last step of its
# metaclass, which would write a stub file beside this module. `is_template`: shown by the front end of gr.Image.
Photo = ABCMeta.__new__(type(gr.Image), "Photo", (gr.Image,), {"preprocess": _untouched, "is_template": True})


@dataclass(frozen=True)
class Request:
    """What to draw: one image per (source, seed)."""

    picture: Image.Image
    sources: list[str]
    seeds: list[int]
    steps: int


@dataclass(frozen=True)
class Column:
    """The drawn images of one source and, once they are finished, their similarities and the shares that are kept."""

    source: str
    images: list[Image.Image]
    similarity: list[float] = field(default_factory=list)
    kept: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawing:
    """Columns after `done` of `total` steps; `finished` with everything measured."""

    columns: list[Column]
    done: int
    total: int
    finished: bool = False


class _Stopped(Exception):
    """Raised inside the pipeline when nobody waits for its images any more."""


def draw_columns(
    pipe: RCDMPipeline,
    attributes: Attributes | None,
    request: Request,
    show: Callable[[Drawing], None],
    check: Callable[[], None],
) -> Drawing:
    """Draw all columns together, each row from the same noise; `check()` runs after every step and may raise."""
    names, count = request.sources, len(request.seeds)
    h = pipe.encode([request.picture] * len(names), names)  # [S,D], narrower rows end in zeros
    size = min(pipe.image_size, PREVIEW_PIXELS)
    canvas = torch.zeros(len(names) * count, 3, size, size)
    done, total, shown = 0, request.steps * -(-len(canvas) // BATCH), -math.inf

    def on_step_end(_pipe: RCDMPipeline, _step: int, _timestep: int, tensors: dict[str, Tensor]) -> None:
        nonlocal done, shown
        check()
        done += 1
        canvas[tensors["index"].cpu()] = im.resize(tensors["denoised"].float(), size).cpu()
        if time.monotonic() - shown >= PREVIEW_SECONDS:
            shown = time.monotonic()
            columns = [Column(s, im.to_pil(part)) for s, part in zip(names, canvas.split(count), strict=True)]
            show(Drawing(columns, done, total))

    drawn = pipe(
        representation=h,
        source=names,
        seeds=request.seeds,
        num_inference_steps=request.steps,
        output_type="pt",
        batch_size=BATCH,
        callback_on_step_end=on_step_end,
    ).images
    assert isinstance(drawn, Tensor)
    columns = [_measured(pipe, attributes, s, h[i], drawn.split(count)[i]) for i, s in enumerate(names)]
    return Drawing(columns, total, total, finished=True)


def _measured(pipe: RCDMPipeline, attributes: Attributes | None, source: str, h: Tensor, drawn: Tensor) -> Column:
    """Drawn images [K,3,H,W] of one source, and h [D], perhaps padded -> their column with its numbers."""
    given = pipe.unet.standardise(h[None, : pipe.unet.config.sources[source]], source)
    again = pipe.unet.standardise(pipe.encode(drawn, source), source)
    kept = kept_by_draws(attributes, drawn) if attributes is not None and len(drawn) > 1 else {}
    return Column(source, im.to_pil(drawn), similarity(again, given.expand_as(again)).tolist(), kept)


def in_background(work: Callable[[Callable[[Any], None], Callable[[], None]], Any]) -> Generator[Any, None, None]:
    """Run `work(show, check)` in a thread; yield the latest thing it shows, None while nothing is new, then its result.

    Once this generator is closed, `check()` raises in the thread, so that work nobody waits for ends. Errors of the
    work are raised here.
    """
    box: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
    closed = threading.Event()

    def put(kind: str, item: Any) -> None:
        with suppress(queue.Empty):
            box.get_nowait()  # only the latest matters, and nothing piles up
        box.put((kind, item))

    def check() -> None:
        if closed.is_set():
            raise _Stopped

    def run() -> None:
        try:
            put("result", work(lambda item: put("shown", item), check))
        except Exception as error:
            put("error", error)

    threading.Thread(target=run, daemon=True).start()
    try:
        kind = "shown"
        while kind == "shown":
            try:
                kind, item = box.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                item = None
            if kind == "error":
                raise item
            yield item
    finally:
        closed.set()


@contextmanager
def in_a_sentence() -> Iterator[None]:
    """A ValueError reaches the user as its sentence alone."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(escape(str(error), quote=False), print_exception=False) from error


def read_photo(path: str | None) -> Image.Image:
    """The uploaded file as an upright RGB picture. Raises ValueError when there is none or it cannot be read."""
    if path is None:
        raise ValueError("Give an image first: upload or paste one, take an example, or draw a sprite.")
    try:
        data = Path(path).read_bytes()  # as bytes, so that no error names the server's folders
    except OSError as error:
        raise ValueError("The image is no longer on the server: give it again.") from error
    return im.decode(data)


def _request(photo: str | None, sources: Sequence[str], number: float, steps: float, seed: float | None) -> Request:
    if not sources:
        raise ValueError("Choose at least one source.")
    if seed is None or not 0 <= seed <= LARGEST_SEED - MOST_IMAGES:
        raise ValueError(f"The seed must be a whole number from 0 to {LARGEST_SEED - MOST_IMAGES}.")
    first = int(seed)
    return Request(read_photo(photo), list(sources), list(range(first, first + int(number))), int(steps))


def seen(pipe: RCDMPipeline, picture: Image.Image, source: str) -> Image.Image:
    """The central square of a picture, of the size at which the network of a source sees it."""
    return im.to_pil(pipe.sources[source].preprocessing.to_tensor(picture))[0]


def default_sources(names: Sequence[str]) -> list[str]:
    """The first backbone and its projector, or else the first two names."""
    network = next((name.removesuffix("/backbone") for name in names if name.endswith("/backbone")), "")
    pair = [name for name in (f"{network}/backbone", f"{network}/projector") if name in names]
    return pair or list(names[:2])


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


def _status_html(words: str, share: float | None = None) -> str:
    track = "" if share is None else f'<div class="track"><i style="width:{100 * share:.0f}%"></i></div>'
    return f'<div class="rcdm status" role="status">{words}{track}</div>'


def _grid(given: Image.Image, columns: Sequence[Column], seeds: Sequence[int]) -> Image.Image:
    """One labelled picture: a row per seed, a column per source, the given image in front of the first row."""
    rows = [[given if i == 0 else None, *(column.images[i] for column in columns)] for i in range(len(seeds))]
    labels = ["given", *(column.source for column in columns)]
    return im.grid(rows, row_labels=[f"seed {seed}" for seed in seeds], column_labels=labels)


def _numbers(request: Request, columns: Sequence[Column]) -> dict[str, Any]:
    sources = {column.source: {"similarity": column.similarity, "kept": column.kept} for column in columns}
    return {"seeds": request.seeds, "steps": request.steps, "sources": sources}


def build(pipe: RCDMPipeline) -> gr.Blocks:
    """The page of one pipeline, to be launched with `launch`. Endpoints: `/draw` and `/sprite`."""
    names, turn = list(pipe.sources.names), threading.Lock()
    try:
        attributes = attributes_of(pipe)
    except ValueError:  # no reader: drawings are shown without the shares that are kept
        attributes = None

    def draw(image: str | None, sources: list[str], number: int, steps: int, seed: int) -> Iterator[Any]:
        """Draw `number` images from each source's representation of the image: a labelled grid, numbers, and HTML."""
        with in_a_sentence():
            request = _request(image, sources, number, steps, seed)
            given, begun = seen(pipe, request.picture, request.sources[0]), time.monotonic()
            task = f"{len(request.sources)} × {len(request.seeds)} images"

            def work(show: Callable[[Drawing], None], check: Callable[[], None]) -> Drawing:
                with turn:  # a closed drawing may still be in its last step
                    check()
                    return draw_columns(pipe, attributes, request, show, check)

            yield gr.skip(), gr.skip(), gr.skip(), _status_html(f"Drawing {task} …", 0)
            for drawing in in_background(work):
                if drawing is None:
                    yield gr.skip()
                    continue
                sheet = sheet_html(given, drawing.columns, request.seeds)
                if not drawing.finished:
                    words = f"Drawing {task}: step {drawing.done} of {drawing.total}"
                    yield gr.skip(), gr.skip(), sheet, _status_html(words, drawing.done / drawing.total)
                    continue
                status = _status_html(f"{task} in {time.monotonic() - begun:.1f} s")
                grid, numbers = _grid(given, drawing.columns, request.seeds), _numbers(request, drawing.columns)
                yield grid, numbers, sheet, status

    def view_of(picture: Image.Image) -> str:
        square = seen(pipe, picture, names[0])
        return f'<div class="rcdm view">{given_html(square, SEEN.format(square.width))}</div>'

    def look(photo: str | None) -> tuple[Any, str]:
        """What networks see of a new image; a file that cannot be read is put away with a warning."""
        if photo is None:
            return None, ""
        try:
            picture = read_photo(photo)
        except ValueError as error:
            gr.Warning(escape(str(error), quote=False))
            return None, ""
        png_fits = 3 * picture.width * picture.height < im.MAX_BYTES
        convert = png_fits and Path(photo).suffix.lower() in NOT_SHOWN_BY_BROWSERS
        return picture if convert else gr.skip(), view_of(picture)

    def sprite(
        shape: str,
        hue: float,
        size: float,
        rotation: float,
        x: float,
        y: float,
        ground_hue: float,
        ground_brightness: float,
    ) -> Image.Image:
        """Draw a sprite from its factors."""
        values: dict[str, Any] = {"ground_hue": ground_hue, "ground_brightness": ground_brightness}
        with in_a_sentence():
            factors = sprites.make_factors(shape=shape, hue=hue, size=size, rotation=rotation, x=x, y=y, **values)
        return im.to_pil(sprites.render(factors, SPRITE_PIXELS))[0]

    with gr.Blocks(title="RCDM", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(TITLE)
        with gr.Row():
            with gr.Column(elem_id="controls", min_width=300):
                photo = Photo(
                    str(EXAMPLES[0]), format="png", sources=["upload", "clipboard"], label="Image", height=220
                )
                view = gr.HTML(view_of(read_photo(str(EXAMPLES[0]))))
                examples = gr.Examples(
                    [[str(path)] for path in EXAMPLES],
                    photo,
                    elem_id="examples",
                    preload=False,
                    api_visibility="private",
                )
                with gr.Accordion("Draw me a sprite", open=False):
                    factors = _sprite_controls()
                chosen = gr.CheckboxGroup(names, value=default_sources(names), label="Sources")
                number = gr.Slider(1, MOST_IMAGES, 8, step=1, label="Images per source")
                steps = gr.Slider(1, MOST_STEPS, pipe.config.default_steps, step=1, label="Steps")
                seed = gr.Number(0, minimum=0, maximum=LARGEST_SEED - MOST_IMAGES, precision=0, label="First seed")
                with gr.Row():
                    start = gr.Button("Draw", variant="primary", min_width=80)
                    stop = gr.Button("Stop", min_width=80)
            with gr.Column(elem_id="results", min_width=300):
                status = gr.HTML(_status_html(""))
                sheet = gr.HTML(EMPTY)
                with gr.Accordion("As one picture, and the numbers", open=False):
                    grid = gr.Image(format="png", label="Grid", interactive=False, buttons=["download", "fullscreen"])
                    numbers = gr.JSON(label="Numbers")

        start.click(None, None, status, js=f"() => {json.dumps(_status_html('Waiting …'))}")  # gone once it is its turn
        drawing = start.click(
            draw,
            [photo, chosen, number, steps, seed],
            [grid, numbers, sheet, status],
            api_name="draw",
            concurrency_limit=1,
            concurrency_id="gpu",
            show_progress="hidden",
        )
        drawing.failure(None, None, status, js=f"() => {json.dumps(_status_html(''))}")
        stop.click(
            lambda: _status_html("Stopped."), None, status, cancels=[drawing], queue=False, api_visibility="private"
        )
        sprite_drawn = gr.on(
            [control.input for control in factors],
            sprite,
            factors,
            photo,
            api_name="sprite",
            show_progress="hidden",
            trigger_mode="always_last",
        )
        for event in (photo.input, sprite_drawn.then, examples.load_input_event.then):
            event(look, photo, [photo, view], show_progress="hidden", api_visibility="private")
    return page


def _sprite_controls() -> list[gr.components.Component]:
    """One control per factor of the drawn world, in the order in which `/sprite` takes them."""
    controls: list[gr.components.Component] = []
    for name, kind in sprites.KINDS.items():
        label = name.replace("_", " ").capitalize() + (" (turns)" if kind == "angle" else "")
        if kind == "class":
            controls.append(gr.Dropdown(list(sprites.SHAPES), value=SPRITE[name], label=label))
        else:
            low, high = sprites.RANGES.get(name, (0.0, 1.0))
            controls.append(gr.Slider(low, high, SPRITE[name], step=0.01, label=label))
    return controls


def launch(
    pipe: RCDMPipeline,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    prevent_thread_lock: bool = False,
) -> gr.Blocks:
    """Serve the page of a pipeline; returns when the server stops, or at once with `prevent_thread_lock`."""
    page = build(pipe).queue(max_size=32)
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=prevent_thread_lock,
        theme=THEME,
        css=CSS,
        max_file_size=im.MAX_BYTES,
        ssr_mode=False,
        run_history=False,
        footer_links=["api", "gradio"],
    )
    return page


def serve(checkpoint: str, *, host: str = "127.0.0.1", port: int | None = None, share: bool = False) -> None:
    """Load a checkpoint by name, folder or hub id, and serve its page until interrupted."""
    launch(load(checkpoint), host=host, port=port, share=share)
