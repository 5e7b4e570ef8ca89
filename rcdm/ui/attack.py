"""Attack: how little must an image change for its representation to become another one?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from rcdm.figures.result import StudyResult
from rcdm.ui.controls import Asked, Controls, run_tab
from rcdm.ui.drawing import Job
from rcdm.ui.engine import Engine
from rcdm.ui.exploring import COMPANIONS, Study
from rcdm.ui.frames import frames_html

WORDS = """**How far can a hardly visible change move it?** Every pixel may change by a few grey levels of 255,
chosen to move the representation as far as possible; then images are drawn from what it became."""
NOTE = Markup("""<p class="legend">The curves: distance that the representation moves, over that to another image (1),
averaged over {n} images: yours and {others} more. A random change of every pixel, as large
as the largest attack, moves it by {random}.</p>""")


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the tab."""
    gr.Markdown(WORDS)
    strength = gr.Slider(5, 40, 20, step=5, label="Steps of the attack")

    def make(choices: Asked, strength: float) -> tuple[Job, Callable[[Any], str]]:
        job = Study(
            "adversarial", (choices.picture,), choices.sources, choices.seeds[:1], choices.steps,
            (("steps", int(strength)),), companions=COMPANIONS,
        )  # fmt: skip
        return job, shown

    run_tab(engine, controls, make, [strength], button="Attack", name="attack")


def shown(result: StudyResult) -> Markup:
    """The ladder of strengths, and how far the representation went."""
    sources = result.numbers["sources"]
    curves = {name: [number["value"] for number in numbers["distance"]] for name, numbers in sources.items()}
    random = ", ".join(f"{numbers['random'][-1]['value']:.2f} ({name})" for name, numbers in sources.items())
    n = result.numbers["images"]
    rows = tuple(row.replace(", image 0", ", your image").replace(", image ", ", other image ") for row in result.rows)
    return frames_html(
        replace(result, rows=rows), what="Largest change of a value", start=len(result.columns) - 1, curves=curves,
        note=NOTE.format(n=n, others=n - 1, random=random),
    )  # fmt: skip
