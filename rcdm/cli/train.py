"""`rcdm train`, which is train_rcdm.py too."""

from __future__ import annotations

import argparse
from typing import Any

from rcdm.cli.options import add_options, command, given
from rcdm.training_config import TrainingConfig


def add(commands: Any) -> None:
    """Declare the command and its options."""
    add_training_options(command(commands, "train", "Train a denoiser (the same as train_rcdm.py).", _train))


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Every field of TrainingConfig, under its name."""
    parser.set_defaults(run=_train)
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add_options(parser, TrainingConfig)


def _train(options: argparse.Namespace) -> None:
    from rcdm.training import TrainingDiverged, train

    try:
        print(train(TrainingConfig(**given(options, TrainingConfig))))
    except TrainingDiverged as error:
        raise ValueError(str(error)) from error
