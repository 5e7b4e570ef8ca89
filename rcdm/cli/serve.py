"""`rcdm serve`: the page, which app.py opens too."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec

from rcdm.cli.options import add_backbone_option, wait_for_torch
from rcdm.cli.refusals import refuse_checkpoint, refuse_data
from rcdm.diffusion.memory import keep_freed_memory
from rcdm.ui.settings import add_serve_options, from_options


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.set_defaults(run=_serve)
    add_serve_options(parser)
    add_backbone_option(parser)


def _serve(options: argparse.Namespace) -> None:
    settings = from_options(options)
    if find_spec("gradio") is None:
        raise ValueError("The page needs gradio: install it with `pip install 'rcdm[page]'`.")
    refuse_data(settings.data or None)
    refuse_checkpoint(settings.checkpoint)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    wait_for_torch("serve")
    keep_freed_memory()  # before gradio, whose import starts a thread
    from rcdm.ui.page import serve

    serve(settings)
