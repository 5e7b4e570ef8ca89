"""`rcdm study`: one question, its numbers and its figures."""

from __future__ import annotations

import argparse
import inspect
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rcdm
from rcdm.cli.options import add_drawing_options, announce, chosen_sources, unmeasured
from rcdm.cli.study_data import DATA, SPLITS, StudyData
from rcdm.data import images as im
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures.study_files import StudyRun, run_study
from rcdm.networks.sources import read_sources
from rcdm.studies import STUDIES, WITHOUT_DRAWS

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
_SAMPLES = {"retention": 16, "samples": 6, "information": 1, "interpolation": 3, "levels": 8, "spectrum": 1, "width": 8}
_OTHERS = 64
"""How many images of other data are taken."""


def _read_others(data: str, pipe: RCDMPipeline) -> Any:
    dataset = load_dataset(data, pipe.image_size)
    return dataset.batch(0, min(_OTHERS, dataset.n_train or _OTHERS)).images


_READ: dict[str, Callable[[str, RCDMPipeline], Any]] = {
    "target": lambda file, pipe: im.decode(file),
    "networks": lambda folder, pipe: read_sources(Path(folder)),
    "others": _read_others,
}
"""Settings of studies that are not numbers or words -> what reads them from the path that is given."""

AGAIN = "What is finished is kept: run the same command again to continue."


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.set_defaults(run=_study)
    parser.set_defaults(interrupted=AGAIN)
    parser.add_argument("study", help=", ".join(STUDIES))
    parser.add_argument(
        "photos", nargs="*", metavar="PHOTO", help="image files, folders of them; else images of --data"
    )
    add_drawing_options(parser, samples=None)
    add_data_options(parser)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help=_settings_in_words())
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for NAME.json, NAME.png, NAME.pdf …")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Where images come from, and how many."""
    parser.add_argument(
        "--data",
        help="'sprites', a folder of images or of parquet files, best what the checkpoint has seen; sprites if it was",
    )
    parser.add_argument("--split", choices=SPLITS, default="held_out", help="which images of --data")
    parser.add_argument("--images", type=int, help="how many images; as many as is usual for the study if not given")
    parser.add_argument("--reference", type=int, default=2000, help="training images for probes and directions")


def _study(options: argparse.Namespace) -> None:
    if options.study not in STUDIES:
        raise ValueError(f"There is no study {options.study!r}; choose one of {', '.join(STUDIES)}.")
    if options.steps is not None and options.study in WITHOUT_DRAWS:
        raise ValueError(f"{options.study} draws nothing: leave --steps out.")
    pipe = rcdm.load(options.checkpoint, device=options.device)
    settings = dict(_setting(options.study, text, pipe) for text in options.option)
    run = study_run(pipe, options, options.study, settings=settings, option_texts=options.option)
    record = run_study(pipe, run, options.out, on_progress=announce)
    print(record["summary"])
    print(f"{options.out / options.study}.json and {', '.join(record['figures'])} (and .pdf)")
    for note in (options.photos and pipe.caution, options.study not in WITHOUT_DRAWS and unmeasured(pipe)):
        if note:
            print(f"Note: {note}", file=sys.stderr)


def study_run(
    pipe: RCDMPipeline,
    options: argparse.Namespace,
    study: str,
    *,
    settings: Mapping[str, Any],
    option_texts: Sequence[str] = (),
    name: str = "",
    usual: int | None = None,
) -> StudyRun:
    """What the options of a command line ask of a study.

    Where `options.images` is None, up to `usual` images are taken, or as many as the study usually has.
    """
    data = StudyData(
        pipe,
        photos=options.photos,
        data=options.data,
        split=options.split,
        count=options.images,
        usual=usual or _IMAGES.get(study, 4),
        reference=options.reference,
    )
    samples = _SAMPLES.get(study, 2) if options.samples is None else options.samples
    if samples < 1:
        raise ValueError("--samples must be at least 1.")
    return StudyRun(
        study,
        data.images,
        data.names,
        chosen_sources(pipe, options.source),
        range(options.seed, options.seed + samples),
        str(options.checkpoint),
        _command(options, study, option_texts, len(data.images), samples),
        name or study,
        options.steps,
        settings,
        data.extras(inspect.signature(STUDIES[study]).parameters),
    )


def _command(options: argparse.Namespace, study: str, option_texts: Sequence[str], images: int, samples: int) -> str:
    """The `rcdm study` command that does this."""
    words = ["rcdm", "study", study, *options.photos, "--checkpoint", str(options.checkpoint)]
    for option, value in (("backbone", options.backbone), ("data", options.data)):
        if value is not None:
            words += [f"--{option}", value]
    words += ["--images", str(images)]
    if options.split != "held_out":
        words += ["--split", options.split]
    if options.source:
        words += ["--source", *options.source]
    words += ["--samples", str(samples), "--seed", str(options.seed), "--reference", str(options.reference)]
    if options.steps is not None:
        words += ["--steps", str(options.steps)]
    for text in option_texts:
        words += ["--option", text]
    return shlex.join(words)


def _settings(study: str) -> dict[str, Any]:
    """Names of the settings that are a study's own -> their defaults."""
    common = ("pipe", "images", "sources", "seeds", "num_inference_steps", "on_progress", *DATA)
    parameters = inspect.signature(STUDIES[study]).parameters
    own = {key: p.default for key, p in parameters.items() if key not in common and p.default is not p.empty}
    return {key: default for key, default in own.items() if key in _READ or isinstance(default, int | float | str)}


def _settings_in_words() -> str:
    own = {study: ", ".join(_settings(study)) for study in STUDIES}
    return "a setting of the study. " + "; ".join(f"{study}: {names}" for study, names in own.items() if names)


def _setting(study: str, text: str, pipe: RCDMPipeline) -> tuple[str, Any]:
    """NAME=VALUE -> the name and the value in the type of the study's default, or read from the path it names."""
    name, equals, value = text.partition("=")
    known = _settings(study)
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
