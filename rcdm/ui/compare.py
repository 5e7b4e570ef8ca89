"""Compare, the first tab: what each source keeps of one image, column beside column."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
from markupsafe import Markup

from rcdm.ui.controls import Asked, Controls, asked_here, keep, run_tab, wire
from rcdm.ui.drawing import Column, Columns, Progress
from rcdm.ui.engine import DEVICE, Engine
from rcdm.ui.exploring import Bits, Nearest
from rcdm.ui.export import FIRST_TAB, Result
from rcdm.ui.guard import LARGEST_SEED
from rcdm.ui.sheet import EMPTY, bits_html, nearest_html, sheet_html, skeleton_html, status_html, take_html
from rcdm.ui.shipped import shipped
from rcdm.ui.store import key_of

MOST_ROWS = 6
GUIDED = {"chosen": None, "none": 0.0, "all": 1.0}
"""What a visitor may ask for -> strength of guidance by regression of every column."""
TO_CONTROLS = "() => { document.querySelector('.controls').scrollIntoView({ behavior: 'smooth' }) }"

WORDS = """**What does this representation keep?** Every column draws images from one representation of your image."""


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the tab."""
    gr.Markdown(WORDS, elem_classes="question")
    rows = gr.State([])  # keys of the drawings shown, the first on top
    with gr.Row(elem_classes="actions"):
        start = gr.Button("Draw", variant="primary", size="md", min_width=90, elem_id="draw")
        below = gr.Button("Add a row", size="md", min_width=150, elem_id="next-row")
        fresh = gr.Button("New seeds", size="md", min_width=90, elem_id="new-seeds")
        stop = gr.Button("Stop", size="md", min_width=70, elem_id="stop")
        below_all = gr.Button("Image", size="md", min_width=70, elem_id="to-controls")  # seen on phones alone
    below_all.click(None, None, None, js=TO_CONTROLS, api_visibility="private")
    guided = gr.Radio(
        _ways(engine, engine.settings.checkpoint), value="chosen",
        label="Guidance of the draws", container=False, elem_id="guidance",
        visible=_can_be_guided(engine, engine.settings.checkpoint),
    )  # fmt: skip
    controls.tabs.setdefault(FIRST_TAB, {})["guidance"] = guided
    words, opening, files, _ = _opening(engine, engine.settings.checkpoint)
    status, sheet, take = gr.HTML(words, elem_classes="told"), gr.HTML(opening, elem_id="sheet"), gr.HTML(files)
    inputs, outputs = [*controls.inputs(), guided, rows], [status, sheet, take, rows]

    def draw(request: gr.Request, *values: Any) -> Iterator[Any]:
        yield from _draw(engine, request, asked_here(engine, values[:6]), values[6], [])

    def add_row(request: gr.Request, *values: Any) -> Iterator[Any]:
        yield from _draw(engine, request, asked_here(engine, values[:6]), values[6], values[7])

    stopped = "Stopped. The drawing below is unfinished."
    events = [
        wire(button.click, stop, work, inputs, outputs, status, stopped)
        for button, work in ((start, draw), (below, add_row))
    ]
    moved = fresh.click(
        _next_seed, [controls.seed, controls.number], controls.seed, queue=False, api_visibility="private"
    )
    drawn = moved.then(draw, inputs, outputs, show_progress="minimal", show_progress_on=status,
                       api_visibility="private", **DEVICE)  # fmt: skip
    stop.click(None, cancels=[drawn], queue=False, api_visibility="private")
    controls.checkpoint.change(  # what was drawn by the other one would be taken for this one's
        lambda name: _opening(engine, name), controls.checkpoint, outputs, cancels=[*events, drawn], queue=False,
        api_visibility="private",
    )  # fmt: skip
    controls.checkpoint.change(
        lambda name, now: gr.update(
            visible=(can := _can_be_guided(engine, name)), value=now if can else "chosen", choices=_ways(engine, name)
        ),
        [controls.checkpoint, guided], guided, queue=False, api_visibility="private",
    )  # fmt: skip
    _more(engine, controls)


def _can_be_guided(engine: Engine, checkpoint: str) -> bool:
    """Whether draws of a checkpoint are guided, or can be."""
    pipe = engine[checkpoint].pipe
    return bool(pipe.guided_sources) or pipe.regressor is not None


