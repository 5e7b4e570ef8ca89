"""Attack: how little must an image change for its representation to become another one?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from markupsafe import Markup

from rcdm.ui.controls import Asked, Controls, draws_slider, run_tab
from rcdm.ui.drawing import Job
from rcdm.ui.engine import Engine
from rcdm.ui.frames import frames_html
from rcdm.ui.guard import whole
from rcdm.ui.ladders import Attacked, Ladders

WORDS = """**How far can a hardly visible change move it?** Every pixel may change by a few grey levels of 255,
chosen to move the representation as far as possible; then images are drawn from what it became."""
NOTE = Markup("""<p class="legend">The curves: squared distance that the representation moves, over that to another
image on average (1). N 1, this image; <code>rcdm study adversarial</code> takes many, with intervals. A random change
of every pixel, as large as the largest attack, moves it by {random}.</p>""")


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the tab."""
    gr.Markdown(WORDS)
    with gr.Row():
        strength = gr.Slider(5, 40, 20, step=5, label="Steps of the attack")
        draws = draws_slider(engine, "Draws per strength")

    def make(choices: Asked, strength: Any, draws: int) -> tuple[Job, Callable[[Any], str]]:
        seeds, steps = choices.first_seeds(draws), whole("Steps of the attack", strength, 1, 40)
        job = Attacked(choices.picture, choices.sources, seeds, choices.steps, steps)
        return job, lambda ladders: shown(ladders, seeds)

    run_tab(engine, controls, make, {"attack": strength, "draws": draws}, tab="Attack", button="Attack", name="attack")


def shown(ladders: Ladders, seeds: tuple[int, ...]) -> Markup:
    """The ladder of strengths, and how far the representation went."""
    sources = ladders.numbers["sources"]
    curves = {name: numbers["distance"] for name, numbers in sources.items()}
    random = ", ".join(f"{numbers['random'][-1]:.2f} ({name})" for name, numbers in sources.items())
    return frames_html(
        ladders, seeds, what="Largest change of a value", start=len(ladders.steps) - 1, curves=curves,
        note=NOTE.format(random=random),
    )  # fmt: skip
