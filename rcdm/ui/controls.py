"""What all tabs share: the image, the checkpoint, its sources, steps and seed; and how a tab runs a job."""

from __future__ import annotations

import json
from abc import ABCMeta
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup
from PIL import Image

from rcdm.data import images as im
from rcdm.ui.drawing import Job, Progress
from rcdm.ui.engine import DEVICE, Engine
from rcdm.ui.guard import LARGEST_SEED, chosen, read_photo, received, whole
from rcdm.ui.loaded import EXAMPLES_FOLDER, Loaded
from rcdm.ui.sheet import render, status_html

EXAMPLES = {name: EXAMPLES_FOLDER / name for name in ("heart.png", "arrow.png", "caps.jpg", "plane.jpg")}
MARK_STALE = "() => { document.querySelectorAll('.results .rcdm.sheet').forEach(s => s.classList.add('stale')) }"
"""What was drawn from the image before stays in sight, and says so."""

NOT_SHOWN_BY_BROWSERS = (".tif", ".tiff", ".heic", ".heif")


def _untouched(_component: gr.Image, payload: Any) -> str | None:
    return payload.path if payload else None


# gr.Image, but it hands over the uploaded file unopened: `images.decode` alone opens it. Made past the last step of its
# metaclass, which would write a stub file beside this module. `is_template`: shown by the front end of gr.Image.
Photo = ABCMeta.__new__(type(gr.Image), "Photo", (gr.Image,), {"preprocess": _untouched, "is_template": True})


@dataclass(frozen=True)
class Asked:
    """What the shared controls say, checked. `seeds` has as many entries as images per source are wanted."""

    loaded: Loaded
    picture: Image.Image
    sources: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    example: str = ""

    @property
    def given(self) -> Image.Image:
        """The central square of the picture, of the size at which the network of the first source sees it."""
        return seen(self.loaded, self.picture, self.sources[0])


@dataclass(frozen=True)
class Controls:
    """The shared components."""

    photo: gr.components.Component
    view: gr.HTML
    checkpoint: gr.Dropdown
    sources: gr.CheckboxGroup
    number: gr.Slider
    steps: gr.Slider
    seed: gr.Number
    caution: gr.HTML

    def inputs(self) -> list[gr.components.Component]:
        """In the order in which `asked` takes their values."""
        return [self.photo, self.checkpoint, self.sources, self.number, self.steps, self.seed]


def asked(
    engine: Engine, photo: str | None, checkpoint: str, sources: Any, number: Any, steps: Any, seed: Any
) -> Asked:
    """Check what the controls, or a caller of the API, say. Raises ValueError, with the remedy."""
    loaded, limits = engine[checkpoint], engine.settings
    names = chosen(sources, loaded.pipe.sources.names)
    count = whole("The number of images", number, 1, limits.most_images)
    first = whole("The seed", seed, 0, LARGEST_SEED - limits.most_images)
    return Asked(
        loaded,
        read_photo(photo, max(loaded.pipe.sources[name].preprocessing.size for name in names)),
        names,
        tuple(range(first, first + count)),
        whole("Steps", steps, 1, limits.most_steps),
        example_of(photo),
    )


def asked_here(engine: Engine, values: Sequence[Any]) -> Asked:
    """`asked` for the values of the controls, in their order; the sources in that of the checkpoint, not of clicks."""
    photo, checkpoint, sources, *more = values
    known = engine[checkpoint].pipe.sources.names
    if isinstance(sources, list) and all(name in known for name in sources):
        sources = [name for name in known if name in sources]
    return asked(engine, photo, checkpoint, sources, *more)


def example_of(photo: str | None) -> str:
    """The name of the example that a file is a copy of, or ''."""
    if photo is None or (path := EXAMPLES.get(Path(photo).name)) is None:
        return ""
    return path.name if path.read_bytes() == received(photo) else ""


def seen(loaded: Loaded, picture: Image.Image, source: str) -> Image.Image:
    """The central square of a picture, of the size at which the network of a source sees it."""
    return im.to_pil(loaded.pipe.sources[source].preprocessing.to_tensor(picture))[0]


def default_sources(names: Sequence[str]) -> list[str]:
    """The first backbone, its projector and the supervised backbone beside them, or else the first two names."""
    network = next((name.removesuffix("/backbone") for name in names if name.endswith("/backbone")), "")
    wanted = dict.fromkeys((f"{network}/backbone", f"{network}/projector", "supervised/backbone"))
    return [name for name in wanted if name in names] or list(names[:2])


def caution_html(loaded: Loaded) -> Markup:
    """What a visitor should know about a checkpoint, or nothing."""
    return Markup('<div class="rcdm meta">{}</div>').format(loaded.pipe.caution)


