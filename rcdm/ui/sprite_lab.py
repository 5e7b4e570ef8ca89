"""Sprite lab: set the factors of a drawn shape, and see what each source keeps of them, with the truth beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from markupsafe import Markup
from PIL import Image

from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.ui.controls import Asked, Controls, look_at, run_tab
from rcdm.ui.drawing import Column, Columns, Job
from rcdm.ui.engine import Engine
from rcdm.ui.exploring import read_factors
from rcdm.ui.loaded import Loaded
from rcdm.ui.sheet import sheet_html, table_html

SPRITE = {
    "shape": "heart", "hue": 0.98, "size": 0.58, "rotation": 0.79, "x": -0.05, "y": 0.0, "ground_hue": 0.52,
    "ground_brightness": 0.7,
}  # fmt: skip
PIXELS = 256
WORDS = """**Is it true?** Here the truth is known: set the factors of a drawn shape, and the table says what the
draws of each source say about every factor, beside what was set."""
NOTE = Markup("""<div class="rcdm"><p class="legend">Read off the draws by a small network (angles in turns).
<b>±</b> is their deviation: small where the representation holds the factor. Retention is that of these draws
alone. <b>†</b>: here the decoder is known to draw less than the representation holds (About has the
numbers).</p></div>""")
WEAK = Markup(' <abbr title="Here the decoder is known to draw less than h holds: see About.">†</abbr>')
LACKING = Markup(
    '<div class="rcdm"><p>Take a checkpoint of the drawn world and at least 2 images per source to read factors.</p>'
    "</div>"
)

OTHER_WORLD = "This needs a checkpoint of the drawn world: choose sprites-32."


def sprite(
    shape: str, hue: float, size: float, rotation: float, x: float, y: float, ground_hue: float,
    ground_brightness: float,
) -> Image.Image:  # fmt: skip
    """Draw a sprite from its factors."""
    values: dict[str, Any] = {"ground_hue": ground_hue, "ground_brightness": ground_brightness}
    factors = sprites.make_factors(shape=shape, hue=hue, size=size, rotation=rotation, x=x, y=y, **values)
    return im.to_pil(sprites.render(factors, PIXELS))[0]


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the tab. Endpoint: `/sprite`."""
    gr.Markdown(WORDS)
    with gr.Row():
        factors = factor_controls()
    drawn = gr.on(
        [control.input for control in factors],
        sprite,
        factors,
        controls.photo,
        api_name="sprite",
        show_progress="hidden",
        trigger_mode="always_last",
    )
    look_at(engine, controls, drawn.then)

    def lacks(loaded: Loaded) -> str:
        return "" if loaded.pipe.config.trained_on in ("", "sprites") else OTHER_WORLD

    def make(choices: Asked, *values: Any) -> tuple[Job, Callable[[Any], str]]:
        truth = dict(zip(sprites.KINDS, values, strict=True))
        job = Columns(sprite(**truth), choices.sources, choices.seeds, choices.steps)
        given = im.centre_crop(job.picture, choices.given.width)
        return job, lambda columns: shown(choices.loaded, given, columns, choices.seeds, truth)

    own = dict(zip(sprites.KINDS, factors, strict=True))
    run_tab(engine, controls, make, own, tab="Sprite lab", button="What is kept of it?", name="lab", lacks=lacks)


def shown(
    loaded: Loaded, given: Image.Image, columns: list[Column], seeds: tuple[int, ...], truth: dict[str, Any]
) -> Markup:
    """The table of factors, then the columns."""
    read = {column.source: read_factors(column) for column in columns}
    if not all(set(factors) == set(sprites.KINDS) for factors in read.values()):
        return LACKING + sheet_html(given, columns, seeds)
    rows = []
    for name, value in truth.items():
        cells = [name.replace("_", " "), value if isinstance(value, str) else f"{value:.2f}"]
        for column in columns:
            says, spread = read[column.source][name]
            kept = column.kept.get(name)
            note = spread if kept is None else f"{spread}, retention {kept.value:.2f}"
            weak = WEAK if name in loaded.weak_at(column.source) else ""
            cells.append(Markup("{}{} <small>{}</small>").format(says, weak, note))
        rows.append(cells)
    table = table_html(["factor", "truth", *(column.source for column in columns)], rows)
    return table + NOTE + sheet_html(given, columns, seeds)


def factor_controls() -> list[gr.components.Component]:
    """One control per factor of the drawn world, in the order in which `/sprite` takes them."""
    controls: list[gr.components.Component] = []
    for name, kind in sprites.KINDS.items():
        label = name.replace("_", " ").capitalize() + (" (turns)" if kind == "angle" else "")
        if kind == "class":
            controls.append(gr.Dropdown(list(sprites.SHAPES), value=SPRITE[name], label=label, min_width=190))
        else:
            low, high = sprites.RANGES.get(name, (0.0, 1.0))
            controls.append(gr.Slider(low, high, SPRITE[name], step=0.01, label=label, min_width=190))
    return controls
