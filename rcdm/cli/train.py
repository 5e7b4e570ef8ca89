"""`rcdm train`, which is train_rcdm.py too."""

from __future__ import annotations

import argparse

from rcdm.cli.options import add_options, given, wait_for_torch
from rcdm.cli.refusals import refuse_data
from rcdm.training.config import PRESETS, TrainingConfig


def add(parser: argparse.ArgumentParser) -> None:
    """Every field of TrainingConfig, under its name, and a preset that they override."""
    parser.set_defaults(run=_train)
    parser.formatter_class = argparse.HelpFormatter  # options say their defaults themselves
    parser.add_argument("--preset", choices=PRESETS, help=_presets_in_words())
    add_options(parser, TrainingConfig)


def _train(options: argparse.Namespace) -> None:
    config = TrainingConfig(**PRESETS.get(options.preset, {}) | given(options, TrainingConfig))
    refuse_data(config.train_data_dir)
    wait_for_torch("train")
    from rcdm.training.denoiser import train
    from rcdm.training.loop import Diverged

    try:
        print(train(config))
    except Diverged as error:
        raise ValueError(str(error)) from error


def _presets_in_words() -> str:
    return (
        "options at once; what is given beside it overrides it. adm-*: network and loss of the released RCDMs, except "
        "that representations are standardised (adm-128: 423 M parameters; for a cluster). small-*: for one GPU. "
        + " ".join(f"{name}: channels {' '.join(map(str, options['channels']))}." for name, options in PRESETS.items())
    )
