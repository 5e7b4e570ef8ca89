"""`rcdm networks`: which networks are published, and the levels of any network with their widths."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from rcdm.cli.options import wait_for_torch
from rcdm.networks.catalogue import PUBLISHED, markdown_table


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.set_defaults(run=_networks)
    parser.add_argument(
        "network", nargs="?", help="published name, checkpoint file, TIMM_NAME=FILE or package.module:function"
    )
    parser.add_argument("--all", action="store_true", help="every path that can be a level, not the usual ones alone")


def _networks(options: argparse.Namespace) -> None:
    if options.network is None:
        print(markdown_table())
        return
    wait_for_torch("networks")
    from rcdm.networks.own_backbone import own_network
    from rcdm.networks.representation import level_widths
    from rcdm.networks.resolve import blank_network, is_function, network_of

    note = ""
    if is_function(options.network):
        module, preprocessing, levels = own_network(options.network)
        widths, usual = level_widths(module, preprocessing), list(levels)
    else:
        if options.network in PUBLISHED:
            network, preprocessing = blank_network(options.network)
            entry = PUBLISHED[options.network]
            known = "width known once it is downloaded" if entry.projector is not None else "none was published"
            note = f"projector: {known}; weights under {entry.licence}, {entry.paper}"
        else:
            _, network, preprocessing, _ = network_of(options.network)
            if network.projector is None:
                note = "projector: none was found"
        widths, usual = level_widths(network, preprocessing), list(network.levels())
    _print(widths if options.all else {level: widths.get(level.partition("@")[0]) for level in usual})
    print(f"images: {preprocessing.size} px, mean {preprocessing.mean}, deviation {preprocessing.std}")
    if note:
        print(note)


def _print(widths: Mapping[str, int | None]) -> None:
    column = max(map(len, widths))
    for level, width in widths.items():
        print(f"{level:<{column}}  {width or 'no vector, tokens or map':>6}")
