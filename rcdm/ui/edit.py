"""Edit: what happens when a representation is pushed along a direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from markupsafe import Markup

from rcdm.data import sprites
from rcdm.figures.result import StudyResult
from rcdm.measures.directions import has_directions
from rcdm.ui.controls import Asked, Controls, run_tab
from rcdm.ui.drawing import Job
from rcdm.ui.engine import Engine
from rcdm.ui.exploring import Study
from rcdm.ui.frames import frames_html
from rcdm.ui.loaded import NO_DATA, Loaded
from rcdm.ui.sheet import table_html

WORDS = """**What happens along a direction?** The representation is pushed along directions found in training
images: those that go with an attribute, or the main ones. The slider says how far, in deviations over these images."""
METHODS = {"Attributes": "attributes", "Main directions": "principal"}
NOTE = Markup("""<p class="legend">How far each attribute of the draws moves per deviation, in its own deviations, over
{images} image: a clean direction moves its own attribute alone.</p>""")


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the tab."""
    gr.Markdown(WORDS)
    with gr.Row():
        method = gr.Radio(list(METHODS.items()), value="attributes", label="Directions")
        reach = gr.Slider(0.5, 4, 2, step=0.5, label="Largest push (deviations)")

    def make(choices: Asked, method: str, reach: float) -> tuple[Job, Callable[[Any], str]]:
        settings = (("method", method), ("reach", float(reach)))
        pictures, seeds = (choices.picture,), choices.seeds[:1]
        return Study("manipulation", pictures, choices.sources, seeds, choices.steps, settings, directions=True), shown

    def lacks(loaded: Loaded) -> str:
        return "" if loaded.data or has_directions(loaded.pipe) else NO_DATA

    run_tab(engine, controls, make, [method, reach], button="Draw the directions", name="edit", lacks=lacks)


def shown(result: StudyResult) -> Markup:
    """A ladder per direction, the sources side by side, and tables of what moves."""
    ladder, places = _side_by_side(result)
    tables = Markup()
    for source, numbers in result.numbers["sources"].items():
        moves = numbers["moves"]
        names = list(next(iter(moves.values())))
        lines = [[spoken(way), *(f"{line[name]:.2f}" for name in names)] for way, line in moves.items()]
        tables += table_html([source, *(name.replace("_", " ") for name in names)], lines)
    note = NOTE.format(images=result.numbers["images"])
    return frames_html(ladder, what="Push", start=len(ladder.columns) // 2, note=tables + note, places=places)


def spoken(direction: str) -> str:
    """A direction's name in words: `shape 4` is that of the fifth shape, `hue 0` and `hue 1` cosine and sine,
    `place 0` and `place 1` x and y."""
    name, _, part = direction.rpartition(" ")
    kind = sprites.KINDS.get(name, "")
    if kind == "class":
        return f"{name}: {sprites.SHAPES[int(part)]}"
    if kind == "angle" or name == "edges":
        return f"{name.replace('_', ' ')} ({('cosine', 'sine')[int(part)]})"
    if name == "place":
        return f"place ({'xy'[int(part)]})"
    return direction.replace("_", " ")


def _side_by_side(result: StudyResult) -> tuple[StudyResult, list[int]]:
    """The ladders without the given image, a line per direction, and the place of each in its line: that of its source.

    One source alone needs no places.
    """
    width, sources = len(result.columns), list(result.numbers["sources"])
    parts = [row.split(", ") for row in result.rows]  # source, image, direction, seed
    lines = list(dict.fromkeys(direction for _, _, direction, _ in parts))
    order = sorted(range(len(parts)), key=lambda i: (lines.index(parts[i][2]), sources.index(parts[i][0])))
    several = len(sources) > 1
    rows = tuple(spoken(parts[i][2]) + (f", {parts[i][0]}" if several else "") for i in order)
    images = [image for i in order for image in result.images[i * width + 1 : (i + 1) * width]]
    places = [sources.index(parts[i][0]) + 1 for i in order] if several else []
    return StudyResult(images, rows, result.columns[1:], result.numbers), places
