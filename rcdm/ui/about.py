"""About: what the picture means and what it does not, how well it is calibrated, whose data and whose licence."""

from __future__ import annotations

from typing import Any

import gradio as gr
from markupsafe import Markup

from rcdm.diffusion.model_card import calibration_of
from rcdm.ui.controls import Controls
from rcdm.ui.engine import Engine
from rcdm.ui.loaded import Loaded
from rcdm.ui.sheet import render

WORDS = """**What the picture means.** A frozen network turns an image into a vector, its representation `h`. A
diffusion model that has seen pairs of images and representations draws many images that have that same `h`. What
stays the same over the draws is in `h`; what varies is not.

**What it does not mean.** What varies is absent from `h` *as far as this decoder can tell*: a decoder that has learnt
too little varies what `h` holds. So every checkpoint is measured. *Retention* is the share of an attribute's variance
that is fixed over the draws; *probe* is how well a small network reads the attribute from `h` itself: where retention
is well below it, the decoder falls short. *Calibration* is 1 when draws are as uncertain as they should be, above 1
when they are too certain. A drawn image is no photograph of anything, and says nothing about where a training image
came from.

**Your images.** An upload is decoded in memory, used for your drawing, and forgotten within an hour together with
what was drawn from it. Nothing is shown to others, there are no analytics, and no other server is asked.

**Method and licence.** RCDM: Bordes, Balestriero & Vincent, *High Fidelity Visualization of What Your Self-Supervised
Representation Knows About*, TMLR 2022 (arXiv 2112.09164). Code and the drawn world: MIT. The photographs among the
examples are pictures 6 and 20 of the Kodak Lossless True Color Image Suite, released for unrestricted use, and
*Chelsea* by Stéfan van der Walt (CC0). A checkpoint trained on other data has its terms in its model card; the
networks released with the paper are CC-BY-NC."""


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the tab."""
    gr.Markdown(WORDS)
    table = gr.HTML(calibration_html(engine[engine.settings.checkpoint]))
    controls.checkpoint.change(
        lambda name: calibration_html(engine[name]), controls.checkpoint, table, show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip


def calibration_html(loaded: Loaded) -> Markup:
    """Retention, probe and calibration of every source, from the checkpoint's metrics.json."""
    measured = {s: m["retention"] for s, m in loaded.metrics.get("sources", {}).items() if "retention" in m}
    free: dict[str, Any] = next(iter(measured.values()), {})  # every source has the same null
    attributes = list(free)
    rows: list[list[str]] = [[_breakable(s), *(_cell(kept[a]) for a in attributes)] for s, kept in measured.items()]
    if rows and all("null" in number for number in free.values()):
        rows.append(["unconditional draws", *(f"{free[a]['null']:.2f}" for a in attributes)])
    head = ["source", *(a.replace("_", " ") for a in attributes)]
    return render("calibration.html", name=loaded.name, metrics=loaded.metrics, head=head, rows=rows)


def _breakable(source: str) -> Markup:
    """A line may end after the slash of its name."""
    return Markup("/<wbr>").join(source.split("/"))


def _cell(number: dict[str, Any]) -> Markup:
    probe = f" · {number['probe']:.2f}" if "probe" in number else ""
    return Markup("{:.2f}{}<small>{}</small>").format(number["value"], probe, calibration_of(number))
