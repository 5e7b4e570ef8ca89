"""What `rcdm study` does, and `rcdm report` for each study: from options to a run, its files and its words."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rcdm.cli.guiding import checkpoint_of, drawn_by, given_prior, pipeline_of
from rcdm.cli.options import announce, chosen_sources, unmeasured
from rcdm.cli.study_data import StudyData
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.processes import first, meet
from rcdm.studies import STUDIES
from rcdm.studies.study_files import StudyRun, run_study


def run_one(options: argparse.Namespace) -> None:
    """Run the study that the options of `rcdm study` ask for; prints its summary."""
    meet()
    pipe = pipeline_of(options, options.checkpoint)
    settings: dict[str, Any] = dict(_setting(options.study, text, pipe) for text in options.option)
    if options.study == "retention" and options.prior is not None and options.backbone is None:
        pipe, settings["guided"] = _trained(options), pipe
    run = study_run(pipe, options, options.study, settings=settings, option_texts=options.option)
    record = run_study(pipe, run, options.out, on_progress=announce)
    if not first():
        return
    print(record["summary"])
    print(f"{options.out / options.study}.json and {', '.join(record['figures'])} (and .pdf)")
    draws, foreign = STUDIES[options.study].draws, options.photos or options.prior
    led = draws and STUDIES[options.study].led and not record.get("unguided")
    for note in (foreign and pipe.caution, led and pipe.guided_in_words, draws and unmeasured(pipe)):
        if note:
            print(f"Note: {note}", file=sys.stderr)


def _trained(options: argparse.Namespace) -> RCDMPipeline:
    return checkpoint_of(options, options.checkpoint)


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
        usual=usual or STUDIES[study].images,
        reference=options.reference,
    )
    samples = STUDIES[study].samples if options.samples is None else options.samples
    return StudyRun(
        study,
        data.images,
        data.names,
        chosen_sources(pipe, options.source),
        range(options.seed, options.seed + samples),
        str(options.checkpoint) if "guided" in settings else drawn_by(options),
        _command(options, study, option_texts, len(data.images), samples),
        name or study,
        options.steps,
        settings,
        data.extras(STUDIES[study].parameters),
    )


def _command(options: argparse.Namespace, study: str, option_texts: Sequence[str], images: int, samples: int) -> str:
    """The `rcdm study` command that does this."""
    words = ["rcdm", "study", study, *options.photos, "--checkpoint", str(options.checkpoint)]
    for option, value in (
        ("backbone", options.backbone),
        ("data", options.data),
        ("scheduler", options.scheduler),
        ("mixed-precision", options.mixed_precision if options.mixed_precision != "no" else None),
        ("guidance-scale", options.guidance_scale),
        ("guidance-strength", options.guidance_strength),
    ):
        if value is not None:
            words += [f"--{option}", str(value)]
    words += given_prior(options)
    words += ["--full-resolution"] if options.full_resolution else []
    words += ["--images", str(images)]
    if options.split != "held_out":
        words += ["--split", options.split]
    if options.source:
        words += ["--source", *options.source]
    words += ["--samples", str(samples), "--seed", str(options.seed), "--reference", str(options.reference)]
    if options.steps is not None and STUDIES[study].draws:
        words += ["--steps", str(options.steps)]
    for text in option_texts:
        words += ["--option", text]
    return shlex.join(words)


def _setting(study: str, text: str, pipe: RCDMPipeline) -> tuple[str, Any]:
    """NAME=VALUE -> the name and the value in the type of the study's default, or read from the path it names."""
    option, value = STUDIES[study].setting(text)
    return option.name, option.read(value, STUDIES[study].defaults[option.name], pipe)
