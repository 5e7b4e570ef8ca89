"""`rcdm serve`: the page."""

from __future__ import annotations

import argparse
from typing import Any

from rcdm.cli.options import add_backbone_option, command


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = command(commands, "serve", "Open the page.", _serve)
    parser.add_argument("--checkpoint", default="sprites-32", help="name, folder or hub id")
    add_backbone_option(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=None, help="port; the first free one from 7860 if not given")
    parser.add_argument("--share", action="store_true", help="make a public link")


def _serve(options: argparse.Namespace) -> None:
    from rcdm.ui import serve

    serve(options.checkpoint, host=options.host, port=options.port, share=options.share)
