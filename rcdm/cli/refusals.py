"""What can be refused at once: files, checkpoints and sources that are not there. Asked before torch is imported."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rcdm.cli.guiding import refuse_prior
from rcdm.diffusion.places import checkpoint_folder, find, refuse_unknown, sources_in


def refuse_drawing(options: argparse.Namespace) -> None:
    """ValueError for the options of drawing: no such checkpoint or source, or no samples."""
    refuse_number("--samples", options.samples)
    refuse_prior(options)
    if options.prior is None:
        refuse_checkpoint(options.checkpoint, options.source)


def refuse_checkpoint(name: str, sources: Sequence[str] = ()) -> None:
    """ValueError for a checkpoint that is nowhere, or has no such sources; one of the hub is downloaded here."""
    if checkpoint_folder(name) is None and name.startswith("official/"):
        return  # made at its first use
    if known := sources_in(find(name)):
        refuse_unknown(sources, known)


def refuse_photos(photos: Sequence[str]) -> None:
    """ValueError for what is not there."""
    for photo in photos:
        if not Path(photo).exists():
            raise ValueError(f"{photo!r} is not a file: check the path.")


def refuse_place(folder: Path | None) -> None:
    """ValueError for a folder where nothing can be written, before anybody waits for what should go there."""
    if folder is None:
        return
    there = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.exists())
    if not there.is_dir():
        raise ValueError(f"{there} is no folder: say with --out where else to write.")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{there} may not be written to: say with --out where else to write.")


def refuse_data(data: str | None) -> None:
    """ValueError for data that are neither here nor on the hub."""
    if data is not None and data != "sprites" and not data.startswith("hf://") and not Path(data).exists():
        raise ValueError(
            f"{data} is neither 'sprites' nor a folder of images, .parquet or .tar files nor hf://datasets/NAME."
        )


def refuse_number(option: str, number: int | None) -> None:
    """ValueError for a number below 1."""
    if number is not None and number < 1:
        raise ValueError(f"{option} must be at least 1, and is {number}.")
