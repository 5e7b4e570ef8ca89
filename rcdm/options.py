"""Command-line options made from a dataclass whose fields carry their help texts."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Collection
from typing import Any


def add_options(
    parser: argparse.ArgumentParser, config: type, *, leave_out: Collection[str] = (), blank: bool = False
) -> None:
    """An option per field of the dataclass `config` but those left out; `blank` ones are None where not given.

    Options of `blank` parsers are written with hyphens, the others with underscores, as diffusers' scripts do.
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
        default, text = option.default, option.metadata["help"]
        name = option.name.replace("_", "-") if blank else option.name
        parser.add_argument(f"--{name}", default=None if blank else default, help=text, **settings)


def given(options: argparse.Namespace, config: type) -> dict[str, Any]:
    """The fields of `config` that the command line holds a value for; lists become tuples."""
    found = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(config)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in found.items() if v is not None}
