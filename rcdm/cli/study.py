"""`rcdm study`: one question, its numbers and its figure."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rcdm
from rcdm import images as im
from rcdm.cli.options import add_drawing_options, announce, chosen_sources, command
from rcdm.cli.study_data import DATA, StudyData
from rcdm.datasets import load_dataset
from rcdm.pipeline import RCDMPipeline
from rcdm.sources import read_sources
from rcdm.studies import STUDIES

_IMAGES = {
    "retention": 128,
    "information": 64,
    "invariance": 32,
    "adversarial": 32,
    "levels": 500,
    "spectrum": 1000,
    "width": 500,
    "out_of_distribution": 64,
    "interpolation": 2,
    "manipulation": 1,
}
_OTHERS = 64  # images of other data
_SAMPLES = {"retention": 16, "samples": 6, "information": 1, "interpolation": 3, "levels": 8, "spectrum": 1, "width": 8}


def _read_others(data: str, pipe: RCDMPipeline) -> Any:
    dataset = load_dataset(data, pipe.image_size)
    return dataset.batch(0, min(_OTHERS, dataset.n_train or _OTHERS)).images


_READ: dict[str, Callable[[str, RCDMPipeline], Any]] = {
    "target": lambda file, pipe: im.decode(file),
    "networks": lambda folder, pipe: read_sources(Path(folder)),
    "others": _read_others,
}
"""Settings of studies that are not numbers or words -> what reads them from the path that is given."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = command(commands, "study", "Ask one question of a checkpoint; numbers and a figure.", _study)
    parser.add_argument("study", help=", ".join(STUDIES))
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="image files; else held-out images of --data")
    add_drawing_options(parser, samples=None)
    parser.add_argument("--data", default="sprites", help="'sprites', a folder of images or parquet files")
    parser.add_argument("--images", type=int, help="how many held-out images, when no PHOTO is given")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="a setting of the study")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for NAME.json and NAME.png")


def _study(options: argparse.Namespace) -> None:
    if options.study not in STUDIES:
        raise ValueError(f"There is no study {options.study!r}; choose one of {', '.join(STUDIES)}.")
    pipe = rcdm.load(options.checkpoint, device=options.device)
    settings = dict(_setting(options.study, text, pipe) for text in options.option)
    data = StudyData(options, pipe, options.images or _IMAGES.get(options.study, 4))
    result = STUDIES[options.study](
        pipe,
        data.images,
        sources=chosen_sources(pipe, options.source),
        seeds=range(options.seed, options.seed + (options.samples or _SAMPLES.get(options.study, 2))),
        num_inference_steps=options.steps,
        on_progress=announce,
        **data.extras(inspect.signature(STUDIES[options.study]).parameters),
        **settings,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    width = len(result.columns)
    rows = [result.images[i : i + width] for i in range(0, len(result.images), width)]
    figure, report = (options.out / f"{options.study}.{kind}" for kind in ("png", "json"))
    im.grid(rows, row_labels=result.rows, column_labels=result.columns).save(figure)
    report.write_text(json.dumps(result.numbers, indent=1) + "\n")
    print(result.summary)
    print(f"{figure} and {report}")
    if options.photos and pipe.caution:
        print(f"Note: {pipe.caution}", file=sys.stderr)


def _setting(study: str, text: str, pipe: RCDMPipeline) -> tuple[str, Any]:
    """NAME=VALUE -> the name and the value in the type of the study's default, or read from the path it names."""
    name, equals, value = text.partition("=")
    common = ("pipe", "images", "sources", "seeds", "num_inference_steps", "on_progress", *DATA)
    parameters = inspect.signature(STUDIES[study]).parameters
    known = {key: p.default for key, p in parameters.items() if key not in common and p.default is not p.empty}
    known = {key: default for key, default in known.items() if key in _READ or isinstance(default, int | float | str)}
    if not known:
        raise ValueError(f"{study} has no settings besides those in `rcdm study --help`.")
    if not equals or name not in known:
        raise ValueError(f"{study} has no setting {text!r}; write NAME=VALUE with one of {', '.join(known)}.")
    if name in _READ:
        return name, _READ[name](value, pipe)
    try:
        return name, type(known[name])(value)
    except ValueError:
        raise ValueError(f"{name} takes a value like {known[name]!r}, not {value!r}.") from None
