"""What all tabs share: the image, the checkpoint, its sources, steps and seed; and how a tab runs a job."""

from __future__ import annotations

import json
import os
import time
from abc import ABCMeta
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup
from PIL import Image

from rcdm.data import images as im
from rcdm.ui.drawing import Columns, Job, Progress
from rcdm.ui.engine import DEVICE, Engine
from rcdm.ui.examples import EXAMPLES, default_sources, examples_of
from rcdm.ui.export import Result
from rcdm.ui.guard import LARGEST_SEED, chosen, read_photo, received, whole
from rcdm.ui.loaded import Loaded
from rcdm.ui.sheet import previews_html, render, status_html, take_html
from rcdm.ui.store import key_of

MOST_DRAWS, USUAL_DRAWS = 8, 3  # of each step of a ladder
MARK_STALE = "() => { document.querySelectorAll('.results .rcdm.sheet').forEach(s => s.classList.add('stale')) }"
"""What was drawn from the image before stays in sight, and says so."""

REMEMBER = """() => {
  const link = [...document.querySelectorAll('.permalink')].find(a => a.offsetParent);
  if (link) history.replaceState(history.state, '', link.getAttribute('href'));
}"""
"""The address becomes that of the settings that were drawn."""

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

    def first_seeds(self, count: Any) -> tuple[int, ...]:
        """As many seeds as a tab's own slider says, from the first on."""
        return tuple(range(self.seeds[0], self.seeds[0] + whole("The number of draws", count, 1, MOST_DRAWS)))

    @property
    def given(self) -> Image.Image:
        """The central square of the picture, of the size at which the network of the first source sees it."""
        return self.loaded.seen(self.picture, self.sources[0])


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
    examples: gr.Dataset
    tabs: dict[str, dict[str, gr.components.Component]] = field(default_factory=dict)
    """Tab -> its own controls, by their names in a link."""

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


def caution_html(loaded: Loaded) -> Markup:
    """What a visitor should know about a checkpoint, or nothing."""
    words = f"{loaded.pipe.caution} {loaded.pipe.guided_in_words}".strip()
    return Markup('<div class="rcdm meta"><p>{}</p></div>').format(words)


