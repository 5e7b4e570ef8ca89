"""Edit: what happens when a representation is pushed along a direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from rcdm import sprites
from rcdm.drawing import Job
from rcdm.exploring import Study
from rcdm.studies.result import StudyResult
from rcdm.ui.controls import Asked, Controls, run_tab
from rcdm.ui.engine import Engine
from rcdm.ui.frames import frames_html
from rcdm.ui.sheet import table_html

WORDS = """**What happens along a direction?** The representation is pushed along directions found in training
images: those that go with an attribute, or the main ones. The slider says how far, in deviations over these images."""
METHODS = {"Attributes": "attributes", "Main directions": "principal"}
NOTE = """<p class="legend">How far each attribute of the draws moves per deviation, in its own deviations, over
{images} image: a clean direction moves its own attribute alone.</p>"""


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the tab."""
    gr.Markdown(WORDS)
    with gr.Row():
        method = gr.Radio(list(METHODS.items()), value="attributes", label="Directions")
        reach = gr.Slider(0.5, 4, 2, step=0.5, label="Largest push (deviations)")

    def make(wanted: Asked, method: str, reach: float) -> tuple[Job, Callable[[Any], str]]:
        settings = (("method", method), ("reach", float(reach)))
        pictures, sources, seeds = (wanted.picture,), wanted.sources[:1], wanted.seeds[:1]
        return Study("manipulation", pictures, sources, seeds, wanted.steps, settings, references=True), shown

    gr.Markdown("Of the chosen sources, the first one is edited.")
    run_tab(engine, controls, make, [method, reach], button="Draw the directions", name="edit")


def shown(result: StudyResult) -> str:
    """A ladder per direction, and the table of what moves."""
    rows = tuple(spoken(row.split(", ")[2]) for row in result.rows)  # source, image, direction, seed
    ladder = StudyResult(_without_given(result), rows, result.columns[1:], result.numbers)
    tables = ""
    for source, found in result.numbers["sources"].items():
        moves = found["moves"]
        names = list(next(iter(moves.values())))
        lines = [[spoken(way), *(f"{line[name]:.2f}" for name in names)] for way, line in moves.items()]
        tables += table_html([source, *(name.replace("_", " ") for name in names)], lines)
    note = NOTE.format(images=result.numbers["images"])
    return frames_html(ladder, what="Push", start=len(ladder.columns) // 2, note=tables + note)


def spoken(direction: str) -> str:
    """A direction's name in words: `shape 4` is that of the fifth shape, `hue 0` and `hue 1` cosine and sine."""
    name, _, part = direction.rpartition(" ")
    kind = sprites.KINDS.get(name, "")
    if kind == "class":
        return f"{name}: {sprites.SHAPES[int(part)]}"
    if kind == "angle" or name == "edges":
        return f"{name.replace('_', ' ')} ({('cosine', 'sine')[int(part)]})"
    return direction.replace("_", " ")


def _without_given(result: StudyResult) -> list[Any]:
    width = len(result.columns)
    return [image for i, image in enumerate(result.images) if i % width]
