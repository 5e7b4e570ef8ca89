"""What do draws of each source look like? The given images beside draws from the same noise, and how they vary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures import general
from rcdm.figures.grids import Maps
from rcdm.figures.result import StudyResult
from rcdm.figures.style import Look
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.metrics import mean, nearest, similarity
from rcdm.studies.declared import Entry
from rcdm.studies.record import Study


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int],
    training: Tensor | None = None,
    features: Callable[[Tensor], Tensor] = lambda images: images.flatten(1) / (2 * images[0].numel() ** 0.5),
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Draw every image with every seed from every source.

    Rows are image x source; columns: the given image, the draws, their mean, and a map of their spread (pixel standard
    deviation over draws, in units of the largest there can be, black is none). Numbers per source: `similarity` of the
    draws to the given representation (null: to that of the next image) and `spread`, the mean of the map, both over
    images. With `training` images [M,3,H,W] the last column is the one nearest to the first draw, and `nearest` the
    mean distance of the draws to theirs (null: that of the given images; well below it draws are copies), by `features`
    [N,3,H,W] -> [N,D]: pixels, root mean square with black to white 1, or `Evaluator.features`.
    Raises ValueError without images, or with fewer than two seeds.
    """
    if len(images) < 1:
        raise ValueError("Give at least one image.")
    if len(seeds) < 2:
        raise ValueError("At least two seeds are needed to see what varies.")
    k = len(seeds)
    given = im.to_pil(pixels_of(pipe, images))
    parts: dict[str, list[list[Image.Image]]] = {}
    numbers: dict[str, Any] = {}
    bank = None if training is None else _Bank(pixels_of(pipe, training), pixels_of(pipe, images), features)
    for source in sources:
        on_progress(source)
        h = encode_all(pipe, images, source)
        drawn = pipe.draw(
            h.repeat_interleave(k, 0), source, list(seeds) * len(h), num_inference_steps=num_inference_steps
        )
        kept = pipe.unet.standardise(encode_all(pipe, drawn, source), source)
        target = pipe.unet.standardise(h, source)
        draws = drawn.unflatten(0, (-1, k))
        maps = draws.std(1, correction=1).mean(1, keepdim=True)  # [N,1,H,W], at most about 1
        numbers[source] = _numbers(kept, target, maps, k)
        parts[source] = [_row(own, spread) for own, spread in zip(draws, maps, strict=True)]
        if bank is not None:
            numbers[source]["nearest"], copied = bank.nearest_to(drawn, k)
            parts[source] = [[*row, near] for row, near in zip(parts[source], copied, strict=True)]
    grid = [image for i in range(len(given)) for source in sources for image in (given[i], *parts[source][i])]
    labels = tuple(f"image {i}, {source}" for i in range(len(given)) for source in sources)
    columns = ("given", *(f"seed {seed}" for seed in seeds), "mean", "spread")
    columns += () if bank is None else (f"training image nearest to seed {seeds[0]}",)
    result = {"seeds": list(seeds), "images": len(given), "sources": numbers}
    return StudyResult(grid, labels, columns, result, _summary(numbers, len(given), k))


class _Bank:
    """Training images [M,3,H,W], as what draws of the given images [N,3,H,W] are compared with."""

    def __init__(self, training: Tensor, given: Tensor, features: Callable[[Tensor], Tensor]) -> None:
        self._images, self._features = training, features
        self._known = torch.cat([features(chunk) for chunk in training.split(500)])
        self._usual = float(nearest(features(given).to(self._known), self._known)[0].mean())

    def nearest_to(self, drawn: Tensor, k: int) -> tuple[dict[str, Any], list[Image.Image]]:
        """k draws per image, image by image: their distances as a number, and what is nearest to the first of each."""
        far, rows = nearest(self._features(drawn).to(self._known), self._known)
        return mean(far.view(-1, k).mean(1).cpu(), null=self._usual).to_json(), im.to_pil(self._images[rows[::k].cpu()])


def _row(draws: Tensor, spread: Tensor) -> list[Image.Image]:
    """Draws of one image [K,3,H,W], their mean, and the map of their spread [1,H,W]."""
    grey = 2 * spread.clamp(max=1)[None].expand(-1, 3, -1, -1) - 1
    return [*im.to_pil(draws), *im.to_pil(draws.mean(0, keepdim=True)), *im.to_pil(grey)]


def _numbers(kept: Tensor, target: Tensor, maps: Tensor, k: int) -> dict[str, Any]:
    own = similarity(kept, target.repeat_interleave(k, 0)).view(-1, k).mean(1).cpu()
    spread = maps.mean((1, 2, 3)).cpu()
    n = len(own)
    null = None
    if n > 1:
        null = float(similarity(kept, target.roll(1, 0).repeat_interleave(k, 0)).mean())
    return {
        "similarity": mean(own, null=null).to_json(),
        "spread": mean(spread).to_json(),
    }


def _summary(numbers: dict[str, Any], n: int, k: int) -> str:
    against = " (to the next image's)" if n > 1 else ""
    lines = [f"{n} image{'s' * (n > 1)} x {k} draws: similarity to the given representation{against}; spread"]
    for source, found in numbers.items():
        own = found["similarity"]
        null = f"({own['null']:.2f})" if "null" in own else ""
        lines.append(f"{source:24} {own['value']:6.2f} {null:8} {found['spread']['value']:6.3f}")
        if near := found.get("nearest"):
            lines[-1] += f"  nearest training image at {near['value']:.3f} (of the given images at {near['null']:.3f})"
    return "\n".join(lines)


def _figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Similarity and spread of each source; images with the map of their spread in colour."""
    maps = Maps(("spread",), 1.0, "spread: pixel deviation over draws") if "spread" in result.columns else None
    panels = general.numbers_of(result, looks)
    null = "of the next image's representation" + ("; nearest: of the given images" if "nearest" in panels else "")
    numbers = general.measures(panels, looks, null=null)
    return numbers | general.images(result, maps=maps, group=len(result.numbers["sources"]))


STUDY = Study(
    "samples",
    __doc__,
    study,
    objects=("features",),
    figures=_figures,
    captions={
        "": "Similarity of the draws to the given representation (cosine, standardised; null: to the next image's) and "
        "spread of the draws (pixel deviation, 1 the largest possible). Nearest: distance to the nearest training "
        "image, where those are at hand (null: of the given images).",
        "images": "The given image, draws of every source from the same noise, their mean and the map of their spread.",
    },
    samples=6,
    shared=True,
    report={"samples": Entry(quick=(4, 4))},
)
