"""Edit: what happens when a representation is pushed along a direction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from markupsafe import Markup

from rcdm.measures.directions import has_directions, spoken
from rcdm.ui.controls import Controls, asked_here, draws_slider, follow, in_link, keep, wait_for_data, wire
from rcdm.ui.engine import Engine
from rcdm.ui.frames import frames_html
from rcdm.ui.ladders import STILL, SURVEY_STEPS, Edited, Ladders, Survey, by_movement
from rcdm.ui.loaded import NO_DATA, Loaded
from rcdm.ui.sheet import shaded_html, take_html

WORDS = """**What happens along a direction?** The representation is pushed along a direction found in training
images: one that goes with an attribute, or a main one. The slider says how far, in deviations over these images."""
METHODS = {"Attributes": "attributes", "Main directions": "principal"}
MOVES = Markup("""<details class="rcdm"><summary>What every direction moves</summary>{tables}
<p class="legend">How far each attribute of the draws moves per deviation, in its
own deviations, read off one draw at either end ({steps} steps), N 1: a clean direction moves its own attribute
alone.{still}</p></details>""")
STILL_WORDS = " Left out, because they move nothing by {still:g} or more: {names}."
TAB = "Edit"


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the tab."""
    gr.Markdown(WORDS)
    with gr.Row():
        method = gr.Radio(list(METHODS.items()), value="attributes", label="Directions")
        reach = gr.Slider(0.5, 4, 2, step=0.5, label="Largest push (deviations)")
        draws = draws_slider(engine, "Draws per push")
    direction = gr.Dropdown(
        [], value=None, label="Direction, the ones that move most on top", visible=False, allow_custom_value=True,
        elem_id="direction",
    )  # fmt: skip
    own = {"method": method, "reach": reach, "draws": draws, "direction": direction}
    controls.tabs[TAB] = dict(own)
    inputs = [*controls.inputs(), *own.values()]

    def work(request: gr.Request, *values: Any) -> Iterator[Any]:
        choices = asked_here(engine, values[:6])
        method, reach, draws, wish = values[6:]
        if method not in METHODS.values():
            raise ValueError(f"There is no method {str(method)[:40]!r}; choose one of {', '.join(METHODS.values())}.")
        if not isinstance(reach, int | float) or not 0.5 <= reach <= 4:
            raise ValueError("The largest push must be from 0.5 to 4 deviations.")
        survey = Survey(choices.picture, choices.sources, choices.seeds[0], method, float(reach))
        found = yield from _with(gr.skip(), follow(engine, choices, survey, request))
        moving, still = by_movement(found)
        if not moving:
            raise ValueError("No direction moves anything here: push further, or take other sources.")
        way = wish if wish in moving else moving[0]
        listed = gr.update(choices=[(spoken(name), name) for name in moving], value=way, visible=True)
        seeds = choices.first_seeds(draws)
        job = Edited(choices.picture, choices.sources, seeds, choices.steps, method, float(reach), way)
        ladders = yield from _with(listed, follow(engine, choices, job, request))
        said = [("method", method), ("reach", in_link(float(reach))), ("draws", draws), ("direction", way)]
        take = take_html(*keep(engine, choices, job, ladders, TAB, tuple(said)))
        yield listed, gr.skip(), shown(ladders, seeds, found, moving, still), take

    with gr.Row(elem_classes="actions"):
        start = gr.Button("Draw the direction", size="md", variant="primary", min_width=120, elem_id="edit-start")
        stop = gr.Button("Stop", size="md", min_width=80)
    status, result, take = gr.HTML(elem_classes="told"), gr.HTML("", elem_id="edit-result"), gr.HTML("")
    outputs = [direction, status, result, take]
    events = [
        wire(start.click, stop, work, inputs, outputs, status),
        wire(direction.input, stop, work, inputs, outputs, status),
    ]

    def lacks(loaded: Loaded) -> str:
        return "" if loaded.data or has_directions(loaded.pipe) else NO_DATA

    wait_for_data(engine, controls, start, [status, result, take], events, lacks)
    none = gr.update(choices=[], value=None, visible=False)
    for control in (controls.checkpoint, method):  # other directions; a link that sets these has its own
        control.input(lambda: none, None, direction, queue=False, api_visibility="private")
    controls.checkpoint.change(  # to a network that was brought, which no link can name
        lambda name: gr.skip() if name in engine.shelf.names else none, controls.checkpoint, direction, queue=False,
        api_visibility="private",
    )  # fmt: skip


def _with(first: Any, items: Iterator[Any]) -> Any:
    """What `follow` yields, with the output before it; returns what `follow` returns."""
    while True:
        try:
            item = next(items)
        except StopIteration as end:
            return end.value
        yield (first, *item) if isinstance(item, tuple) else item


def shown(
    ladders: Ladders, seeds: tuple[int, ...], survey: dict[str, dict[str, dict[str, float]]], moving: list[str],
    still: list[str],
) -> Markup:  # fmt: skip
    """The ladder of one direction, and below it what every direction moves."""
    names = ", ".join(spoken(way) for way in still)
    words = STILL_WORDS.format(still=STILL, names=names) if still else ""
    tables = Markup()
    for source, ways in survey.items():
        lines = {way: ways[way] for way in moving if way in ways}
        if not lines:
            continue
        head = [source, *(name.replace("_", " ") for name in next(iter(lines.values())))]
        top = max(0.1, *(value for line in lines.values() for value in line.values()))
        rows = [(spoken(way), [(value, "") for value in line.values()]) for way, line in lines.items()]
        tables += shaded_html(head, rows, top=top)
    note = MOVES.format(steps=SURVEY_STEPS, still=words, tables=tables)
    return frames_html(ladders, seeds, what="Push, in deviations", start=len(ladders.steps) - 1, note=note)
