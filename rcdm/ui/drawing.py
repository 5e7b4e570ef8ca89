"""Draw columns for a page: previews while drawing, numbers at the end, and an end when nobody waits any more."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.diffusion.guidance_settings import Guidance
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.attributes import Kept, kept_by_draws
from rcdm.measures.metrics import similarity
from rcdm.ui.loaded import Loaded
from rcdm.ui.watching import Check

BATCH = 64  # images drawn together
PREVIEW_SECONDS, PREVIEW_PIXELS = 0.7, 64  # least time between two previews; largest side of their images
MOST_SEEN = 16  # pictures shown of what is being drawn
IDLE_SECONDS = 0.25  # how soon a closed tab is noticed while a step takes long

Show = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """How far some work is: words, the share that is done where it is known, and what there is to see already.

    `columns` of Compare, with a place for every image; `pictures` that are being drawn just now, of any other work.
    """

    words: str
    share: float | None = None
    columns: list[Column] = field(default_factory=list)
    pictures: list[Image.Image] = field(default_factory=list)


class Job(Protocol):
    """Work on one checkpoint: a value, so that it can be sent to another process, queued, and told apart."""

    def run(self, loaded: Loaded, show: Show, check: Check) -> Any:
        """The result. `show` takes a Progress; `check` raises where nobody waits for the result any more."""

    def calls(self) -> int:
        """About how many images pass through the denoiser: what the work costs."""


@dataclass(frozen=True)
class Column:
    """The images drawn from one source and, once they are finished, what was measured on them.

    `similarity`: to the given representation, one per image. `mean` and `spread` of the draws, the latter as in the
    study `samples`. `phi`: attribute -> φ of every draw, as lists. `foreign`: the draws are less similar to what was
    given than those of 95 % of held-out images are; None where that is not known. `guidance`: in words.
    """

    source: str
    images: list[Image.Image]
    similarity: list[float] = field(default_factory=list)
    kept: dict[str, Kept] = field(default_factory=dict)
    mean: Image.Image | None = None
    spread: Image.Image | None = None
    phi: dict[str, list[list[float]]] = field(default_factory=dict)
    foreign: bool | None = None
    guidance: str = ""


@dataclass(frozen=True)
class Columns:
    """Draw a picture with every seed from every source; each row from the same noise -> list of Column.

    `strength` of guidance by regression, the same for all; 0 is none, None what is chosen for each source.
    """

    picture: Image.Image
    sources: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    strength: float | None = None

    def calls(self) -> int:
        return len(self.sources) * len(self.seeds) * self.steps

    def guidance(self, pipe: RCDMPipeline) -> list[Guidance]:
        """Of each column."""
        if self.strength is None:
            return [pipe.guidance_of(name) for name in self.sources]
        return [Guidance(strength=self.strength)] * len(self.sources)

    def run(self, loaded: Loaded, show: Show, check: Check) -> list[Column]:
        """Draw all columns as one batch, showing the guesses meanwhile."""
        pipe, names, count = loaded.pipe, self.sources, len(self.seeds)
        guidance = self.guidance(pipe)
        h = pipe.encode([self.picture] * len(names), names)  # [S,D], narrower rows end in zeros
        size = min(pipe.image_size, PREVIEW_PIXELS)
        canvas = torch.zeros(len(names) * count, 3, size, size)
        done, total, shown = 0, self.steps * -(-len(canvas) // BATCH), -math.inf

        def on_step_end(_pipe: RCDMPipeline, _step: int, _timestep: int, tensors: dict[str, Tensor]) -> None:
            """Keep the present guesses, and show them when enough time has passed."""
            nonlocal done, shown
            check()
            done += 1
            due = time.monotonic() - shown >= PREVIEW_SECONDS
            if due or done % self.steps == 0:  # the latest guess, or the last of these images
                canvas[tensors["index"].cpu()] = im.resize(tensors["denoised"].float(), size).cpu()
            if due:
                shown = time.monotonic()
                parts = zip(names, canvas.split(count), guidance, strict=True)
                columns = [Column(s, im.to_pil(part), guidance=one.in_words()) for s, part, one in parts]
                show(Progress(f"step {done} of {total}", done / total, columns))

        drawn = pipe(
            representation=h,
            source=names,
            seeds=self.seeds,
            num_inference_steps=self.steps,
            guidance_strength=self.strength,
            output_type="pt",
            batch_size=BATCH,
            callback_on_step_end=on_step_end,
        ).images
        assert isinstance(drawn, Tensor)
        parts = drawn.split(count)
        return [_measured(loaded, s, h[i], parts[i], guidance[i], self.steps) for i, s in enumerate(names)]


def _measured(loaded: Loaded, source: str, h: Tensor, drawn: Tensor, guidance: Guidance, steps: int) -> Column:
    """Drawn images [K,3,H,W] of one source, h [D], perhaps padded, and how they were drawn -> their column."""
    pipe = loaded.pipe
    encoded = pipe.unet.standardise(h[None, : pipe.unet.config.sources[source]], source)
    again = pipe.unet.standardise(pipe.encode(drawn, source), source)
    alike = similarity(again, encoded.expand_as(again)).tolist()
    # the floor is that of draws with the guidance that was chosen, in as many steps as it was measured in
    usual = guidance == pipe.guidance_of(source) and steps >= loaded.metrics.get("num_inference_steps", 0)
    floor = loaded.similarity_floor(source) if usual else None
    foreign = None if floor is None else sum(alike) / len(alike) < floor
    column = Column(source, im.to_pil(drawn), alike, foreign=foreign, guidance=guidance.in_words())
    if len(drawn) < 2:
        return column
    deviation = drawn.std(0, correction=1).mean(0, keepdim=True).clamp(max=1)  # [1,H,W]
    maps = torch.stack([drawn.mean(0), 2 * deviation.expand(3, -1, -1) - 1])
    mean, spread = im.to_pil(maps)
    phi = loaded.attributes.read(drawn)
    free = loaded.free_kept
    kept = {name: replace(k, null=free.get(name)) for name, k in kept_by_draws(loaded.attributes, phi).items()}
    lists = {name: values.tolist() for name, values in phi.items()}
    return replace(column, kept=kept, mean=mean, spread=spread, phi=lists)


class _Stopped(Exception):
    """Raised inside the denoiser when nobody waits for its images any more."""


class Report:
    """What a job reports: words, the share of the denoiser's calls that were made, and what is being drawn.

    A share is shown percent by percent, pictures not too often; of an unknown total (0) there is no share.
    """

    def __init__(self, show: Show, total: int) -> None:
        self._show, self._total, self._done, self._words = show, total, 0, "…"
        self._pictures: list[Image.Image] = []
        self._seen = -math.inf

    def say(self, words: str) -> None:
        """What is going on now."""
        self._words = words
        self._send()

    def add(self, images: int) -> None:
        """So many images are passing through the denoiser."""
        before = self._share
        self._done += images
        if self._share != before:
            self._send()

    def see(self, denoised: Tensor) -> None:
        """The present guesses [B,3,S,S] of what is being drawn; the first of them are shown."""
        if time.monotonic() - self._seen >= PREVIEW_SECONDS:
            size = min(denoised.shape[-1], PREVIEW_PIXELS)
            self._pictures = im.to_pil(im.resize(denoised[:MOST_SEEN].float(), size).cpu())
            self._send()
            self._seen = time.monotonic()

    def _send(self) -> None:
        self._show(Progress(self._words, self._share, pictures=self._pictures))

    @property
    def _share(self) -> float | None:
        return min(100 * self._done // self._total, 100) / 100 if self._total else None


def in_background(work: Callable[[Show, Check], Any]) -> Generator[Any, None, None]:
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
