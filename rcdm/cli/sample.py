"""`rcdm sample`: a grid of draws, and every setting and number beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from rcdm.cli.guiding import add_prior_options
from rcdm.cli.options import add_drawing_options, wait_for_torch
from rcdm.cli.refusals import refuse_drawing, refuse_photos, refuse_place


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.set_defaults(run=_sample)
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="image files")
    add_drawing_options(parser, samples=8)
    parser.add_argument(
        "--across", action="store_true", help="one row per photograph, the sources side by side, instead of below"
    )
    add_prior_options(parser)
    parser.add_argument("--out", type=Path, default=Path("sample.png"), help="grid; FILE.json is written beside it")


def _sample(options: argparse.Namespace) -> None:
    if options.out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, and is {options.out}.")
    refuse_photos(options.photos)
    for file in (options.out, options.out.with_suffix(".json")):
        if any(Path(photo).resolve() == file.resolve() for photo in options.photos):
            raise ValueError(f"{file} is one of the photographs, and would be written over: give another --out.")
    refuse_place(options.out.parent)
    refuse_drawing(options)
    wait_for_torch("sample")
    from rcdm.cli.sample_grid import draw_grid

    draw_grid(options)
