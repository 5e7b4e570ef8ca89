"""A network by what a user writes: a published name, a checkpoint file, TIMM_NAME=FILE, or package.module:function."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rcdm.networks.backbones import build_backbone
from rcdm.networks.catalogue import PUBLISHED, entry_of
from rcdm.networks.foreign_files import read_file
from rcdm.networks.own_backbone import own_sources
from rcdm.networks.published import load_published
from rcdm.networks.representation import Preprocessing, RepresentationSource, SSLNetwork
from rcdm.networks.sources import Sources

log = logging.getLogger(__name__)


def sources_of(text: str, names: Sequence[str] = ()) -> Sources:
    """What is written -> sources `NETWORK/LEVEL`; `names` are such or levels alone, by default backbone and projector.

    A function brings its levels with it. Published files are downloaded at their first use. Raises ValueError for what
    is no network, and for a level that it does not have.
    """
    if is_function(text):
        return own_sources(text, names)
    levels = [name.rpartition("/")[2] for name in names]
    network, ssl_network, preprocessing, config = network_of(text, levels)
    if not levels and ssl_network.projector is None:
        log.warning("%s: no projector was found, its only source is the backbone.", text)
    levels = levels or ["backbone", *(["projector"] if ssl_network.projector is not None else [])]
    if other := [name for name in names if "/" in name and name.partition("/")[0] != network]:
        raise ValueError(f"{text} is the network {network}, and has no source {other[0]!r}.")
    return Sources(
        {network: (ssl_network, preprocessing)}, [f"{network}/{level}" for level in levels], {network: config}
    )


def source_of(text: str) -> RepresentationSource:
    """`WHAT/LEVEL` -> the source, where `sources_of` knows what WHAT is."""
    what, _, level = text.rpartition("/")
    sources = sources_of(what, [level])
    return sources[sources.names[0]]


def network_of(text: str, levels: Sequence[str] = ()) -> tuple[str, SSLNetwork, Preprocessing, dict[str, Any]]:
    """A published name, a file, or TIMM_NAME=FILE -> name, network, preprocessing, config.json of its source folder.

    `levels` are checked before anything is downloaded.
    """
    if text in PUBLISHED:
        for level in levels:
            entry_of(text, level)
        return (text, *load_published(text))
    architecture, _, file = ("", "", text) if Path(text).is_file() else text.rpartition("=")
    if not Path(file).is_file():
        raise ValueError(
            f"{file!r} is no file and no published network (`rcdm networks` lists them); write one of these, "
            "TIMM_NAME=FILE, or package.module:function."
        )
    return (_name(file), *read_file(file, architecture or None))


def blank_network(name: str) -> tuple[SSLNetwork, Preprocessing]:
    """A published backbone without weights, on the meta device: for its levels and widths. Nothing is downloaded."""
    entry = entry_of(name)
    with torch.device("meta"):
        return SSLNetwork(build_backbone(entry.architecture, **entry.arguments)).eval(), entry.preprocessing


def is_function(text: str) -> bool:
    """Whether `package.module:function` is written, rather than a file or a name."""
    return ":" in text and not is_network(text)


def is_network(text: str) -> bool:
    """Whether a network is written that is here or published: its name, a file or TIMM_NAME=FILE."""
    return text in PUBLISHED or Path(text).is_file() or Path(text.rpartition("=")[2]).is_file()


def _name(file: str) -> str:
    """A name for sources, from that of the file: it may hold neither dot nor slash."""
    return re.sub(r"[^\w-]+", "-", Path(file).stem).strip("-") or "mine"
