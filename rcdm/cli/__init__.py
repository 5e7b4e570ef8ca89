"""The command line: one file per command."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import rcdm
from rcdm.cli import convert, evaluate, networks, pretrain, report, sample, serve, study, train
from rcdm.networks import is_function
from rcdm.own_backbone import register


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; bad input ends with one sentence on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="rcdm", description="See what a representation keeps.")
    parser.add_argument("--version", action="version", version=f"rcdm {rcdm.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (sample, study, pretrain, train, networks, convert, evaluate, report, serve):
        module.add(commands)
    _run(parser, arguments)


def train_main(arguments: Sequence[str] | None = None) -> None:
    """`rcdm train` as a script of its own."""
    parser = argparse.ArgumentParser(description="Train a denoiser on the representations of frozen networks.")
    train.add_training_options(parser)
    _run(parser, arguments)


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    options = parser.parse_args(arguments)
    try:
        if getattr(options, "backbone", None) and is_function(options.backbone):
            register(options.backbone)
        options.run(options)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: interrupted. {getattr(options, 'interrupted', '')}".rstrip(" ") + "\n")
    except BrokenPipeError:  # who read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
