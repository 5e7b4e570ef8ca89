"""What a page asks about one image, as jobs: any study, bits, the nearest training images."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.figures.result import StudyResult
from rcdm.measures.directions import METHODS, has_directions
from rcdm.studies import STUDIES
from rcdm.ui.drawing import Column, Progress, Report, Show
from rcdm.ui.loaded import Loaded
from rcdm.ui.watching import Check, checked, private

NOISES = 4  # streams of noise that the bits of one image are averaged over
COMPANIONS = 3  # other images, for studies that need something to compare with
MOST_READ = 16  # numbers that are read off an image, in the drawn world


@dataclass(frozen=True)
class Study:
    """One of STUDIES on given pictures; `settings` are its own, as (name, value).

    `companions`: so many other images are added. `directions`: it takes reference images, where the checkpoint ships no
    directions that stand in for them; the companions are none of these.
    """

    name: str
    pictures: tuple[Image.Image, ...]
    sources: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    settings: tuple[tuple[str, Any], ...] = ()
    directions: bool = False
    companions: int = 0

    def calls(self) -> int:
        return self._calls(len(self.pictures) + self.companions, MOST_READ)

    def _calls(self, pictures: int, numbers: int) -> int:
        """With so many pictures, and so many numbers that are read off an image."""
        cost = STUDIES[self.name].cost
        draws = pictures if cost is None else cost(pictures, numbers, self._settings)
        return len(self.sources) * len(self.seeds) * draws * self.steps

    @property
    def _settings(self) -> dict[str, Any]:
        return {**STUDIES[self.name].defaults, **dict(self.settings)}

    def run(self, loaded: Loaded, show: Show, check: Check) -> StudyResult:
        pictures = [*self.pictures, *loaded.companions(self.companions, self.pictures)]
        more: dict[str, Any] = {}
        if self.directions and not self._can_do_without(loaded):
            more["reference"] = loaded.references[self.companions :]
        settings = {"num_inference_steps": self.steps, **dict(self.settings), **more}
        pipe = private(loaded.pipe) if self.name == "guidance" else loaded.pipe  # which keeps what it has learnt
        counted = STUDIES[self.name].cost is not None
        progress = Report(show, self._calls(len(pictures), _numbers_read(loaded)) if counted else 0)
        with checked(pipe, check, progress.add, progress.see):
            return STUDIES[self.name](
                pipe, pictures, sources=self.sources, seeds=self.seeds, on_progress=progress.say, **settings
            )

    def _can_do_without(self, loaded: Loaded) -> bool:
        """Whether directions that the checkpoint ships stand in for reference images."""
        needed = STUDIES[self.name].parameters["reference"].default is Parameter.empty
        return not needed and self._settings.get("method") in METHODS and has_directions(loaded.pipe)


def _numbers_read(loaded: Loaded) -> int:
    """How many numbers are read off an image of a checkpoint."""
    blank = torch.zeros(1, 3, loaded.pipe.image_size, loaded.pipe.image_size)
    return sum(phi.shape[1] for phi in loaded.attributes.read(blank).values())


@dataclass(frozen=True)
class Bits:
    """How many bits each representation of one picture holds: the study `information` on several noises of it.

    The interval is over noises, not over images. Result: as the study's, without the null, which needs other images.
    """

    picture: Image.Image
    sources: tuple[str, ...]

    def calls(self) -> int:
        return 24 * 4 * NOISES * len(self.sources)

    def run(self, loaded: Loaded, show: Show, check: Check) -> StudyResult:
        with checked(loaded.pipe, check):
            result = STUDIES["information"](
                loaded.pipe,
                [self.picture] * NOISES,
                sources=self.sources,
                seeds=(0,),
                on_progress=lambda words: show(Progress(f"bits of {words}")),
            )
        for about in result.numbers["sources"].values():
            about["form_1"].pop("null", None)
        width = len(result.columns)
        return StudyResult(result.images[:width], ("this image",), result.columns, result.numbers)


@dataclass(frozen=True)
class Nearest:
    """The training images whose representations are nearest to the picture's, by cosine of standardised h."""

    picture: Image.Image
    sources: tuple[str, ...]
    count: int = 6

    def calls(self) -> int:
        return 0

    def run(self, loaded: Loaded, show: Show, check: Check) -> StudyResult:
        grid: list[Image.Image] = []
        numbers: dict[str, Any] = {}
        for source in self.sources:
            check()
            show(Progress(source))
            h = loaded.pipe.unet.standardise(loaded.pipe.encode(self.picture, source), source)
            likeness = torch.nn.functional.cosine_similarity(loaded.bank(source), h)
            best = likeness.topk(min(self.count, len(likeness)))
            grid += im.to_pil(loaded.references[best.indices.cpu()])
            numbers[source] = {"similarity": best.values.tolist()}
        columns = tuple(f"nearest {i + 1}" for i in range(len(grid) // len(self.sources)))
        return StudyResult(grid, self.sources, columns, {"of": len(loaded.references), "sources": numbers})


@dataclass(frozen=True)
class Encoding:
    """The representation of a picture from one source -> list of floats, raw."""

    picture: Image.Image
    source: str

    def calls(self) -> int:
        return 0

    def run(self, loaded: Loaded, show: Show, check: Check) -> list[float]:
        return loaded.pipe.encode(self.picture, self.source)[0].tolist()


def read_factors(column: Column) -> dict[str, tuple[str, str]]:
    """Factors of the drawn world read from the draws of a column: name -> (what they say, how much they differ)."""
    return {name: _reading(name, torch.tensor(phi)) for name, phi in column.phi.items() if name in sprites.KINDS}


def _reading(name: str, phi: Tensor) -> tuple[str, str]:
    """φ [K,P] of one factor -> most frequent class and its share, mean angle in turns or mean, with its deviation."""
    kind = sprites.KINDS[name]
    if kind == "class":
        shape, count = Counter(phi.argmax(1).tolist()).most_common(1)[0]
        return sprites.SHAPES[shape], f"{count} of {len(phi)}"
    if kind == "angle":
        mean = phi.mean(0)
        length = float(mean.norm().clamp(1e-6, 1))
        turns = math.atan2(float(mean[1]), float(mean[0])) / (2 * math.pi) % 1
        return f"{turns:.2f}", f"± {math.sqrt(-2 * math.log(length)) / (2 * math.pi):.2f}"
    return f"{float(phi.mean()):.2f}", f"± {float(phi.std()):.2f}"
