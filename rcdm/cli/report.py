"""`rcdm report`: every study of a checkpoint, and what its networks hold at each level, on one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from rcdm.cli.options import CommandParser, add_drawing_options, wait_for_torch
from rcdm.cli.refusals import refuse_data, refuse_number, refuse_place
from rcdm.cli.study import AGAIN, add_data_options
from rcdm.diffusion.places import checkpoint_folder, find
from rcdm.studies import unrun


def add(parser: CommandParser) -> None:
    """Declare the options of the command."""
    parser.set_defaults(run=_report)
    parser.late_epilog = _names
    parser.set_defaults(interrupted=AGAIN, photos=[])
    add_drawing_options(parser, samples=None)
    add_data_options(parser)
    parser.add_argument("--quick", action="store_true", help="fewer images and draws: minutes on two CPU cores")
    parser.add_argument("--study", nargs="+", default=[], help="only these, see below")
    parser.add_argument("--sweep", type=Path, help="folder of sources pretrained with --strength 0 … 1")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for report.html, figures and numbers")


def _entries() -> list[str]:
    """Names of what is run, in order."""
    return [name for study in unrun.declarations().values() for name in study.entries]


def _names() -> str:
    return "studies: " + ", ".join(_entries())


def _report(options: argparse.Namespace) -> None:
    refuse_place(options.out)
    refuse_data(options.data)
    refuse_number("--samples", options.samples)
    refuse_number("--images", options.images)
    if unknown := [name for name in options.study if name not in _entries()]:
        raise ValueError(f"There is no study {unknown[0]!r}; choose of {', '.join(_entries())}.")
    if checkpoint_folder(options.checkpoint) is None and not options.checkpoint.startswith("official/"):
        find(options.checkpoint)
    wait_for_torch("report")
    from rcdm.cli.report_sections import write_report

    write_report(options)
