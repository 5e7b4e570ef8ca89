"""The page: one image in, columns of drawn images that share its representation out, filling in while they are drawn."""

from __future__ import annotations

import base64
import io
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image
from torch import Tensor

from rcdm import images as im
from rcdm import sprites
from rcdm.checkpoints import load
from rcdm.metrics import similarity
from rcdm.pipeline import RCDMPipeline
from rcdm.studies.retention import kept_by_draws

EXAMPLES = tuple(Path(__file__).parent / "examples" / name for name in ("heart.png", "arrow.png", "caps.jpg", "plane.jpg"))
MOST_IMAGES, MOST_STEPS, LARGEST_SEED = 16, 100, 2**31 - 1
PREVIEW_SECONDS = 0.7  # least time between two previews
PREVIEW_SIZE = 64  # largest side of a preview, pixels
IDLE_SECONDS = 0.25  # how soon a closed tab is noticed during a long step
SPRITE_SIZE = 256  # pixels

THEME = gr.themes.Default(
    primary_hue="teal",
    neutral_hue="slate",
    font=("system-ui", "-apple-system", "Segoe UI", "sans-serif"),
    font_mono=("ui-monospace", "Consolas", "monospace"),
)
CSS = (Path(__file__).parent / "ui.css").read_text()


class Photo(gr.Image):
    """An image input that hands over the uploaded file untouched: `images.decode` alone opens it."""

    is_template = True  # shown by gr.Image's own front end

    def preprocess(self, payload: Any) -> str | None:
        return payload.path if payload else None


@dataclass(frozen=True)
class Column:
    """What one source keeps: its drawn images and, once they are finished, what was measured on them."""

    source: str
    images: list[Image.Image]
    similarity: list[float] = field(default_factory=list)
    kept: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What is to be drawn: one image per (source, seed)."""

    picture: Image.Image
    sources: list[str]
    seeds: list[int]
    steps: int


class _Stopped(Exception):  # noqa: N818 - a signal, not an error
    """Raised inside the pipeline when nobody waits for its images any more."""
