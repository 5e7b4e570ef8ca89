"""Settings of the page: each is an option of `rcdm serve` and an environment variable RCDM_…; the option wins."""

from __future__ import annotations

import argparse
import dataclasses
import os
import typing
from dataclasses import dataclass, field
from typing import Any


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """What can be set; the texts are those of `rcdm serve --help`."""

    checkpoint: str = _setting(
        "cifar10-32", "what the page opens with: a name below checkpoints/, a folder or a hub id"
    )
    data: str = _setting(
        "", "the training images of that checkpoint (folder or parquet files), for neighbours and edits"
    )
    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 for every network")
    port: int = _setting(0, "port; 0 takes the first free one from 7860 on")
    share: bool = _setting(False, "also open a public link through Gradio's servers")
    queue: int = _setting(32, "how many may wait; who comes then is asked to come back")
    rate: int = _setting(0, "how many drawings a client may start in a minute; 0 is any number")
    jobs: int = _setting(2, "how many drawings of a client may wait or be under way at once; 0 is any number")
    trusted_proxies: str = _setting(
        "",
        "addresses of proxies, separated by commas, whose X-Forwarded-For says who asks; without any the address of "
        "the connection counts",
    )
    mixed_precision: str = _setting(
        "no",
        "bf16: denoisers in bfloat16, up to twice as fast on GPUs of 2020 and later and on CPUs that have it, up to "
        "ten times slower on others; a draw changes by less than one of 255 levels in the mean",
    )
    most_images: int = _setting(16, "largest number of images per source")
    most_steps: int = _setting(100, "largest number of steps")
    network_mib: int = _setting(
        -1,
        "largest checkpoint file of a network that a visitor may bring, to guide a checkpoint by it, in MiB; 0 takes "
        "none; -1 is 1024 where the page is for this machine alone (host 127.0.0.1), else 0",
    )
    model_mib: int = _setting(4096, "checkpoints kept in memory, all together, in MiB; one always stays")
    result_mib: int = _setting(256, "finished drawings kept in memory, all together, in MiB")
    keep_minutes: int = _setting(60, "after how many minutes uploads, drawings and visitors' networks are forgotten")

    @property
    def network_bytes(self) -> int:
        """Of the largest checkpoint file that is taken; 0 takes none."""
        alone = self.host in ("127.0.0.1", "localhost", "::1") and not self.share and not os.environ.get("SPACE_ID")
        return (USUAL_MIB * alone if self.network_mib < 0 else self.network_mib) << 20


USUAL_MIB = 1024


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"RCDM_{name.upper()}"


def from_environment() -> Settings:
    """The defaults, overruled by the environment. Raises ValueError for a value that cannot be read."""
    values = {
        f.name: _parsed(f.name, os.environ[variable(f.name)]) for f in _fields() if variable(f.name) in os.environ
    }
    if "GRADIO_SERVER_NAME" in os.environ:  # set on a hosted Space
        values.setdefault("host", os.environ["GRADIO_SERVER_NAME"])
    return Settings(**values)


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """An option per setting; those that are not given are absent from the result."""
    for setting in _fields():
        text, default = setting.metadata["help"], setting.default
        shown = f"{text} (default {default!r}; environment: {variable(setting.name)})".replace("%", "%%")
        option = "--" + setting.name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=shown)
        else:
            parser.add_argument(option, type=type(default), default=argparse.SUPPRESS, help=shown)


def from_options(options: argparse.Namespace) -> Settings:
    """What the command line says, else the environment, else the defaults."""
    values = {f.name: value for f in _fields() if (value := getattr(options, f.name, None)) is not None}
    return dataclasses.replace(from_environment(), **values)


def _fields() -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(Settings)


def _parsed(name: str, text: str) -> Any:
    kind = typing.get_type_hints(Settings)[name]
    if kind is bool:
        return text.strip().lower() not in ("", "0", "no", "false", "off")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{variable(name)} must be a whole number, and is {text!r}.") from None
