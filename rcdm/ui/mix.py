"""Mix: what lies between two images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from rcdm.figures.result import StudyResult
from rcdm.studies import STUDIES
from rcdm.ui.controls import EXAMPLES, Asked, Controls, Photo, run_tab
from rcdm.ui.drawing import Job
from rcdm.ui.engine import Engine
from rcdm.ui.exploring import Study
from rcdm.ui.frames import frames_html
from rcdm.ui.guard import read_photo

POINTS = 9
WORDS = """**What lies between two images?** The slider goes from the representation of the image on the left to that
of the second image here, always with the same noise; a smooth path changes little by little."""
NOTE = Markup("""<p class="legend">The curves: distance between neighbouring draws, over that between the two images; an
even path has {even:.2f} everywhere.</p>""")


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the tab."""
    gr.Markdown(WORDS)
    with gr.Row():
        second = Photo(
            str(EXAMPLES["arrow.png"]), format="png", sources=["upload", "clipboard"], label="Second image", height=180
        )
        path = gr.Radio(list(STUDIES["interpolation"].option("path").choices), value="linear", label="Path")

    def make(choices: Asked, second: str | None, path: str) -> tuple[Job, Callable[[Any], str]]:
        settings = (("path", path), ("points", POINTS))
        pictures = (choices.picture, read_photo(second))
        return Study("interpolation", pictures, choices.sources, choices.seeds[:1], choices.steps, settings), shown

    run_tab(engine, controls, make, [second, path], button="Draw the path", name="mix")


def shown(result: StudyResult) -> Markup:
    """The path as a slider, with the jumps; the given images at its ends stand beside the tab already."""
    jumps = {name: [0.0, *numbers["jumps"]] for name, numbers in result.numbers["sources"].items()}
    width = len(result.columns)
    drawn = [image for i, image in enumerate(result.images) if 0 < i % width < width - 1]
    path = replace(result, images=drawn, columns=result.columns[1:-1])
    return frames_html(path, what="Share of the second image", curves=jumps, note=NOTE.format(even=1 / (POINTS - 1)))
