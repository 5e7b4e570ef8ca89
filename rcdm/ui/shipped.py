"""A finished drawing that a checkpoint carries, so that its page opens with one: `drawing.json` in its folder."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rcdm.data import images as im
from rcdm.diffusion.checkpoints import folder_of
from rcdm.measures.attributes import Kept
from rcdm.measures.parts import weights_digest
from rcdm.ui.drawing import Column, Columns
from rcdm.ui.examples import EXAMPLES, examples_of
from rcdm.ui.export import Result
from rcdm.ui.loaded import Loaded

FILE = "drawing.json"
MOST_BYTES = 4 * 2**20
IMAGES = 8

Picture = Annotated[str, Field(max_length=2**18)]


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    value: float
    n: int
    low: float | None = None
    high: float | None = None
    null: float | None = None


class _Column(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    source: str
    images: list[Picture] = Field(min_length=2, max_length=16)
    similarity: list[float]
    kept: dict[str, _Kept]
    mean: Picture
    spread: Picture
    foreign: bool | None = None
    guidance: str = Field("", max_length=200)


class _Drawing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    example: str
    seed: int = Field(ge=0, lt=2**31 - 16)
    steps: int = Field(ge=1, le=1000)
    weights: str
    columns: list[_Column] = Field(min_length=1, max_length=4)


def draw(loaded: Loaded, sources: tuple[str, ...], folder: Path, *, seed: int = 0) -> Path:
    """Draw the first example of a checkpoint, as its page would, into a folder; returns the file."""
    path = examples_of(loaded)[0]
    steps = loaded.pipe.config.default_steps
    job = Columns(im.decode(path), sources, tuple(range(seed, seed + IMAGES)), steps)
    columns = [_column(column) for column in job.run(loaded, lambda _: None, lambda: None)]
    about = {"example": path.name, "seed": seed, "steps": steps, "weights": _weights(loaded), "columns": columns}
    (folder / FILE).write_text(json.dumps(about) + "\n")
    return folder / FILE


def shipped(loaded: Loaded) -> Result | None:
    """The drawing that a checkpoint carries; None where there is none, or it is not of these weights or this form."""
    folder = folder_of(loaded.pipe)
    file = folder / FILE if folder is not None else None
    if file is None or not file.is_file() or file.stat().st_size > MOST_BYTES:
        return None
    try:
        about = _Drawing.model_validate_json(file.read_bytes())
        columns = [_read(column) for column in about.columns]
    except (ValidationError, ValueError):
        return None
    sources = tuple(column.source for column in columns)
    fits = about.example in EXAMPLES and all(name in loaded.pipe.sources.names for name in sources)
    counts = {len(images) for column in columns for images in (column.images, column.similarity)}
    fits = fits and all(column.guidance == loaded.pipe.guidance_of(column.source).in_words() for column in columns)
    if not fits or len(counts) != 1 or about.weights != _weights(loaded):
        return None
    picture = im.decode(EXAMPLES[about.example])
    seeds = tuple(range(about.seed, about.seed + counts.pop()))
    given = loaded.seen(picture, sources[0])
    job = Columns(picture, sources, seeds, about.steps)
    return Result(loaded.name, job, given, columns, about.example, number=len(seeds))


def _weights(loaded: Loaded) -> str:
    pipe = loaded.pipe
    led = [pipe.regressor] if pipe.regressor is not None and pipe.config.guidance_strengths else []
    return weights_digest(pipe.unet, *led)


def _column(column: Column) -> dict[str, Any]:
    assert column.mean is not None and column.spread is not None
    numbers = {name: number.to_json() for name, number in column.kept.items()}
    return {
        "source": column.source, "images": [_written(image) for image in column.images],
        "similarity": [round(value, 4) for value in column.similarity], "kept": numbers,
        "mean": _written(column.mean), "spread": _written(column.spread), "foreign": column.foreign,
        "guidance": column.guidance,
    }  # fmt: skip


def _read(column: _Column) -> Column:
    kept = {name: Kept(**number.model_dump()) for name, number in column.kept.items()}
    images = [_picture(text) for text in column.images]
    return Column(
        column.source, images, column.similarity, kept, _picture(column.mean), _picture(column.spread),
        foreign=column.foreign, guidance=column.guidance,
    )  # fmt: skip


def _written(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _picture(text: str) -> Image.Image:
    return im.decode(base64.b64decode(text, validate=True))