def build_controls(engine: Engine) -> Controls:
    """Lay out the shared controls and wire what they do among themselves."""
    limits, loaded = engine.settings, engine[engine.settings.checkpoint]
    names = list(loaded.pipe.sources.names)
    first = str(EXAMPLES["heart.png" if loaded.pipe.config.trained_on == "sprites" else "caps.jpg"])
    photo = Photo(
        first, format="png", sources=["upload", "clipboard", "webcam"], label="Image", height=220, elem_id="photo"
    )
    view = gr.HTML(_view(loaded, im.decode(first)))
    examples = gr.Examples(
        [[str(path)] for path in EXAMPLES.values()], photo, elem_id="examples", preload=False, api_visibility="private"
    )
    several = len(engine.shelf.names) > 1
    checkpoint = gr.Dropdown(list(engine.shelf.names), value=limits.checkpoint, label="Checkpoint", visible=several)
    caution = gr.HTML(caution_html(loaded))
    sources = gr.CheckboxGroup(names, value=default_sources(names), label="Sources", elem_id="sources")
    number = gr.Slider(1, limits.most_images, min(8, limits.most_images), step=1, label="Images per source")
    steps = gr.Slider(1, limits.most_steps, loaded.pipe.config.default_steps, step=1, label="Steps")
    largest = LARGEST_SEED - limits.most_images
    seed = gr.Number(0, minimum=0, maximum=largest, label="First seed", elem_id="seed")
    controls = Controls(photo, view, checkpoint, sources, number, steps, seed, caution)
    for event in (photo.input, examples.load_input_event.then):
        look_at(engine, controls, event)

    photo.change(None, None, None, js=MARK_STALE, api_visibility="private")

    def choose(name: str) -> tuple[Any, ...]:
        pipe = engine[name].pipe
        names = list(pipe.sources.names)
        own = gr.update(choices=names, value=default_sources(names))
        return own, pipe.config.default_steps, caution_html(engine[name])

    checkpoint.input(choose, checkpoint, [sources, steps, caution], show_progress="hidden", api_visibility="private")
    return controls


def look_at(engine: Engine, controls: Controls, event: Callable[..., Any]) -> None:
    """After `event`, show what the networks see of the image; a file that cannot be read is put away with a warning."""

    def look(photo: str | None, checkpoint: str) -> tuple[Any, str]:
        if photo is None:
            return None, ""
        try:
            picture, loaded = read_photo(photo), engine[checkpoint]
        except ValueError as error:
            gr.Warning(escape(str(error), quote=False))
            return None, ""
        png_fits = 3 * picture.width * picture.height < im.MAX_BYTES
        convert = png_fits and Path(photo).suffix.lower() in NOT_SHOWN_BY_BROWSERS
        return picture if convert else gr.skip(), _view(loaded, picture)

    inputs = [controls.photo, controls.checkpoint]
    event(look, inputs, [controls.photo, controls.view], show_progress="hidden", api_visibility="private")


def _view(loaded: Loaded, picture: Image.Image) -> Markup:
    square = seen(loaded, picture, loaded.pipe.sources.names[0])
    return render("view.html", square=square)


def run_tab(
    engine: Engine,
    controls: Controls,
    make: Callable[..., tuple[Job, Callable[[Any], str]]],
    extra: Sequence[gr.components.Component],
    *,
    button: str,
    name: str,
    lacks: Callable[[Loaded], str] = lambda _: "",
) -> None:
    """A button, a status line and a result; `make(asked, *extra)` gives the job and what turns it to HTML.

    `lacks(loaded)` says what a checkpoint would need for it, or '': then the button waits for another checkpoint.
    """

    def work(request: gr.Request, *values: Any) -> Iterator[Any]:
        choices = asked_here(engine, values[:6])
        job, shown = make(choices, *values[6:])
        yield status_html("Working …", 0), gr.skip()
        for item in engine.run(choices.loaded.name, job, request):
            if isinstance(item, Progress):
                yield status_html(f"Working: {item.words} …", item.share), gr.skip()
            elif isinstance(item, tuple):
                yield status_html("Done."), shown(item[0])
            else:
                yield gr.skip()

    with gr.Row(elem_classes="actions"):
        start = gr.Button(button, size="md", variant="primary", min_width=120, elem_id=f"{name}-start")
        stop = gr.Button("Stop", size="md", min_width=80)
    status, result = gr.HTML(elem_classes="told"), gr.HTML("")
    event = wire(start, stop, work, [*controls.inputs(), *extra], [status, result], status)

    def renew(checkpoint: str) -> tuple[Any, str, str]:
        lacking = lacks(engine[checkpoint])
        return gr.update(interactive=not lacking), status_html(lacking), ""

    first, status.value, _ = renew(engine.settings.checkpoint)
    start.interactive = first["interactive"]
    controls.checkpoint.change(
        renew, controls.checkpoint, [start, status, result], cancels=[event], queue=False, api_visibility="private"
    )


def wire(
    start: gr.Button,
    stop: gr.Button,
    work: Callable[..., Any],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
    status: gr.HTML,
    stopped: str = "Stopped.",
) -> Any:
    """Start work in the queue of the device with a button, say that it waits, and stop it with another."""
    start.click(None, None, status, js=f"() => {json.dumps(status_html('Waiting …'))}")  # gone once it is its turn
    event = start.click(
        work,
        list(inputs),
        list(outputs),
        show_progress="minimal",
        show_progress_on=status,
        api_visibility="private",
        **DEVICE,
    )
    event.failure(None, None, status, js=f"() => {json.dumps(status_html(''))}")
    stop.click(lambda: status_html(stopped), None, status, cancels=[event], queue=False, api_visibility="private")
    return event
