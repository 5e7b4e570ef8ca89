"""`rcdm serve`: the page."""

from __future__ import annotations

import argparse
import os
from typing import Any

from rcdm.cli.options import add_backbone_option, command
from rcdm.ui.settings import add_serve_options, from_options


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = command(commands, "serve", "Open the page.", _serve)
    add_serve_options(parser)
    add_backbone_option(parser)


def _serve(options: argparse.Namespace) -> None:
    settings = from_options(options)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from rcdm.ui.page import serve

    serve(settings)
