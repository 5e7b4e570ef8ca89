"""`rcdm networks`: which networks are published, and of any network levels, widths, images, and what was assumed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rcdm.cli.options import add_options, given, wait_for_torch
from rcdm.networks.catalogue import PUBLISHED, markdown_table
from rcdm.networks.preprocessing import Preprocessing
from rcdm.networks.reading import Reading

if TYPE_CHECKING:
    from rcdm.networks.representation import SSLNetwork


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.set_defaults(run=_networks)
    parser.add_argument(
        "network",
        nargs="?",
        help="published name, checkpoint file or folder, TIMM_NAME=FILE, hf://OWNER/NAME or package.module:function",
    )
    parser.add_argument("--all", action="store_true", help="every path that can be a level, not the usual ones alone")
    add_options(parser, Reading, blank=True)


def _networks(options: argparse.Namespace) -> None:
    reading = Reading(**given(options, Reading))
    if options.network is None:
        print(markdown_table())
        return
    wait_for_torch("networks")
    from rcdm.networks.own_backbone import own_network
    from rcdm.networks.representation import level_widths
    from rcdm.networks.resolve import blank_network, is_function, network_of

    if is_function(options.network):
        module, preprocessing, levels = own_network(options.network)
        widths = level_widths(module, preprocessing)
        _print({level: widths.get(level.partition("@")[0]) for level in levels} if not options.all else widths)
        print(_images(preprocessing))
        return
    lines: Sequence[str] = ()
    if options.network in PUBLISHED and not reading.given():
        network, preprocessing = blank_network(options.network)
        entry = PUBLISHED[options.network]
        known = "width known once it is downloaded" if entry.projector is not None else "none was published"
        lines = [f"projector: {known}; weights under {entry.licence}, {entry.paper}"]
    else:
        name, network, preprocessing, config = network_of(options.network, (), reading)
        print(f"source: {', '.join(f'{name}/{level}' for level in _main(network))}; {_built(config)}")
        lines = config.get("reading", {}).get("lines", [])
        lines = lines if network.projector is not None else [*lines, "projector: none was found"]
    _print(level_widths(network, preprocessing) if options.all else _usual(network, preprocessing))
    print(_images(preprocessing))
    for line in lines:
        print(line)


def _main(network: SSLNetwork) -> list[str]:
    return ["backbone", *(["projector"] if network.projector is not None else [])]


def _built(config: Mapping[str, Any]) -> str:
    """The architecture in a few words."""
    arguments = {key: value for key, value in config["arguments"].items() if key != "config"}
    name = arguments.pop("name", config["architecture"])
    return " ".join([str(name), *(f"{key} {value}" for key, value in arguments.items())])


def _usual(network: SSLNetwork, preprocessing: Preprocessing) -> dict[str, int | None]:
    """Levels that are read by default -> their widths, by a dry run on one image."""
    import torch

    size = preprocessing.size
    blank = torch.zeros(1, 3, size, size, device=next(network.parameters()).device)
    with torch.no_grad():
        return {level: h.shape[1] for level, h in network.all_levels(preprocessing(blank)).items()}


def _images(preprocessing: Preprocessing) -> str:
    return f"images: {preprocessing.size} px, mean {preprocessing.mean}, deviation {preprocessing.std}"


def _print(widths: Mapping[str, int | None]) -> None:
    column = max(map(len, widths))
    for level, width in widths.items():
        print(f"{level:<{column}}  {width or 'no vector, tokens or map':>6}")
