"""Transform: what a representation notices of a change of the image, and what it ignores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from markupsafe import Markup

from rcdm.data.transformations import TRANSFORMATIONS
from rcdm.figures.result import StudyResult
from rcdm.ui.controls import Asked, Controls, run_tab
from rcdm.ui.drawing import Job
from rcdm.ui.engine import Engine
from rcdm.ui.exploring import Transformed
from rcdm.ui.frames import frames_html

WORDS = """**What does it ignore?** Pick a change of the image and drag its strength: draws that stay as they are
come from a representation that does not notice it."""
NOTE = Markup("""<p class="legend"><b>Alignment</b>, the curve: squared distance that the representation moves, over
that to another image on average. 0 is invariant, 1 is as far as another image. {views}</p>""")
IN_VIEWS = "This change is usually part of the views that such networks are trained to ignore."
NOT_IN_VIEWS = "This change is usually not part of the views that such networks are trained to ignore."


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the tab."""
    gr.Markdown(WORDS)
    name = gr.Dropdown(list(TRANSFORMATIONS), value="hue", label="Change of the image")

    def make(choices: Asked, name: str) -> tuple[Job, Callable[[Any], str]]:
        if name not in TRANSFORMATIONS:
            raise ValueError(f"There is no change {str(name)[:40]!r}; choose one of {', '.join(TRANSFORMATIONS)}.")
        return Transformed(choices.picture, name, choices.sources, choices.seeds[0], choices.steps), shown

    run_tab(engine, controls, make, [name], button="Draw every strength", name="transform")


def shown(result: StudyResult) -> Markup:
    """The ladder of strengths with the alignment curve of every source."""
    curves = {name: [0.0, *numbers["alignment"]] for name, numbers in result.numbers["sources"].items()}
    note = NOTE.format(views=IN_VIEWS if result.numbers["in_views"] else NOT_IN_VIEWS)
    return frames_html(result, what="Strength", start=len(result.columns) - 1, curves=curves, note=note)
