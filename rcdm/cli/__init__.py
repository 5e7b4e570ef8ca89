"""The command line: one file per command, which declares its options and refuses at once what cannot be.

May import everything; torch, which takes seconds, is imported when there is something to do.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import rcdm
from rcdm.cli.options import CommandParser, HelpFormatter, wait_for_torch

COMMANDS = {
    "sample": "Draw images that share the representation of photographs.",
    "study": "Ask one question of a checkpoint; numbers and figures.",
    "pretrain": "Pretrain small backbones; needs the extra `ssl`.",
    "train": "Train a denoiser (the same as train_rcdm.py).",
    "networks": "List published networks, or the levels of one network.",
    "convert": "Convert a file of the released RCDM code into a checkpoint.",
    "evaluate": "Measure a checkpoint; writes metrics.json and prints tables.",
    "report": "All studies of a checkpoint on one page, with their figures.",
    "serve": "Open the page.",
}
"""Name of a command -> what it does."""

SEVERAL = ("train", "pretrain", "evaluate", "study")
"""Commands that `accelerate launch` can start in several processes."""

_MODULES = {"convert": "convert_official", "networks": "list_networks"}
"""Command -> its module, where that has another name."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; bad input ends with one sentence on stderr and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = CommandParser(prog="rcdm", description="See what a representation keeps.")
    parser.add_argument("--version", action="version", version=f"rcdm {rcdm.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, formatter_class=HelpFormatter)
        if [name] == list(arguments[:1]):
            _add_options(name, command)
    _run(parser, arguments)


def alone(name: str, description: str, arguments: Sequence[str] | None = None) -> None:
    """A command as a script of its own."""
    parser = CommandParser(description=description)
    _add_options(name, parser)
    _run(parser, arguments)


def _add_options(name: str, parser: CommandParser) -> None:
    parser.set_defaults(command=name)
    import_module(f"rcdm.cli.{_MODULES.get(name, name)}").add(parser)


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    options = parser.parse_args(arguments)
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and options.command not in SEVERAL:
            raise ValueError(f"{options.command} runs in one process; several can share {', '.join(SEVERAL)}.")
        if getattr(options, "backbone", None):
            _register(options)
        options.run(options)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: interrupted. {getattr(options, 'interrupted', '')}".rstrip(" ") + "\n")
    except BrokenPipeError:  # who read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # of the disk, of the network
        parser.exit(2, f"{parser.prog}: {error}\n")


def _register(options: argparse.Namespace) -> None:
    """A backbone of one's own, so that checkpoints that were trained with it can be loaded.

    Raises ValueError for a file where nothing would read it.
    """
    backbone = options.backbone
    if ":" not in backbone and options.command != "train" and getattr(options, "prior", None) is None:
        raise ValueError(
            f"--backbone {backbone} alone draws nothing of that network: add --prior NAME, which is guided to it at "
            "once, or train a checkpoint for it (`rcdm train`). Without --prior it is package.module:function."
        )
    wait_for_torch("--backbone")
    from rcdm.networks.own_backbone import register
    from rcdm.networks.resolve import is_function

    if is_function(backbone):
        register(backbone)
