"""The page: an image in, columns of drawn images that share its representation out, filling in while they are drawn."""

from __future__ import annotations

import json
import threading
import time
from abc import ABCMeta
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from rcdm import images as im
from rcdm import sprites
from rcdm.attributes import attributes_of
from rcdm.checkpoints import load
from rcdm.drawing import Drawing, Request, draw_columns, in_background
from rcdm.pipeline import RCDMPipeline
from rcdm.sheet import CSS, EMPTY, SEEN, given_html, labelled_grid, numbers_of, sheet_html, status_html

EXAMPLES = [Path(__file__).parent / "examples" / name for name in ("heart.png", "arrow.png", "caps.jpg", "plane.jpg")]
SPRITE = {
    "shape": "heart", "hue": 0.98, "size": 0.58, "rotation": 0.79, "x": -0.05, "y": 0.0, "ground_hue": 0.52,
    "ground_brightness": 0.7,
}  # fmt: skip
MOST_IMAGES, MOST_STEPS, LARGEST_SEED = 16, 100, 2**31 - 1
SPRITE_PIXELS = 256
NOT_SHOWN_BY_BROWSERS = (".tif", ".tiff", ".heic", ".heif")

TITLE = """# What does this representation keep?
Give an image. A frozen network turns it into a vector, its representation; images that share it are drawn here."""

THEME = gr.themes.Default(
    primary_hue="teal", neutral_hue="slate", font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
)


def _untouched(_component: gr.Image, payload: Any) -> str | None:
    return payload.path if payload else None


# gr.Image, but it hands over the uploaded file unopened: `images.decode` alone opens it. Made past the last step of its
# metaclass, which would write a stub file beside this module. `is_template`: shown by the front end of gr.Image.
Photo = ABCMeta.__new__(type(gr.Image), "Photo", (gr.Image,), {"preprocess": _untouched, "is_template": True})


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


def build(pipe: RCDMPipeline) -> gr.Blocks:
    """The page of one pipeline, to be launched with `launch`. Endpoints: `/draw` and `/sprite`."""
    names, attributes, turn = list(pipe.sources.names), attributes_of(pipe), threading.Lock()

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

            yield gr.skip(), gr.skip(), gr.skip(), status_html(f"Drawing {task} …", 0)
            for drawing in in_background(work):
                if drawing is None:
                    yield gr.skip()
                    continue
                sheet = sheet_html(given, drawing.columns, request.seeds)
                if not drawing.finished:
                    words = f"Drawing {task}: step {drawing.done} of {drawing.total}"
                    yield gr.skip(), gr.skip(), sheet, status_html(words, drawing.done / drawing.total)
                    continue
                status = status_html(f"{task} in {time.monotonic() - begun:.1f} s")
                grid = labelled_grid(given, drawing.columns, request.seeds)
                yield grid, numbers_of(request, drawing.columns), sheet, status

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
        gr.Markdown(f"{TITLE} {pipe.caution}")
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
                status = gr.HTML(status_html(""))
                sheet = gr.HTML(EMPTY)
                with gr.Accordion("As one picture, and the numbers", open=False):
                    grid = gr.Image(format="png", label="Grid", interactive=False, buttons=["download", "fullscreen"])
                    numbers = gr.JSON(label="Numbers")

        start.click(None, None, status, js=f"() => {json.dumps(status_html('Waiting …'))}")  # gone once it is its turn
        drawing = start.click(
            draw,
            [photo, chosen, number, steps, seed],
            [grid, numbers, sheet, status],
            api_name="draw",
            concurrency_limit=1,
            concurrency_id="gpu",
            show_progress="hidden",
        )
        drawing.failure(None, None, status, js=f"() => {json.dumps(status_html(''))}")
        stop.click(
            lambda: status_html("Stopped."), None, status, cancels=[drawing], queue=False, api_visibility="private"
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
