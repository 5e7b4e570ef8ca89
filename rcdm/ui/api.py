"""The endpoints that programs call: `/encode`, `/draw`, `/study`; their names and parameters stay as they are."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
from gradio.components.api_component import Api
from PIL import Image

from rcdm.studies import STUDIES
from rcdm.studies.result import StudyResult
from rcdm.ui.controls import Photo, asked, default_sources
from rcdm.ui.drawing import Column, Columns
from rcdm.ui.engine import DEVICE, Engine
from rcdm.ui.exploring import Encoding, Study
from rcdm.ui.export import numbers_of
from rcdm.ui.guard import in_a_sentence, read_photo

NUMBER, TEXT = {"type": "integer"}, {"type": "string"}
TEXTS: Any = {"type": "array", "items": TEXT}
# gr.Gallery with its schema made once: Gradio asks for it after every yield, and making it takes tens of milliseconds.
_SCHEMA = gr.Gallery(render=False).api_info()
Pictures = ABCMeta.__new__(
    type(gr.Gallery), "Pictures", (gr.Gallery,), {"api_info": lambda _: _SCHEMA, "is_template": True}
)

OF_ONE = ("samples", "interpolation")
"""Studies that say something about one or two images; the others need a data set and the command line."""


def build(engine: Engine) -> None:
    """Add the endpoints to the page that is being built; nothing of them is seen on it."""
    loaded = engine[engine.settings.checkpoint]
    names, steps = default_sources(loaded.pipe.sources.names), loaded.pipe.config.default_steps
    checkpoint = Api(loaded.name, TEXT, "checkpoint")
    settings = [
        Api(names, TEXTS, "sources"),
        Api(8, NUMBER, "number"),
        Api(steps, NUMBER, "steps"),
        Api(0, NUMBER, "seed"),
    ]

    def encode(image: str | None, source: str, checkpoint: str, request: gr.Request) -> list[float]:
        """The representation of an image from one source: D numbers, raw."""
        with in_a_sentence():
            wanted = asked(engine, image, checkpoint, [source], 1, 1, 0)
            items = list(engine.run(checkpoint, Encoding(wanted.picture, wanted.sources[0]), request))
        return list(items[-1][0])  # type: ignore[index]

    def draw(
        image: str | None, sources: list[str], number: int, steps: int, seed: int, checkpoint: str, request: gr.Request
    ) -> Iterator[tuple[Any, Any]]:
        """Draw `number` images from each source's representation of the image, with the seeds from `seed` on.

        Returns the images, row-major over (source, seed) with captions, and the numbers of each source.
        """
        with in_a_sentence():
            wanted = asked(engine, image, checkpoint, sources, number, steps, seed)
            yield gr.skip(), gr.skip()  # from here on a call can be cancelled
            job = Columns(wanted.picture, wanted.sources, wanted.seeds, wanted.steps)
            for item in engine.run(checkpoint, job, request):
                if isinstance(item, tuple):
                    found = {"seeds": list(wanted.seeds), "steps": wanted.steps, "sources": numbers_of(item[0])}
                    yield _captioned(item[0], wanted.seeds), found
                else:
                    yield gr.skip(), gr.skip()

    def study(
        study: str,
        image: str | None,
        second: str | None,
        sources: list[str],
        number: int,
        steps: int,
        seed: int,
        checkpoint: str,
        request: gr.Request,
    ) -> Iterator[tuple[Any, Any]]:
        """A study of one image (`samples`), or of two (`interpolation`): its images with captions, and its numbers."""
        with in_a_sentence():
            if study not in OF_ONE:
                others = ", ".join(name for name in STUDIES if name not in OF_ONE)
                raise ValueError(f"Choose one of {', '.join(OF_ONE)}; `rcdm study` also does {others}.")
            wanted = asked(engine, image, checkpoint, sources, number, steps, seed)
            pictures = (wanted.picture,) if study == "samples" else (wanted.picture, read_photo(second))
            for item in engine.run(
                checkpoint, Study(study, pictures, wanted.sources, wanted.seeds, wanted.steps), request
            ):
                yield _answer(item[0]) if isinstance(item, tuple) else (gr.skip(), gr.skip())

    with gr.Column(visible=False):
        pictures, numbers = Pictures(format="png", label="images"), gr.JSON(label="numbers")
        h = gr.JSON(label="representation")
        image, second = Photo(format="png", label="image"), Photo(format="png", label="second")
        button = gr.Button()
        one = Api(names[0], TEXT, "source")
        which = Api("samples", TEXT, "study")
    button.click(encode, [image, one, checkpoint], h, api_name="encode", **DEVICE)
    button.click(draw, [image, *settings, checkpoint], [pictures, numbers], api_name="draw", **DEVICE)
    everything = [which, image, second, *settings, checkpoint]
    button.click(study, everything, [pictures, numbers], api_name="study", **DEVICE)


def _captioned(columns: Sequence[Column], seeds: Sequence[int]) -> list[tuple[Image.Image, str]]:
    return [
        (image, f"{column.source}, seed {seed}")
        for column in columns
        for image, seed in zip(column.images, seeds, strict=True)
    ]


def _answer(result: StudyResult) -> tuple[list[tuple[Image.Image, str]], dict[str, Any]]:
    """Images with their labels, and numbers without a key "path", which clients take for that of a file."""
    labels = [f"{row}, {column}" for row in result.rows for column in result.columns]
    numbers = {"kind" if key == "path" else key: value for key, value in result.numbers.items()}
    return list(zip(result.images, labels, strict=True)), numbers
