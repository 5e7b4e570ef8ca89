"""What `rcdm sample` does: draws, a grid of them, and every setting and number beside it."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

import rcdm
from rcdm.cli.guiding import pipeline_of
from rcdm.cli.options import chosen_sources, unmeasured
from rcdm.data import images as im
from rcdm.diffusion.guided import GuidedPipeline, as_json
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures.grids import grid_png
from rcdm.measures.attributes import kept_by_draws
from rcdm.measures.metrics import similarity
from rcdm.measures.readers import attributes_of


def draw_grid(options: argparse.Namespace) -> None:
    """Draw what the options of `rcdm sample` ask for, and write it."""
    photos = [im.decode(path) for path in options.photos]
    pipe = pipeline_of(options, options.checkpoint)
    sources = chosen_sources(pipe, options.source)
    seeds = list(range(options.seed, options.seed + options.samples))
    steps = options.steps or pipe.config.default_steps
    free = len(seeds) > 1 and pipe.unet.config.has_unconditional  # for the null of what draws keep
    drawings = len(photos) * len(sources) + free
    drawn, numbers, attributes = [], [], attributes_of(pipe)
    with tqdm(total=drawings * pipe.calls_of(steps), unit="step", desc="drawing") as bar:
        drawing: dict[str, Any] = {"num_inference_steps": steps, "batch_size": len(seeds)}
        drawing["callback_on_step_end"] = lambda *_: bar.update()
        unconditional = attributes.read(pipe.draw(None, None, seeds, **drawing)) if free else None
        for photo, path in zip(photos, options.photos, strict=True):
            for source in sources:
                images = pipe.draw(
                    pipe.encode(photo, source).expand(len(seeds), -1),
                    source,
                    seeds,
                    **drawing,
                )
                drawn.append(im.to_pil(images))
                about = {**pipe.guidance_of(source).to_json(), **_similarity(pipe, photo, source, images)}
                if len(seeds) > 1:
                    kept = kept_by_draws(attributes, attributes.read(images), unconditional)
                    about["kept_by_draws"] = {name: number.to_json() for name, number in kept.items()}
                numbers.append({"photo": str(path), "source": source, **about})
    given = [im.centre_crop(photo, 4 * pipe.image_size) for photo in photos]
    names = [_short(Path(path).name) for path in options.photos]
    grid = (_across if options.across else _below)(given, names, drawn, sources, seeds)
    record = {
        "seeds": seeds,
        "steps": steps,
        "scheduler": type(pipe.scheduler).__name__,
        "mixed_precision": pipe.unet.mixed_precision,
        "sources": sources,
        "draws": numbers,
    }
    if isinstance(pipe, GuidedPipeline):
        record["guidance"] = as_json(pipe)
    notes = [note for note in (pipe.caution, pipe.guided_in_words, unmeasured(pipe)) if note]
    _write_sample(options, grid, record | ({"note": " ".join(notes)} if notes else {}), notes)


Pictures = list[Image.Image]


def _short(name: str, longest: int = 32) -> str:
    """A file name that leaves room for the source beside it."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def _below(given: Pictures, names: list[str], drawn: list[Pictures], sources: list[str], seeds: list[int]) -> bytes:
    """One row per photograph and source; `drawn` holds the draws of each, row by row."""
    pictures = [image for i, images in enumerate(drawn) for image in (given[i // len(sources)], *images)]
    labels = [f"{name} {source}" for name in names for source in sources]
    return grid_png(pictures, labels, ["given", *(f"seed {seed}" for seed in seeds)])


def _across(given: Pictures, names: list[str], drawn: list[Pictures], sources: list[str], seeds: list[int]) -> bytes:
    """One row per photograph."""
    width = len(sources)
    parts = [drawn[i : i + width] for i in range(0, len(drawn), width)]
    rows = zip(given, parts, strict=True)
    pictures = [image for photo, own in rows for image in (photo, *(draw for images in own for draw in images))]
    columns = [source if len(seeds) == 1 else f"{source} seed {seed}" for source in sources for seed in seeds]
    return grid_png(pictures, names, ["given", *columns])


def _similarity(pipe: RCDMPipeline, photo: Image.Image, source: str, drawn: torch.Tensor) -> dict[str, Any]:
    """Similarity of each draw to the given representation."""
    given = pipe.unet.standardise(pipe.encode(photo, source), source)
    alike = similarity(pipe.unet.standardise(pipe.encode(drawn, source), source), given.expand(len(drawn), -1)).cpu()
    return {"similarity": alike.tolist()}


def _write_sample(options: argparse.Namespace, grid: bytes, record: dict[str, Any], notes: list[str]) -> None:
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(grid)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "run"}
    if options.prior is not None and options.backbone is not None:
        del settings["checkpoint"]  # which drew nothing
    libraries = {name: version(name) for name in ("torch", "diffusers", "pillow")}
    versions = {"rcdm": rcdm.__version__, "python": platform.python_version(), **libraries}
    report = options.out.with_suffix(".json")
    report.write_text(json.dumps({"settings": settings, "versions": versions, **record}, indent=1) + "\n")
    print(f"{options.out} and {report}")
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)
