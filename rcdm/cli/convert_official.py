"""`rcdm convert`: a file of the released RCDM code becomes a checkpoint folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rcdm.cli.options import wait_for_torch
from rcdm.networks.catalogue import PUBLISHED

TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
"""What a flag that is on or off may be."""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.set_defaults(run=_convert)
    parser.add_argument("file", type=Path, help="rcdm_ema_….pt, or a file that the released code has trained")
    parser.add_argument("out", type=Path, help="checkpoint folder to write")
    parser.add_argument("--network", choices=PUBLISHED, help="SSL network; known by the name of a released file")
    parser.add_argument("--level", help="level that conditions it: backbone, projector …; known likewise")
    parser.add_argument("--network-file", type=Path, help="its file, where it lies here already")
    parser.add_argument(
        "--flag",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="model flag that the network was trained with; without any, the flags of the released networks",
    )


def _convert(options: argparse.Namespace) -> None:
    if not options.file.is_file():
        raise ValueError(f"{options.file} is not a file.")
    if options.out.exists():
        raise ValueError(f"{options.out} exists already; choose another folder.")
    wait_for_torch("convert")
    from rcdm.diffusion.official.convert import DEFAULT_FLAGS
    from rcdm.diffusion.official.released import RELEASED, convert_file

    known = {file: (network, level) for file, network, level in RELEASED.values()}
    network, level = known.get(options.file.name, (None, None))
    network, level = options.network or network, options.level or level
    if network is None or level is None:
        raise ValueError(f"{options.file.name} is no released file: say which --network and --level condition it.")
    flags = {**DEFAULT_FLAGS, **dict(_flag(text) for text in options.flag)} if options.flag else None
    convert_file(
        options.file, options.out, network=network, level=level, flags=flags, network_file=options.network_file
    )
    print(options.out)


def _flag(text: str) -> tuple[str, Any]:
    from rcdm.diffusion.official.convert import DEFAULT_FLAGS, RELEASED_FLAGS

    name, equals, value = text.partition("=")
    if not equals or name not in DEFAULT_FLAGS:
        raise ValueError(f"--flag takes NAME=VALUE with a name of {', '.join(DEFAULT_FLAGS)}, not {text!r}.")
    example = RELEASED_FLAGS[name]
    if isinstance(example, bool):
        if value.lower() not in TRUTHS:
            raise ValueError(f"--flag {name} is {' or '.join(TRUTHS)}, not {value!r}.")
        return name, TRUTHS[value.lower()]
    if name == "noise_schedule" and value not in ("linear", "cosine"):
        raise ValueError(f"--flag noise_schedule is linear or cosine, not {value!r}.")
    return name, type(example)(value)
