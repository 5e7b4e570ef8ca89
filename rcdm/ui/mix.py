"""Mix: what lies between two images."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import gradio as gr
from markupsafe import Markup

from rcdm.figures.result import StudyResult
from rcdm.studies import STUDIES
from rcdm.ui.controls import Asked, Controls, Photo, draws_slider, example_of, run_tab
from rcdm.ui.drawing import Job
from rcdm.ui.engine import Engine
from rcdm.ui.examples import examples_of
from rcdm.ui.exploring import Study
from rcdm.ui.frames import frames_html
from rcdm.ui.guard import read_photo
from rcdm.ui.ladders import Ladders
from rcdm.ui.loaded import Loaded

POINTS = 9
WORDS = """**What lies between two images?** The slider goes from the representation of the image on the left to that
of the second image here, always with the same noise; a smooth path changes little by little."""
NOTE = Markup("""<p class="legend">The curves: distance between neighbouring draws, over that between the two images,
the mean over {draws} noises; an even path has {even:.2f} everywhere.</p>""")


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the tab."""
    gr.Markdown(WORDS)
    with gr.Row():
        first = str(examples_of(engine[engine.settings.checkpoint])[1])
        second = Photo(first, format="png", sources=["upload", "clipboard"], label="Second image", height=180)
        with gr.Column():
            path = gr.Radio(list(STUDIES["interpolation"].option("path").choices), value="linear", label="Path")
            draws = draws_slider(engine, "Draws per point")

    def make(choices: Asked, second: str | None, path: str, draws: int) -> tuple[Job, Callable[[Any], str]]:
        settings = (("path", path), ("points", POINTS))
        pictures, seeds = (choices.picture, read_photo(second)), choices.first_seeds(draws)
        return Study("interpolation", pictures, choices.sources, seeds, choices.steps, settings), shown

    own = {"second": second, "path": path, "draws": draws}
    run_tab(engine, controls, make, own, tab="Mix", button="Draw the path", name="mix")
    controls.checkpoint.input(
        lambda name, photo: second_of(engine[name], photo), [controls.checkpoint, second], second,
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip


def second_of(loaded: Loaded, photo: str | None) -> Any:
    """An image that the checkpoint knows, while none of the visitor's is there."""
    return str(examples_of(loaded)[1]) if photo is None or example_of(photo) else gr.skip()


def shown(result: StudyResult) -> Markup:
    """The path as a slider, with the jumps between its points."""
    numbers = result.numbers
    seeds, sources, width = numbers["seeds"], list(numbers["sources"]), len(result.columns)
    drawn = {
        source: [
            [result.images[(i * len(seeds) + k) * width + step] for k in range(len(seeds))]
            for step in range(1, width - 1)  # the given images at its ends stand beside the tab already
        ]
        for i, source in enumerate(sources)
    }
    steps = result.columns[1:-1]
    jumps = {name: about["jumps"] for name, about in numbers["sources"].items()}
    between = [f"{a} to {b}" for a, b in pairwise(steps)]
    note = NOTE.format(even=1 / (POINTS - 1), draws=len(seeds))
    return frames_html(
        Ladders(steps, drawn, {}, {}), seeds, what="Share of the second image", start=len(steps) // 2, curves=jumps,
        steps=between, note=note,
    )  # fmt: skip
