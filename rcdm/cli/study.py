"""`rcdm study`: one question, its numbers and its figure."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import rcdm
from rcdm import images as im
from rcdm.cli.options import add_drawing_options, announce, command
from rcdm.datasets import load_dataset
from rcdm.studies import STUDIES


def add(commands: Any) -> None:
    parser = command(commands, "study", "Ask one question of a checkpoint; numbers and a figure.", _study)
    parser.add_argument("study", help="retention")
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="image files; else held-out drawn images")
    add_drawing_options(parser, samples=16)
    parser.add_argument("--images", type=int, default=128, help="how many held-out images, when no PHOTO is given")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for NAME.json and NAME.png")


def _study(options: argparse.Namespace) -> None:
    if options.study not in STUDIES:
        raise ValueError(f"There is no study {options.study!r}; choose one of {', '.join(STUDIES)}.")
    pipe = rcdm.load(options.checkpoint, device=options.device)
    if options.photos:
        images: Any = [im.decode(path) for path in options.photos]
    else:
        images = load_dataset("sprites", pipe.image_size).held_out(options.images).images
    result = STUDIES[options.study](
        pipe,
        images,
        sources=options.source or pipe.sources.names,
        seeds=range(options.seed, options.seed + options.samples),
        num_inference_steps=options.steps,
        on_progress=announce,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    width = len(result.columns)
    rows = [result.images[i : i + width] for i in range(0, len(result.images), width)]
    figure, report = (options.out / f"{options.study}.{kind}" for kind in ("png", "json"))
    im.grid(rows, row_labels=result.rows, column_labels=result.columns).save(figure)
    report.write_text(json.dumps(result.numbers, indent=1) + "\n")
    print(result.summary)
    print(f"{figure} and {report}")
