"""What lies between two images? Draws along the path from one representation to another, all from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures import general
from rcdm.figures.curves import level_legend, network_panels
from rcdm.figures.result import StudyResult
from rcdm.figures.style import Look, null_line
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.metrics import similarity
from rcdm.studies.declared import Entry, Option
from rcdm.studies.record import Study


def linear(first: Tensor, second: Tensor, ratios: Sequence[float]) -> Tensor:
    """(1 − r) h₁ + r h₂ of two representations [D], raw -> [len(ratios), D]."""
    r = torch.tensor(ratios, dtype=first.dtype, device=first.device)[:, None]
    return (1 - r) * first + r * second


def spherical(first: Tensor, second: Tensor, ratios: Sequence[float]) -> Tensor:
    """Along the great circle between the directions of h₁ and h₂, the norm changing linearly (Shoemake 1985)."""
    r = torch.tensor(ratios, dtype=first.dtype, device=first.device)[:, None]
    a, b = first.norm(), second.norm()
    cosine = (first @ second / (a * b)).clamp(-1, 1)
    angle = cosine.arccos()
    if angle < 1e-3:  # almost one direction: the circle is a line
        return linear(first, second, ratios)
    directions = (torch.sin((1 - r) * angle) * first / a + torch.sin(r * angle) * second / b) / torch.sin(angle)
    return directions * ((1 - r) * a + r * b)


PATHS: dict[str, Callable[[Tensor, Tensor, Sequence[float]], Tensor]] = {"linear": linear, "spherical": spherical}


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int],
    path: str = "linear",
    points: int = 9,
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Draw along the path between the representations of exactly two images.

    Rows are source x seed; columns `first` and `second`, the given images, and between them the draws by their ratio
    from 0 (first image) to 1 (second). Numbers, per source and averaged over
    seeds: `to_first` and `to_second`, the similarity of each draw to both given representations; `jumps`, the distance
    of neighbouring draws over that of the two given representations (an even path has 1 / (points − 1) everywhere);
    `largest_jump`, with the ratio at which it ends. Raises ValueError for another number of images or an unknown path.
    """
    if len(images) != 2:
        raise ValueError(f"Interpolation needs exactly two images, one for each end, and got {len(images)}.")
    if path not in PATHS:
        raise ValueError(f"There is no path {path!r}; choose one of {', '.join(PATHS)}.")
    if points < 2:
        raise ValueError(f"points must be at least 2, the ends of the path, and is {points}.")
    ratios = torch.linspace(0, 1, points).tolist()
    first, second = im.to_pil(pixels_of(pipe, images))
    grid: list[Image.Image] = []
    numbers: dict[str, Any] = {}
    for source in sources:
        on_progress(source)
        ends = encode_all(pipe, images, source)
        h = PATHS[path](ends[0], ends[1], ratios).repeat(len(seeds), 1)
        noise = [seed for seed in seeds for _ in ratios]
        drawn = pipe.draw(h, source, noise, num_inference_steps=num_inference_steps)
        for row in drawn.split(points):
            grid += [first, *im.to_pil(row), second]
        kept = pipe.unet.standardise(encode_all(pipe, drawn, source), source).unflatten(0, (len(seeds), points))
        numbers[source] = _numbers(kept, pipe.unet.standardise(ends, source), ratios)
    rows = tuple(f"{source}, seed {seed}" for source in sources for seed in seeds)
    result = {"path": path, "ratios": ratios, "seeds": list(seeds), "sources": numbers}
    columns = ("first", *(f"{ratio:.2f}" for ratio in ratios), "second")
    return StudyResult(grid, rows, columns, result, _summary(numbers, path, len(seeds)))


def _numbers(kept: Tensor, ends: Tensor, ratios: Sequence[float]) -> dict[str, Any]:
    """Of the draws' standardised representations [K,P,D] and those of the two images [2,D]."""
    to_first, to_second = (
        similarity(kept.flatten(0, 1), end.expand(kept.shape[0] * kept.shape[1], -1)).view(kept.shape[:2]).mean(0)
        for end in ends
    )
    jumps = ((kept[:, 1:] - kept[:, :-1]).norm(dim=2) / (ends[0] - ends[1]).norm().clamp(min=1e-12)).mean(0)
    top = int(jumps.argmax())
    return {
        "to_first": to_first.tolist(),
        "to_second": to_second.tolist(),
        "jumps": jumps.tolist(),
        "largest_jump": {"value": float(jumps[top]), "ends_at": ratios[top + 1], "n": len(kept)},
    }


def _summary(numbers: dict[str, Any], path: str, n: int) -> str:
    lines = [f"{path} path, {n} seeds: similarity to the first and the second image at the middle; largest jump"]
    for source, by_source in numbers.items():
        first, second = (_at_middle(by_source[end]) for end in ("to_first", "to_second"))
        jump = by_source["largest_jump"]
        lines.append(f"{source:24} {first:6.2f} {second:6.2f}   {jump['value']:.2f} up to ratio {jump['ends_at']:.2f}")
    return "\n".join(lines)


def _at_middle(values: Sequence[float]) -> float:
    """The value at ratio 0.5: of an even number of points the mean of those on both sides."""
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def _figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Similarity to the first (falling) and second image (rising) and the jumps; the draws along the path."""
    numbers = result.numbers
    ratios, by_source = numbers["ratios"], numbers["sources"]
    between = [(a + b) / 2 for a, b in pairwise(ratios)]

    def similarity(axes: Axes, source: str) -> None:
        axes.plot(ratios, by_source[source]["to_first"], **looks[source].curve)
        axes.plot(ratios, by_source[source]["to_second"], **{**looks[source].curve, "marker": "", "linewidth": 0.9})

    def jumps(axes: Axes, source: str) -> None:
        axes.plot(between, by_source[source]["jumps"], **looks[source].curve)
        null_line(axes, 1 / (len(ratios) - 1))

    panels = [("similarity", similarity), ("jump", jumps)]
    drawn = network_panels(list(by_source), panels, xlabel="ratio: 0 first, 1 second image")
    for axes in drawn.axes[len(drawn.axes) // 2 :]:
        axes.set_ylim(bottom=0)
    level_legend(drawn, list(by_source), looks, null="an even path", grey="unmarked: to the second image")
    return {"": drawn} | general.images(result, group=len(numbers["seeds"]))


STUDY = Study(
    "interpolation",
    __doc__,
    study,
    options=(
        Option("path", "how the representations between the two are found", choices=tuple(PATHS)),
        Option("points", "draws along the path, its ends among them"),
    ),
    figures=_figures,
    captions={
        "": "Along the path between two images: similarity of the draws to both ends (unmarked: to the second), "
        "and jumps between neighbouring draws over the distance of the ends; dotted: an even path.",
        "images": "The first image, draws along the path to the second, and the second; a noise per row.",
    },
    intervals=False,
    images=2,
    samples=3,
    fewest=2,
    most=2,
    cost=lambda pictures, numbers, settings: settings["points"],
    report={"interpolation": Entry(quick=(2, 2))},
)