def _ways(engine: Engine, checkpoint: str) -> list[tuple[str, str]]:
    """What may be asked for, in words, and the names of GUIDED."""
    chosen = "guided as chosen" if engine[checkpoint].pipe.guided_sources else "as chosen: not guided"
    return [(chosen, "chosen"), ("not guided", "none"), ("all guided alike", "all")]


def _next_seed(seed: float | None, number: int) -> int:
    after = int(seed or 0) + int(number)
    return after if after <= LARGEST_SEED - int(number) else 0


def _draw(engine: Engine, request: gr.Request, choices: Asked, guided: str, above: list[str]) -> Iterator[Any]:
    """Draw one row below those `above`: status, sheets, what can be taken away, and the keys of all rows."""
    job = Columns(choices.picture, choices.sources, choices.seeds, choices.steps, GUIDED[guided])
    own = () if job.strength is None else (("guidance", guided),)
    given, begun = choices.given, time.monotonic()
    rows = ((key, engine.store.get(key)) for key in above[1 - MOST_ROWS :])  # the oldest makes room
    kept: list[tuple[str, Result]] = [(key, result) for key, result in rows if result is not None]
    task = f"{len(job.sources)} × {len(job.seeds)} images"
    before = [None, *(result.seeds for _, result in kept)]  # of the row above each
    top = Markup().join(_sheet(engine, result, seeds) for (_, result), seeds in zip(kept, before, strict=False))
    ways = zip(job.sources, job.guidance(choices.loaded.pipe), strict=True)
    empty = [Column(source, [], guidance=one.in_words()) for source, one in ways]
    waiting = skeleton_html(given, empty, job.seeds, above=before[-1])
    yield status_html(f"Drawing {task} …", 0), top + waiting, gr.skip(), gr.skip()
    for item in engine.run(choices.loaded.name, job, request):
        if isinstance(item, Progress):
            words = status_html(f"Drawing {task}: {item.words}", item.share)
            yield words, top + sheet_html(given, item.columns, job.seeds, above=before[-1]), gr.skip(), gr.skip()
        elif isinstance(item, tuple):
            result, key = keep(engine, choices, job, item[0], FIRST_TAB, own)
            full = f"; the oldest of {MOST_ROWS} rows made room" if len(above) >= MOST_ROWS else ""
            done = status_html(f"{task} in {time.monotonic() - begun:.1f} s{full}")
            keys = [*(earlier for earlier, _ in kept), key]
            yield done, top + _sheet(engine, result, before[-1]), take_html(result, key), keys
        else:
            yield gr.skip()


def _sheet(engine: Engine, result: Result, above: tuple[int, ...] | None) -> Markup:
    """A row, below one of the seeds `above`, or the first one."""
    abilities = engine[result.checkpoint].abilities
    return sheet_html(result.given, result.columns, result.seeds, above=above, abilities=abilities)


def _opening(engine: Engine, checkpoint: str) -> tuple[Markup, Markup, Markup, list[str]]:
    """What is seen before anything is drawn: what the checkpoint ships, finished, or how to begin."""
    key = key_of("shipped", checkpoint)
    result = engine.shipped.get(key) or shipped(engine[checkpoint])
    if result is None:
        return status_html(""), Markup(EMPTY), Markup(), []
    engine.shipped[key] = result
    words = status_html(f"A finished drawing of {result.photo}; press Draw for yours.")
    return words, _sheet(engine, result, None), take_html(result, key), []


def _more(engine: Engine, controls: Controls) -> None:
    """What is computed on request alone: bits, and the nearest training images."""
    with gr.Accordion("More about this image", open=False, elem_classes="more"):
        run_tab(
            engine, controls, lambda choices: (Bits(choices.picture, choices.sources), bits_html), {},
            tab=FIRST_TAB, button="Bits per source", name="bits",
        )  # fmt: skip
        with gr.Column(visible=bool(engine[engine.settings.checkpoint].data)) as near:
            run_tab(
                engine, controls, lambda choices: (Nearest(choices.picture, choices.sources), nearest_html), {},
                tab=FIRST_TAB, button="Nearest training images", name="nearest",
            )  # fmt: skip
    controls.checkpoint.change(
        lambda name: gr.update(visible=bool(engine[name].data)), controls.checkpoint, near, queue=False,
        api_visibility="private",
    )  # fmt: skip
