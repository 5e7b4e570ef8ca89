"""Transform: what a representation notices of a change of the image, and what it ignores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from markupsafe import Markup

from rcdm.data.transformations import TRANSFORMATIONS, in_views_of
from rcdm.figures.result import StudyResult
from rcdm.ui.controls import Asked, Controls, draws_slider, run_tab
from rcdm.ui.drawing import Job
from rcdm.ui.engine import Engine
from rcdm.ui.exploring import COMPANIONS, Study
from rcdm.ui.frames import frames_html
from rcdm.ui.ladders import Ladders, Transformed
from rcdm.ui.loaded import Loaded
from rcdm.ui.sheet import shaded_html

WORDS = """**What does it ignore?** Pick a change of the image and drag its strength: draws that stay as they are
come from a representation that does not notice it."""
NOTE = Markup("""<p class="legend"><b>Alignment</b>, the curve: squared distance that the representation moves, over
that to another image on average. 0 is invariant, 1 is as far as another image. N 1, this image. {views}</p>""")
ALL = """How far the strongest of each change moves every representation, over the distance to another image: 0 is
invariant, 1 is as far as another image. N {n} images: yours and {others} more; intervals are in the JSON. A dot marks
what was part of the views that the network learnt to ignore. The strongest on top."""


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the tab."""
    gr.Markdown(WORDS)
    with gr.Row():
        name = gr.Dropdown(list(TRANSFORMATIONS), value="hue", label="Change of the image")
        draws = draws_slider(engine, "Draws per strength")

    def make(choices: Asked, name: str, draws: int) -> tuple[Job, Callable[[Any], str]]:
        if name not in TRANSFORMATIONS:
            raise ValueError(f"There is no change {str(name)[:40]!r}; choose one of {', '.join(TRANSFORMATIONS)}.")
        seeds = choices.first_seeds(draws)
        job = Transformed(choices.picture, name, choices.sources, seeds, choices.steps)
        return job, lambda ladders: shown(choices.loaded, ladders, seeds)

    own = {"change": name, "draws": draws}
    run_tab(engine, controls, make, own, tab="Transform", button="Draw every strength", name="transform")
    with gr.Accordion("All transformations at once", open=False, elem_classes="more"):
        gr.Markdown("Every change at every strength, one draw each: this takes a minute or more, and can be stopped.")
        run_tab(engine, controls, make_all, {}, tab="Transform", button="All transformations", name="transform-all")


def make_all(choices: Asked) -> tuple[Job, Callable[[Any], str]]:
    """The study of invariance on this image and others."""
    job = Study(
        "invariance", (choices.picture,), choices.sources, choices.seeds[:1], choices.steps, companions=COMPANIONS
    )
    return job, lambda result: all_shown(choices.loaded, result)


def all_shown(loaded: Loaded, result: StudyResult) -> Markup:
    """A table of alignment, transformation by source, shaded."""
    found, sources = result.numbers["transformations"], result.numbers["sources"]
    last = {
        name: {source: about["sources"][source]["alignment"][-1]["value"] for source in sources}
        for name, about in found.items()
    }
    order = sorted(last, key=lambda name: -max(last[name].values()))
    rows = []
    for name in order:
        trained = [in_views_of(loaded.views(source), name) for source in sources]
        cells = [(v, "•" if seen else "") for v, seen in zip(last[name].values(), trained, strict=True)]
        rows.append((f"{name}, {found[name]['strengths'][-1]:g} {found[name]['unit']}", cells))
    n = result.numbers["images"]
    return shaded_html(["change", *sources], rows) + Markup('<div class="rcdm"><p class="legend">{}</p></div>').format(
        ALL.format(n=n, others=n - 1)
    )


def shown(loaded: Loaded, ladders: Ladders, seeds: tuple[int, ...]) -> Markup:
    """The ladder of strengths with the alignment curve of every source."""
    curves = {name: [0.0, *numbers["alignment"]] for name, numbers in ladders.numbers["sources"].items()}
    note = NOTE.format(views=views_in_words(loaded, ladders.numbers["transformation"], list(curves)))
    return frames_html(ladders, seeds, what="Strength", start=len(ladders.steps) - 1, curves=curves, note=note)


def views_in_words(loaded: Loaded, name: str, sources: list[str]) -> str:
    """Which of the networks saw this change in the views that they learnt to ignore."""
    said: dict[bool | None, list[str]] = {}
    for network in dict.fromkeys(source.partition("/")[0] for source in sources):
        said.setdefault(in_views_of(loaded.views(network), name), []).append(network)
    words = {
        True: f"{name} was part of the views of {{}}",
        False: f"{name} was no part of the views of {{}}",
        None: "the views of {} are not known",
    }
    sentence = "; ".join(words[seen].format(" and ".join(networks)) for seen, networks in said.items())
    return sentence[:1].upper() + sentence[1:] + "."