def build_controls(engine: Engine) -> Controls:
    """Lay out the shared controls and wire what they do among themselves."""
    limits, loaded = engine.settings, engine[engine.settings.checkpoint]
    names = list(loaded.pipe.sources.names)
    first, *_ = known = [str(path) for path in examples_of(loaded)]
    photo = Photo(
        first, format="png", sources=["upload", "clipboard", "webcam"], label="Image", height=220, elem_id="photo"
    )
    view = gr.HTML(_view(loaded, im.decode(first)))
    examples = gr.Examples(
        [[path] for path in known], photo, elem_id="examples", preload=False, api_visibility="private"
    )
    several = len(engine.shelf.names) > 1
    checkpoint = gr.Dropdown(list(engine.shelf.names), value=limits.checkpoint, label="Checkpoint", visible=several)
    caution = gr.HTML(caution_html(loaded))
    sources = gr.CheckboxGroup(names, value=default_sources(names), label="Sources", elem_id="sources")
    number = gr.Slider(
        1, limits.most_images, min(8, limits.most_images), step=1, label="Images per source, in Compare and Sprite lab"
    )
    steps = gr.Slider(1, limits.most_steps, loaded.pipe.config.default_steps, step=1, label="Steps")
    largest = LARGEST_SEED - limits.most_images
    seed = gr.Number(0, minimum=0, maximum=largest, label="First seed", elem_id="seed")
    controls = Controls(photo, view, checkpoint, sources, number, steps, seed, caution, examples.dataset)
    for event in (photo.input, examples.load_input_event.then):
        look_at(engine, controls, event)

    photo.change(None, None, None, js=MARK_STALE, api_visibility="private")

    def choose(name: str, photo: str | None) -> tuple[Any, ...]:
        """Its sources and steps; of the pictures its own examples, while none of the visitor's is there."""
        pipe, known = engine[name].pipe, [str(path) for path in examples_of(engine[name])]
        names = list(pipe.sources.names)
        own = gr.update(choices=names, value=default_sources(names))
        picture = known[0] if photo is None or example_of(photo) else gr.skip()
        return (
            own, pipe.config.default_steps, caution_html(engine[name]), picture,
            gr.Dataset(samples=[[path] for path in known]),
        )  # fmt: skip

    chosen_other = checkpoint.input(
        choose, [checkpoint, photo], [sources, steps, caution, photo, examples.dataset], show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
    look_at(engine, controls, chosen_other.then)
    return controls


def draws_slider(engine: Engine, label: str) -> gr.Slider:
    """How many draws a tab makes of each of its steps; Compare's number would make it wait for minutes."""
    most = min(MOST_DRAWS, engine.settings.most_images)
    return gr.Slider(1, most, min(USUAL_DRAWS, most), step=1, label=label)


def look_at(engine: Engine, controls: Controls, event: Callable[..., Any]) -> None:
    """After `event`, show what the networks see of the image; a file that cannot be read is put away with a warning."""

    def look(photo: str | None, checkpoint: str) -> tuple[Any, str]:
        if photo is None:  # by now another one may be there: it stays
            return gr.skip(), ""
        try:
            picture, loaded = read_photo(photo), engine[checkpoint]
        except ValueError as error:
            gr.Warning(escape(str(error), quote=False))
            return None, ""
        png_fits = 3 * picture.width * picture.height < im.MAX_BYTES
        convert = png_fits and Path(photo).suffix.lower() in NOT_SHOWN_BY_BROWSERS
        return picture if convert else gr.skip(), _view(loaded, picture)

    inputs = [controls.photo, controls.checkpoint]
    # always_last: a file that comes while the last one is looked at would else be passed over
    event(
        look, inputs, [controls.photo, controls.view], show_progress="hidden", trigger_mode="always_last",
        api_visibility="private",
    )  # fmt: skip


def _view(loaded: Loaded, picture: Image.Image) -> Markup:
    square = loaded.seen(picture, loaded.pipe.sources.names[0])
    return render("view.html", square=square)


def run_tab(
    engine: Engine,
    controls: Controls,
    make: Callable[..., tuple[Job, Callable[[Any], str]]],
    own: Mapping[str, gr.components.Component],
    *,
    tab: str,
    button: str,
    name: str,
    lacks: Callable[[Loaded], str] = lambda _: "",
) -> None:
    """A button, a status line, a result and what can be taken away of it.

    `make(asked, *values)` gives the job and what turns its value to HTML; the values are those of `own`, the tab's own
    controls, by the name that each has in a link. `lacks(loaded)` says what a checkpoint would need, or '': then the
    button waits for another checkpoint.
    """
    controls.tabs.setdefault(tab, {}).update(own)

    def work(request: gr.Request, *values: Any) -> Iterator[Any]:
        choices = asked_here(engine, values[:6])
        job, shown = make(choices, *values[6:])
        choices = given_to(choices, job)
        value = yield from follow(engine, choices, job, request)
        said = tuple((key, in_link(value)) for key, value in zip(own, values[6:], strict=True))
        yield gr.skip(), shown(value), take_html(*keep(engine, choices, job, value, tab, said))

    with gr.Row(elem_classes="actions"):
        start = gr.Button(button, size="md", variant="primary", min_width=120, elem_id=f"{name}-start")
        stop = gr.Button("Stop", size="md", min_width=80)
    status, result, take = gr.HTML(elem_classes="told"), gr.HTML("", elem_id=f"{name}-result"), gr.HTML("")
    event = wire(start.click, stop, work, [*controls.inputs(), *own.values()], [status, result, take], status)
    wait_for_data(engine, controls, start, [status, result, take], [event], lacks)


def given_to(choices: Asked, job: Job) -> Asked:
    """What was asked for with the picture that the job has: a tab may have its own."""
    if isinstance(job, Columns) and job.picture is not choices.picture:
        return replace(choices, picture=job.picture, example="")
    return choices


def follow(engine: Engine, choices: Asked, job: Job, request: gr.Request) -> Generator[Any, None, Any]:
    """Run a job for a tab with the outputs status, result and what can be taken away; returns its value."""
    begun = time.monotonic()
    yield status_html("Working …", 0), gr.skip(), ""
    for item in engine.run(choices.loaded.name, job, request):
        if isinstance(item, Progress):
            pictures = previews_html(item.pictures) if item.pictures else gr.skip()
            yield status_html(f"Working: {item.words} …", item.share), pictures, gr.skip()
        elif isinstance(item, tuple):
            value = item[0]
        else:
            yield gr.skip()
    yield status_html(f"Done in {time.monotonic() - begun:.1f} s."), gr.skip(), gr.skip()
    return value


def keep(
    engine: Engine, choices: Asked, job: Job, value: Any, tab: str, own: tuple[tuple[str, Any], ...] = ()
) -> tuple[Result, str]:
    """Keep finished work for whoever fetches its files; returns it with its key, as `take_html` wants them."""
    made = Result(choices.loaded.name, job, choices.given, value, choices.example, tab, own, len(choices.seeds),
                  choices.loaded.words)  # fmt: skip
    key = key_of("result", choices.loaded.name, tab, job)
    engine.store.put(key, made)
    return made, key


def in_link(value: Any) -> Any:
    """What a link says of a control: of a file the name of the example that it is, or nothing."""
    if isinstance(value, str) and os.sep in value:
        return example_of(value)
    return f"{value:g}" if isinstance(value, float) else value


def wait_for_data(
    engine: Engine,
    controls: Controls,
    start: gr.Button,
    outputs: Sequence[gr.HTML],
    events: Sequence[Any],
    lacks: Callable[[Loaded], str],
) -> None:
    """Empty the outputs (status, result, …) with every other checkpoint; `lacks` says why it cannot start."""

    def renew(checkpoint: str) -> tuple[Any, ...]:
        lacking = lacks(engine[checkpoint])
        return gr.update(interactive=not lacking), status_html(lacking), *("" for _ in outputs[1:])

    first, outputs[0].value, *_ = renew(engine.settings.checkpoint)
    start.interactive = first["interactive"]
    controls.checkpoint.change(
        renew, controls.checkpoint, [start, *outputs], cancels=list(events), queue=False, api_visibility="private"
    )


def wire(
    begins: Callable[..., Any],
    stop: gr.Button,
    work: Callable[..., Any],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
    status: gr.HTML,
    stopped: str = "Stopped.",
) -> Any:
    """Start work in the queue of the device with an event such as `button.click`, say that it waits, and stop it."""
    begins(None, None, status, js=f"() => {json.dumps(status_html('Waiting …'))}",
           api_visibility="private")  # fmt: skip
    event = begins(
        work,
        list(inputs),
        list(outputs),
        show_progress="minimal",
        show_progress_on=status,
        api_visibility="private",
        **DEVICE,
    )
    event.failure(None, None, status, js=f"() => {json.dumps(status_html(''))}")
    event.success(None, None, None, js=REMEMBER)  # a page that is loaded again shows the same settings
    stop.click(lambda: status_html(stopped), None, status, cancels=[event], queue=False, api_visibility="private")
    return event
