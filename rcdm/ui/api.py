"""The endpoints that programs call: `/encode`, `/draw`, `/study`; their names and parameters stay as they are."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr
from gradio.components.api_component import Api
from PIL import Image

from rcdm.figures.result import StudyResult
from rcdm.studies import STUDIES
from rcdm.ui.controls import Asked, Photo, asked
from rcdm.ui.drawing import Column, Columns
from rcdm.ui.engine import DEVICE, Engine
from rcdm.ui.examples import default_sources
from rcdm.ui.exploring import COMPANIONS, Encoding, Study
from rcdm.ui.export import numbers_of
from rcdm.ui.guard import read_photo, whole

NUMBER, TEXT = {"type": "integer"}, {"type": "string"}
TEXTS: Any = {"type": "array", "items": TEXT}
STUDY: Any = {**TEXT, "enum": list(STUDIES)}
OBJECT: Any = {"type": "object", "properties": {}, "additionalProperties": True}
# gr.Gallery with its schema made once: Gradio asks for it after every yield, and making it takes tens of milliseconds.
_SCHEMA = gr.Gallery(render=False).api_info()
Pictures = ABCMeta.__new__(
    type(gr.Gallery), "Pictures", (gr.Gallery,), {"api_info": lambda _: _SCHEMA, "is_template": True}
)

MOST = 100
"""Largest number that a setting of a study may be here; the smallest is 1 for whole numbers, else -MOST."""

MOST_DRAWS = 5000
"""How many images one study may draw here, as far as that is known beforehand."""


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

    encode, draw, study = _functions(engine)
    with gr.Column(visible=False):
        pictures, numbers = Pictures(format="png", label="images"), gr.JSON(label="numbers")
        h = gr.JSON(label="representation")
        image, second = Photo(format="png", label="image"), Photo(format="png", label="second")
        button = gr.Button()
        one = Api(names[0], TEXT, "source")
        which = Api("samples", STUDY, "study")
        own = Api({}, OBJECT, "settings")
    button.click(encode, [image, one, checkpoint], h, api_name="encode", **DEVICE)
    button.click(draw, [image, *settings, checkpoint], [pictures, numbers], api_name="draw", **DEVICE)
    everything = [which, image, second, *settings, checkpoint, own]
    button.click(study, everything, [pictures, numbers], api_name="study", **DEVICE)


def _functions(engine: Engine) -> tuple[Callable[..., Any], ...]:
    """What `/encode`, `/draw` and `/study` do."""

    def encode(image: str | None, source: str, checkpoint: str, request: gr.Request) -> list[float]:
        """The representation of an image from one source: D numbers, raw."""
        choices = asked(engine, image, checkpoint, [source], 1, 1, 0)
        items = list(engine.run(checkpoint, Encoding(choices.picture, choices.sources[0]), request))
        return list(items[-1][0])  # type: ignore[index]

    def draw(
        image: str | None, sources: list[str], number: int, steps: int, seed: int, checkpoint: str, request: gr.Request
    ) -> Iterator[tuple[Any, Any]]:
        """Draw `number` images from each source's representation of the image, with the seeds from `seed` on.

        Returns the images, row-major over (source, seed) with captions, and the numbers of each source.
        """
        choices = asked(engine, image, checkpoint, sources, number, steps, seed)
        yield gr.skip(), gr.skip()  # from here on a call can be cancelled
        job = Columns(choices.picture, choices.sources, choices.seeds, choices.steps)
        for item in engine.run(checkpoint, job, request):
            if isinstance(item, tuple):
                found = {"seeds": list(choices.seeds), "steps": choices.steps, "sources": numbers_of(item[0])}
                yield _captioned(item[0], choices.seeds), found
            else:
                yield gr.skip(), gr.skip()

    def study(
        study: str,
        image: str | None,
        second: str | None = None,  # None here is what makes it optional for a client; the others have their values
        sources: Any = None,
        number: Any = None,
        steps: Any = None,
        seed: Any = None,
        checkpoint: str = "",
        settings: Any = None,
        request: gr.Request = None,  # Gradio gives it
    ) -> Iterator[tuple[Any, Any]]:
        """One of the studies, with `settings` of its own: its images with captions, and its numbers.

        A study of two images needs `second`; one that compares images takes it where it is given, and others that are
        at hand; one that has a setting for a picture takes it for that.
        """
        job = study_of(study, asked(engine, image, checkpoint, sources, number, steps, seed), second, settings)
        for item in engine.run(checkpoint, job, request):
            yield _answer(item[0]) if isinstance(item, tuple) else (gr.skip(), gr.skip())

    return encode, draw, study


def study_of(name: str, choices: Asked, second: str | None, settings: Any) -> Study:
    """A study as a job, on the picture and on what else it needs. Raises ValueError, with the remedy."""
    if not isinstance(name, str) or name not in STUDIES:
        raise ValueError(f"There is no study {str(name)[:80]!r}; choose one of {', '.join(STUDIES)}.")
    record = STUDIES[name]
    pictures: tuple[Image.Image, ...] = (choices.picture,)
    if not isinstance(settings, dict):
        raise ValueError('The settings of a study are an object such as {"points": 5}, or {}.')
    given = _within(record.accept(settings))
    if record.most == 2 or (second is not None and record.fewest > 1):
        pictures = (choices.picture, read_photo(second))
    elif second is not None:
        given |= {option.name: read_photo(second) for option in record.options if option.kind == "file"}
    others = 0 if record.fewest == 1 or record.most else max(COMPANIONS, record.fewest - len(pictures))
    reference = "reference" in record.parameters
    own = tuple(given.items())
    job = Study(name, pictures, choices.sources, choices.seeds, choices.steps, own, reference, others)
    if (draws := job.calls() // choices.steps) > MOST_DRAWS:
        raise ValueError(f"This asks for about {draws} images, and at most {MOST_DRAWS} are drawn: ask for fewer.")
    return job


def _within(settings: dict[str, Any]) -> dict[str, Any]:
    """Values of options, refused where one asks for too much: this is a page for everybody."""
    for name, value in settings.items():
        if type(value) is int:
            whole(name, value, 1, MOST)
        elif isinstance(value, float) and abs(value) > MOST:
            raise ValueError(f"{name} must be from -{MOST} to {MOST}.")
    return settings


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
