"""What is drawn of an image unlike all that the denoiser has seen? Sketches, inverted colours, other data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.data.transformations import invert, sketch
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.metrics import cycle_error, mean, similarity
from rcdm.measures.retention import draw_each
from rcdm.studies.result import StudyResult

GIVEN = "as given"
MADE: dict[str, Callable[[Tensor], Tensor]] = {"sketch": sketch, "inverted": invert}
"""Kind of image -> how it is made from a given one."""

SHOWN = 3


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int],
    others: Tensor | Sequence[Image.Image] | None = None,
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Draw images as they are given (in distribution), as sketches and inverted, and `others`, with the same noise.

    All are looked at in the size of the drawn ones. Numbers: source -> measure -> kind of image, over images:
    `similarity` of the draws to the given representation (null: to that of the next image of the kind), `cycle_error`
    (0: the draw has the given h, 1: as far as another image of the kind; null: of shuffled draws), `distance`: mean
    square of the standardised h, 1 for training images, and `drop`: how much less similar draws of a sketch or an
    inverted image are than those of the image itself, paired (null 0). Shown are the first images of each kind and a
    draw from every source. Raises ValueError for fewer than 2 images of a kind.
    """
    x = pixels_of(pipe, images).to(pipe.device)
    kinds = {GIVEN: x} | {name: make(x) for name, make in MADE.items()}
    if others is not None:
        kinds["other data"] = pixels_of(pipe, others).to(pipe.device)
    for name, pictures in kinds.items():
        if len(pictures) < 2:
            raise ValueError(f"At least 2 images of each kind are needed, better 32; there is {len(pictures)} {name}.")
    numbers: dict[str, Any] = {}
    drawn: dict[tuple[str, str], Tensor] = {}
    for source in sources:
        numbers[source] = {"similarity": {}, "cycle_error": {}, "distance": {}, "drop": {}}
        usual: Tensor | None = None
        for kind, pictures in kinds.items():
            on_progress(f"{source}: {kind}")
            h = encode_all(pipe, pictures, source)
            draws = draw_each(pipe, h, source, seeds, num_inference_steps)
            drawn[kind, source] = draws[: SHOWN * len(seeds) : len(seeds)]
            kept = pipe.unet.standardise(encode_all(pipe, draws, source), source).cpu()
            found, likeness = _numbers(kept, pipe.unet.standardise(h, source).cpu(), len(seeds))
            for measure, number in found.items():
                numbers[source][measure][kind] = number
            usual = likeness if usual is None else usual
            if kind in MADE:
                numbers[source]["drop"][kind] = mean(usual - likeness, null=0.0).to_json()
    grid, rows = _pictures(kinds, drawn, sources)
    result = {"images": {kind: len(pictures) for kind, pictures in kinds.items()}, "seeds": list(seeds)}
    return StudyResult(grid, rows, ("given", *sources), {**result, "sources": numbers}, _summary(result, numbers))


def _numbers(kept: Tensor, wanted: Tensor, k: int) -> tuple[dict[str, Any], Tensor]:
    """Of standardised h of the draws [N·K,D] and of the images [N,D]; and the similarity of each image's draws [N]."""
    own, next_one = (
        similarity(kept, h.repeat_interleave(k, 0)).view(-1, k).mean(1) for h in (wanted, wanted.roll(1, 0))
    )
    found = {
        "similarity": mean(own, null=float(next_one.mean())),
        "cycle_error": cycle_error(kept[::k], wanted),
        "distance": mean(wanted.square().mean(1), null=1.0),
    }
    return {name: number.to_json() for name, number in found.items()}, own


def _pictures(
    kinds: Mapping[str, Tensor], drawn: Mapping[tuple[str, str], Tensor], sources: Sequence[str]
) -> tuple[list[Image.Image], tuple[str, ...]]:
    grid: list[Image.Image] = []
    rows: list[str] = []
    for kind, pictures in kinds.items():
        few = pictures[:SHOWN].cpu()
        columns = [im.to_pil(few), *(im.to_pil(drawn[kind, source]) for source in sources)]
        grid += [image for row in zip(*columns, strict=True) for image in row]
        rows += [f"{kind}, image {i}" for i in range(len(few))]
    return grid, tuple(rows)


def _summary(setting: Mapping[str, Any], numbers: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{n} {kind}" for kind, n in setting["images"].items())
    lines = [
        f"{counts}, {len(setting['seeds'])} draws each: similarity of the draws to the given representation (95 %; to "
        "the next image's), cycle error, distance of h from the training images (1 is usual)"
    ]
    for source, found in numbers.items():
        for kind, own in found["similarity"].items():
            interval = f"({own['low']:.2f} … {own['high']:.2f}; {own['null']:.2f})"
            far, cycle = found["distance"][kind]["value"], found["cycle_error"][kind]["value"]
            lines.append(f"{source:24} {kind:12} {own['value']:6.2f} {interval:22} {cycle:6.2f} {far:7.2f}")
    return "\n".join(lines)
