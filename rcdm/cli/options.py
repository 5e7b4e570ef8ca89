"""What commands share: the options of drawing, and options made from a dataclass. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import textwrap
import time
import types
import typing
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from rcdm.diffusion.places import refuse_unknown

if TYPE_CHECKING:
    from rcdm.diffusion.pipeline import RCDMPipeline


class CommandParser(argparse.ArgumentParser):
    """A parser of options that may be written with hyphens or underscores.

    Its last words may be a function, `late_epilog`: called where they are printed, and not before.
    """

    late_epilog: Callable[[], str] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse does it, once every option is written as it was declared."""
        return super().parse_known_args(
            [self._as_declared(a) for a in (sys.argv[1:] if args is None else args)], namespace
        )

    def _as_declared(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            return argument
        for declared in (name, name.replace("_", "-"), "--" + name[2:].replace("-", "_")):
            if declared in self._option_string_actions:
                return declared + equals + value
        return argument

    def format_help(self) -> str:
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names the default of every option that has one, and keeps the lines of what stands below the options."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        starts = [indent + line[: len(line) - len(line.lstrip())] for line in lines]
        return "\n".join(
            textwrap.fill(line.strip(), width, initial_indent=start, subsequent_indent=f"{start}    ")
            for line, start in zip(lines, starts, strict=True)
        )


def add_drawing_options(parser: argparse.ArgumentParser, *, samples: int | None) -> None:
    """Checkpoint, sources, how many draws, seed, steps, device."""
    parser.add_argument("--checkpoint", default="sprites-32", help="name, folder or hub id")
    add_backbone_option(parser)
    parser.add_argument("--source", nargs="+", default=[], help="NETWORK/LEVEL …; all if none is given")
    parser.add_argument("--samples", type=int, default=samples, help="images drawn per photograph and source")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first draw; the next use the next numbers")
    parser.add_argument(
        "--steps", type=positive, default=None, help="denoising steps; the checkpoint's own if not given"
    )
    add_scheduler_option(parser)
    add_precision_option(parser)
    add_guidance_option(parser)
    parser.add_argument(
        "--full-resolution",
        action="store_true",
        help="give networks photographs at the networks' own size, not through the size that is drawn: sharper than "
        "all that the denoiser has learnt from, so h is foreign to it",
    )
    parser.add_argument("--device", default=None, help="cpu, cuda, mps")


def add_guidance_option(parser: argparse.ArgumentParser) -> None:
    """Other guidance than the checkpoint's own."""
    parser.add_argument(
        "--guidance-scale",
        type=float,
        metavar="SCALE",
        default=None,
        help="how strongly draws are held to the representation, 1 is off; where neither this nor a strength is given, "
        "the checkpoint's own, per source",
    )
    parser.add_argument(
        "--guidance-strength",
        type=float,
        metavar="STRENGTH",
        default=None,
        help="guide by the regression of h on noisy images that `rcdm train` learns at its end; 0 is off. "
        "Where no source is named, those that have one are guided. "
        "Where one of the two is given, the other is off unless it is given, too",
    )


def add_scheduler_option(parser: argparse.ArgumentParser) -> None:
    """Another sampler than the checkpoint's own."""
    parser.add_argument(
        "--scheduler",
        metavar="NAME",
        default=None,
        help="sampler of diffusers, such as ddim, euler, heun or uni-pc; the checkpoint's own if not given",
    )


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """What the denoiser computes in."""
    parser.add_argument(
        "--mixed-precision",
        choices=("no", "bf16"),
        default="no",
        help="bf16: the denoiser in bfloat16, up to twice as fast on GPUs of 2020 and later and on CPUs that have it, "
        "up to ten times slower on others; a draw changes by less than one of 255 levels in the mean",
    )


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, and is {number}")
    return number


def chosen_sources(pipe: RCDMPipeline, names: Sequence[str]) -> list[str]:
    """The named sources, or all. Raises ValueError for one that the checkpoint cannot draw from."""
    refuse_unknown(names, tuple(pipe.sources))
    return list(names or pipe.sources)


def unmeasured(pipe: RCDMPipeline) -> str:
    """A sentence for a checkpoint that was never evaluated; empty for others."""
    from rcdm.diffusion.checkpoints import folder_of

    if (folder := folder_of(pipe)) is None or (folder / "metrics.json").is_file():
        return ""
    return (
        "Nothing has been measured of this checkpoint: how far its draws follow the representation, `rcdm evaluate` "
        "tells."
    )


def add_backbone_option(parser: argparse.ArgumentParser) -> None:
    """A backbone of one's own; it is registered before the command runs."""
    parser.add_argument("--backbone", help="package.module:function that the checkpoint was trained with")


def wait_for_torch(command: str) -> None:
    """A line for whoever waits: the import of torch, which follows, takes seconds."""
    if "torch" not in sys.modules:
        announce(f"rcdm {command}: loading torch")


def announce(text: str) -> None:
    """A line with the time on stderr, above any progress bar; of several processes the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)


def add_options(
    parser: argparse._ActionsContainer, config: type, *, leave_out: Collection[str] = (), blank: bool = False
) -> None:
    """An option per field of the dataclass `config` but those left out; only what is given is parsed (see `given`).

    `blank` options, whose help says no defaults, are written with hyphens, the others with underscores, as in the
    scripts of diffusers.
    """
    kinds = typing.get_type_hints(config)
    for option in dataclasses.fields(config):
        if option.name in leave_out:
            continue
        kind, settings = kinds[option.name], dict[str, Any]()
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
        if typing.get_origin(kind) is tuple:
            kind, settings["nargs"] = typing.get_args(kind)[0], "*"
        if kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings["type"] = kind
        text = option.metadata["help"]
        if blank:
            parser.add_argument(f"--{option.name.replace('_', '-')}", default=None, help=text, **settings)
        else:
            text = text if option.default in (None, (), "") else f"{text} (default: {option.default})"
            parser.add_argument(f"--{option.name}", default=argparse.SUPPRESS, help=text, **settings)


def given(options: argparse.Namespace, config: type) -> dict[str, Any]:
    """The fields of `config` that the command line holds a value for; lists become tuples."""
    values = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(config)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v is not None}
