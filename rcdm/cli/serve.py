"""`rcdm serve`: the page."""

from __future__ import annotations

import argparse
import os

from rcdm.cli.options import add_backbone_option
from rcdm.ui.settings import add_serve_options, from_options


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.set_defaults(run=_serve)
    add_serve_options(parser)
    add_backbone_option(parser)


def _serve(options: argparse.Namespace) -> None:
    settings = from_options(options)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from rcdm.ui.page import serve

    serve(settings)
