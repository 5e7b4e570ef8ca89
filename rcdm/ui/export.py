"""A drawing as files that people use elsewhere: PNG at print size, PDF, JSON, and the command that makes the same."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shlex
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import urlencode

from PIL import Image

import rcdm
from rcdm.figures.grids import grid_png
from rcdm.ui.drawing import Column, Columns

CELL = 256  # pixels of an image in the PNG: 2 cm at 300 dots per inch
INCH = 0.9  # side of an image in the PDF


@dataclass(frozen=True)
class Result:
    """A finished drawing and what it was drawn from; `given` as the networks see it, `photo` the name of an example."""

    checkpoint: str
    job: Columns
    given: Image.Image
    columns: list[Column]
    photo: str = ""


def as_png(result: Result) -> bytes:
    """A row per source: the given image, then a draw per seed, with labels."""
    images = [image for column in result.columns for image in (result.given, *column.images)]
    labels = ["given", *(f"seed {seed}" for seed in result.job.seeds)]
    return grid_png(images, [column.source for column in result.columns], labels, pixels=CELL)


def as_pdf(result: Result) -> bytes:
    """The same with lettering that scales; pixels stay squares."""
    from matplotlib.figure import Figure

    seeds, columns = result.job.seeds, result.columns
    size = (INCH * (1 + len(seeds)) + 0.2, (INCH + 0.22) * len(columns) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(columns), 1 + len(seeds), squeeze=False)
    for row, column in zip(axes, columns, strict=True):
        titles = ["given", *(f"#{seed}  {value:.2f}" for seed, value in zip(seeds, column.similarity, strict=True))]
        for axis, image, title in zip(row, [result.given, *column.images], titles, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set_title(title, fontsize=6, pad=2)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(column.source, fontsize=7)
    file = io.BytesIO()
    figure.savefig(file, format="pdf", dpi=300, metadata={"Creator": f"rcdm {rcdm.__version__}", "CreationDate": None})
    return file.getvalue()


def as_json(result: Result) -> bytes:
    """Every setting, version and number."""
    return (json.dumps(record_of(result), indent=1) + "\n").encode()


def record_of(result: Result) -> dict[str, Any]:
    """What the JSON file holds."""
    job = result.job
    pixels = hashlib.sha256(job.picture.tobytes()).hexdigest()
    versions = {"rcdm": rcdm.__version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("torch", "diffusers", "gradio", "pillow")}
    return {
        "checkpoint": result.checkpoint,
        "photo": {"example": result.photo, "width": job.picture.width, "height": job.picture.height, "sha256": pixels},
        "seeds": list(job.seeds),
        "steps": job.steps,
        "sources": numbers_of(result.columns),
        "versions": versions,
        "command": command_of(result),
        "link": link_of(result),
    }


def numbers_of(columns: list[Column]) -> dict[str, Any]:
    """Source -> similarity of each draw, what the draws keep of each attribute, and whether the image is foreign."""
    numbers: dict[str, Any] = {}
    for column in columns:
        kept = {name: number.to_json() for name, number in column.kept.items()}
        numbers[column.source] = {"similarity": column.similarity, "kept": kept}
        if column.foreign is not None:
            numbers[column.source]["foreign"] = column.foreign
    return numbers


def command_of(result: Result) -> str:
    """The line that draws the same from a shell."""
    job = result.job
    photo = f"rcdm/examples/{result.photo}" if result.photo else "PHOTO"
    parts: list[Any] = ["rcdm", "sample", photo, "--checkpoint", result.checkpoint, "--source", *job.sources]
    parts += ["--samples", len(job.seeds), "--seed", job.seeds[0], "--steps", job.steps, "--out", "drawing.png"]
    return shlex.join(str(part) for part in parts)


def link_of(result: Result) -> str:
    """Query parameters that open the page with the same settings; of the pictures only examples are in it."""
    job = result.job
    query: list[tuple[str, Any]] = [("checkpoint", result.checkpoint), *(("source", name) for name in job.sources)]
    query += [("images", len(job.seeds)), ("steps", job.steps), ("seed", job.seeds[0])]
    query += [("example", result.photo)] if result.photo else []
    return "?" + urlencode(query, safe="/")


KINDS = {
    "png": (as_png, "image/png"),
    "pdf": (as_pdf, "application/pdf"),
    "json": (as_json, "application/json"),
}
"""Ending of a file -> (how it is made, its media type)."""
