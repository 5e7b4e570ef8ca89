"""`rcdm evaluate`: the numbers of a checkpoint, or of a folder of backbones, computed again."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from rcdm.cli.guiding import add_prior_options, refuse_prior
from rcdm.cli.options import (
    add_backbone_option,
    add_guidance_option,
    add_precision_option,
    add_scheduler_option,
    wait_for_torch,
)
from rcdm.cli.refusals import refuse_checkpoint, refuse_data, refuse_place
from rcdm.diffusion.places import INSTALLED, checkpoint_folder
from rcdm.networks.catalogue import JUDGE
from rcdm.studies.evaluation_size import EvaluationSize


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.set_defaults(run=_evaluate, source=[])
    parser.add_argument(
        "checkpoint", nargs="?", default="sprites-32", help="name or folder, of a pipeline or of backbones"
    )
    add_backbone_option(parser)
    parser.add_argument(
        "--data",
        help="images that the checkpoint was trained on: 'sprites', a folder of images, .parquet files or .tar shards",
    )
    for option in dataclasses.fields(EvaluationSize):
        name = option.name.replace("_", "-")
        parser.add_argument(f"--{name}", type=int, default=option.default, help=option.metadata["help"])
    parser.add_argument(
        "--evaluator",
        nargs="+",
        metavar="NETWORK/LEVEL",
        help="networks that the checkpoint was not trained with look at the draws, too: the first judges (KID, FID, "
        "nearest training images, class), further ones read the class; CHECKPOINT/NETWORK/LEVEL, a published network, "
        f"or a file (inception_v3=FILE/backbone); 'none' for no judge; by default {JUDGE}/backbone for photographs, "
        "where its package is installed",
    )
    parser.add_argument("--steps", type=int, default=None, help="denoising steps; the checkpoint's own if not given")
    add_scheduler_option(parser)
    add_precision_option(parser)
    add_guidance_option(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="folder for metrics.json (of backbones: sources/NAME/metrics.json); if not given, the checkpoint's, whose "
        "numbers, and with --guidance-images the guidance, are replaced",
    )
    parser.add_argument("--device", default=None, help="cpu, cuda, mps")
    add_prior_options(parser)


def _evaluate(options: argparse.Namespace) -> None:
    refuse_place(options.out)
    refuse_data(options.data)
    refuse_prior(options)
    if options.prior is not None and options.out is None:
        raise ValueError("A guided prior has no folder of its own: say with --out where its numbers go.")
    folder = checkpoint_folder(options.checkpoint)
    if folder is not None and folder.parent == INSTALLED and options.out is None:
        raise ValueError(f"{options.checkpoint} belongs to the installed package: say with --out where its numbers go.")
    backbones = (
        options.prior is None
        and folder is not None
        and (folder / "sources").is_dir()
        and not (folder / "model_index.json").is_file()
    )
    if not backbones and options.prior is None:
        refuse_checkpoint(options.checkpoint)
    wait_for_torch("evaluate")
    from rcdm.cli.measuring import measure_backbones, measure_checkpoint

    (measure_backbones if backbones else measure_checkpoint)(options)
