"""A network by what a user writes: a published name, a checkpoint file, TIMM_NAME=FILE, or package.module:function."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from rcdm.networks.backbones import build_backbone
from rcdm.networks.catalogue import PUBLISHED, entry_of
from rcdm.networks.containers import WEIGHTS
from rcdm.networks.foreign_files import read_file
from rcdm.networks.own_backbone import own_sources
from rcdm.networks.published import load_published
from rcdm.networks.reading import Reading
from rcdm.networks.representation import Preprocessing, RepresentationSource, SSLNetwork
from rcdm.networks.source_folder import is_source_folder, load_network, read_config
from rcdm.networks.sources import Sources
from rcdm.networks.transformers_folder import is_transformers_folder, read_transformers

log = logging.getLogger(__name__)


def sources_of(text: str, names: Sequence[str] = (), *, reading: Reading | None = None, **options: Any) -> Sources:
    """What is written -> sources `NETWORK/LEVEL`; `names` are such or levels alone, by default backbone and projector.

    A function brings its levels with it. Published files are downloaded at their first use. `options` are those of
    `Reading`, for a file that does not say everything itself: `activation="gelu"`, `strict=True`. Raises ValueError for
    what is no network, for a level that it does not have, and for options of what is no file.
    """
    reading = reading or reading_of(options)
    if is_function(text):
        _refuse_options(text, reading)
        return own_sources(text, names)
    levels = [name.rpartition("/")[2] for name in names]
    network, ssl_network, preprocessing, config = network_of(text, levels, reading)
    if not levels and ssl_network.projector is None:
        log.warning("%s: no projector was found, its only source is the backbone.", text)
    for line in config.get("reading", {}).get("lines", []):
        undecided = line.startswith(("assumed:", "chosen:", "left out:"))
        log.log(logging.WARNING if undecided else logging.INFO, "%s: %s", text, line)
    levels = levels or ["backbone", *(["projector"] if ssl_network.projector is not None else [])]
    if other := [name for name in names if "/" in name and name.partition("/")[0] != network]:
        raise ValueError(f"{text} is the network {network}, and has no source {other[0]!r}.")
    return Sources(
        {network: (ssl_network, preprocessing)}, [f"{network}/{level}" for level in levels], {network: config}
    )


def reading_of(options: Mapping[str, Any]) -> Reading:
    """Options by name -> Reading. Raises ValueError, listing the choices, for one that does not exist."""
    known = [option.name for option in fields(Reading)]
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"There is no option {unknown[0]!r} of a file; choose one of {', '.join(known)}.")
    leave_out = options.get("leave_out", ())
    return Reading(**{**options, "leave_out": (leave_out,) if isinstance(leave_out, str) else tuple(leave_out)})


def source_of(text: str, **options: Any) -> RepresentationSource:
    """`WHAT/LEVEL` -> the source, where `sources_of` knows what WHAT is."""
    what, _, level = text.rpartition("/")
    sources = sources_of(what, [level], **options)
    return sources[sources.names[0]]


def network_of(
    text: str, levels: Sequence[str] = (), reading: Reading | None = None
) -> tuple[str, SSLNetwork, Preprocessing, dict[str, Any]]:
    """What is written, but a function -> name, network, preprocessing, config.json of its source folder.

    A published name, a file or folder, TIMM_NAME=FILE, or `hf://OWNER/NAME` of the Hugging Face hub. `levels` are
    checked before anything is downloaded.
    """
    reading = reading or Reading()
    if text in PUBLISHED:
        _refuse_options(text, reading)
        for level in levels:
            entry_of(text, level)
        return (text, *load_published(text))
    architecture, _, file = ("", "", text) if _is_here(text) else text.rpartition("=")
    if file.startswith("hf://"):
        return (_name(file), *_read(hub_folder(file), architecture, reading))
    if not _is_here(file):
        raise ValueError(
            f"{file!r} is no file and no published network (`rcdm networks` lists them); write one of these, a folder "
            "that holds weights, TIMM_NAME=FILE, hf://OWNER/NAME, or package.module:function."
        )
    return (_name(file), *_read(Path(file), architecture, reading))


def _read(path: Path, architecture: str, reading: Reading) -> tuple[SSLNetwork, Preprocessing, dict[str, Any]]:
    if path.is_dir() and is_source_folder(path):
        _refuse_options(str(path), reading)
        network, preprocessing = load_network(path)
        if isinstance(network, SSLNetwork):
            return network, preprocessing, read_config(path)
    if path.is_dir() and not architecture and is_transformers_folder(path):
        return read_transformers(path, reading)
    return read_file(path, architecture or None, reading)


def hub_folder(address: str) -> Path:
    """The local copy of `hf://OWNER/NAME[@REVISION]`: json and weights. Raises ValueError where it cannot be had."""
    owner, _, rest = address.removeprefix("hf://").partition("/")
    name, _, revision = rest.partition("@")
    if not owner or not name or "/" in name:
        raise ValueError(f"Write hf://OWNER/NAME, or hf://OWNER/NAME@REVISION, not {address!r}.")
    for weights in ("*.safetensors", "*.bin"):
        try:
            folder = snapshot_download(
                f"{owner}/{name}",
                revision=revision or None,
                allow_patterns=["*.json", weights],
                ignore_patterns=["*/*"],
            )
        except Exception as error:  # the hub's own errors are of many kinds
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{address} cannot be had from the Hugging Face hub: {reason}") from error
        if any(Path(folder).glob(weights)):
            return Path(folder)
    raise ValueError(f"{address} holds no weights that can be read (.safetensors or .bin).")


def _refuse_options(text: str, reading: Reading) -> None:
    if reading.given():
        raise ValueError(f"{text} says itself how it is read; {reading.given().split()[0]} is for files.")


def blank_network(name: str) -> tuple[SSLNetwork, Preprocessing]:
    """A published backbone without weights, on the meta device: for its levels and widths. Nothing is downloaded."""
    entry = entry_of(name)
    with torch.device("meta"):
        return SSLNetwork(build_backbone(entry.architecture, **entry.arguments)).eval(), entry.preprocessing


def is_function(text: str) -> bool:
    """Whether `package.module:function` is written, rather than a file or a name."""
    return ":" in text and not is_network(text)


def is_network(text: str) -> bool:
    """Whether a network is written that is here, on the hub or published: its name, a file or TIMM_NAME=FILE."""
    file = text.rpartition("=")[2]
    on_hub = file.startswith("hf://") and file.count("/") == 3
    return text in PUBLISHED or on_hub or _is_here(text) or ("=" in text and _is_here(file))


def _is_here(text: str) -> bool:
    """Whether it is a file, or a folder that can hold weights of other programs (and is no checkpoint of ours)."""
    path = Path(text)
    ours = ("model_index.json", "sources")
    if not text or not path.is_dir() or any((path / name).exists() for name in ours):
        return path.is_file()
    return any(
        file.name in (".metadata", "config.json") or file.suffix in WEIGHTS for file in path.iterdir() if file.is_file()
    )


def _name(file: str) -> str:
    """A name for sources, from that of the file: it may hold neither dot nor slash."""
    return re.sub(r"[^\w-]+", "-", _stem(file)).strip("-") or "mine"


def _stem(file: str) -> str:
    path = Path(file.rstrip("/"))
    return path.name.partition("@")[0] if file.startswith("hf://") or path.is_dir() else path.stem
