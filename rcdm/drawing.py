"""Draw columns for a page: previews while drawing, numbers at the end, and an end when nobody waits any more."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcdm import images as im
from rcdm.attributes import Attributes, kept_by_draws
from rcdm.metrics import similarity
from rcdm.pipeline import RCDMPipeline

BATCH = 64  # images drawn together
PREVIEW_SECONDS, PREVIEW_PIXELS = 0.7, 64  # least time between two previews; largest side of their images
IDLE_SECONDS = 0.25  # how soon a closed tab is noticed while a step takes long


@dataclass(frozen=True)
class Request:
    """What to draw: one image per (source, seed)."""

    picture: Image.Image
    sources: list[str]
    seeds: list[int]
    steps: int


@dataclass(frozen=True)
class Column:
    """The drawn images of one source and, once they are finished, their similarities and the shares that are kept."""

    source: str
    images: list[Image.Image]
    similarity: list[float] = field(default_factory=list)
    kept: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawing:
    """Columns after `done` of `total` steps; `finished` with everything measured."""

    columns: list[Column]
    done: int
    total: int
    finished: bool = False


class _Stopped(Exception):
    """Raised inside the pipeline when nobody waits for its images any more."""


def draw_columns(
    pipe: RCDMPipeline,
    attributes: Attributes,
    request: Request,
    show: Callable[[Drawing], None],
    check: Callable[[], None],
) -> Drawing:
    """Draw all columns together, each row from the same noise; `check()` runs after every step and may raise."""
    names, count = request.sources, len(request.seeds)
    h = pipe.encode([request.picture] * len(names), names)  # [S,D], narrower rows end in zeros
    size = min(pipe.image_size, PREVIEW_PIXELS)
    canvas = torch.zeros(len(names) * count, 3, size, size)
    done, total, shown = 0, request.steps * -(-len(canvas) // BATCH), -math.inf

    def on_step_end(_pipe: RCDMPipeline, _step: int, _timestep: int, tensors: dict[str, Tensor]) -> None:
        """Keep the present guesses, and show them when enough time has passed."""
        nonlocal done, shown
        check()
        done += 1
        canvas[tensors["index"].cpu()] = im.resize(tensors["denoised"].float(), size).cpu()
        if time.monotonic() - shown >= PREVIEW_SECONDS:
            shown = time.monotonic()
            columns = [Column(s, im.to_pil(part)) for s, part in zip(names, canvas.split(count), strict=True)]
            show(Drawing(columns, done, total))

    drawn = pipe(
        representation=h,
        source=names,
        seeds=request.seeds,
        num_inference_steps=request.steps,
        output_type="pt",
        batch_size=BATCH,
        callback_on_step_end=on_step_end,
    ).images
    assert isinstance(drawn, Tensor)
    columns = [_measured(pipe, attributes, s, h[i], drawn.split(count)[i]) for i, s in enumerate(names)]
    return Drawing(columns, total, total, finished=True)


def _measured(pipe: RCDMPipeline, attributes: Attributes, source: str, h: Tensor, drawn: Tensor) -> Column:
    """Drawn images [K,3,H,W] of one source, and h [D], perhaps padded -> their column with its numbers."""
    given = pipe.unet.standardise(h[None, : pipe.unet.config.sources[source]], source)
    again = pipe.unet.standardise(pipe.encode(drawn, source), source)
    kept = kept_by_draws(attributes, drawn) if len(drawn) > 1 else {}
    return Column(source, im.to_pil(drawn), similarity(again, given.expand_as(again)).tolist(), kept)


def in_background(work: Callable[[Callable[[Any], None], Callable[[], None]], Any]) -> Generator[Any, None, None]:
    """Run `work(show, check)` in a thread; yield the latest thing it shows, None while nothing is new, then its result.

    Once this generator is closed, `check()` raises in the thread, so that work nobody waits for ends. Errors of the
    work are raised here.
    """
    box: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
    closed = threading.Event()

    def put(kind: str, item: Any) -> None:
        with suppress(queue.Empty):
            box.get_nowait()  # only the latest matters, and nothing piles up
        box.put((kind, item))

    def check() -> None:
        if closed.is_set():
            raise _Stopped

    def run() -> None:
        try:
            put("result", work(lambda item: put("shown", item), check))
        except Exception as error:
            put("error", error)

    threading.Thread(target=run, daemon=True).start()
    try:
        kind = "shown"
        while kind == "shown":
            try:
                kind, item = box.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                item = None
            if kind == "error":
                raise item
            yield item
    finally:
        closed.set()
