"""`rcdm study`: one question, its numbers and its figures."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from rcdm.cli.guiding import add_prior_options
from rcdm.cli.options import CommandParser, add_drawing_options, wait_for_torch
from rcdm.cli.refusals import refuse_data, refuse_drawing, refuse_number, refuse_photos, refuse_place
from rcdm.studies import NAMES, unrun

AGAIN = "What is finished is kept: run the same command again to continue."


def add(parser: CommandParser) -> None:
    """Declare the options of the command."""
    parser.set_defaults(run=_study)
    parser.set_defaults(interrupted=AGAIN)
    parser.late_epilog = _all_in_words
    parser.add_argument("study", action=_Named, help=", ".join(NAMES))
    parser.add_argument(
        "photos", nargs="*", metavar="PHOTO", help="image files, folders of them; else images of --data"
    )
    add_drawing_options(parser, samples=None)
    add_prior_options(parser)
    add_data_options(parser)
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="a setting of the study, see below"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for NAME.json, NAME.png, NAME.pdf …")


class _Named(argparse.Action):
    """The name of a study; a `--help` behind it tells of this study alone."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, *_: Any) -> None:
        setattr(namespace, self.dest, value)
        if value in NAMES and isinstance(parser, CommandParser):
            parser.late_epilog = partial(_in_words, value)


def _in_words(name: str) -> str:
    """Question and settings of a study."""
    return unrun.declarations()[name].in_words()


def _all_in_words() -> str:
    return "\n".join(["studies, with NAME=DEFAULT of their settings:", *map(_in_words, NAMES)])


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Where images come from, and how many."""
    parser.add_argument(
        "--data",
        help="'sprites', a folder of images or of parquet files, best what the checkpoint has seen; sprites if it was",
    )
    parser.add_argument("--split", choices=("held_out", "train"), default="held_out", help="which images of --data")
    parser.add_argument("--images", type=int, help="how many images; as many as is usual for the study if not given")
    parser.add_argument("--reference", type=int, default=2000, help="training images for probes and directions")


def _study(options: argparse.Namespace) -> None:
    refuse_place(options.out)
    if options.study not in NAMES:
        raise ValueError(f"There is no study {options.study!r}; choose one of {', '.join(NAMES)}.")
    refuse_asked(options)
    declared = unrun.declarations()[options.study]
    for text in options.option:
        declared.setting(text)
    if options.steps is not None and not declared.draws:
        raise ValueError(f"{options.study} draws nothing: leave --steps out.")
    wait_for_torch("study")
    from rcdm.cli.study_runs import run_one

    run_one(options)


def refuse_asked(options: argparse.Namespace) -> None:
    """ValueError for what a study cannot be asked of."""
    refuse_photos(options.photos)
    refuse_data(options.data)
    refuse_number("--images", options.images)
    refuse_drawing(options)
