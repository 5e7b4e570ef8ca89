"""What is drawn of an image unlike all that the denoiser has seen? Sketches, inverted colours, other data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.data.transformations import invert, sketch
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures import general
from rcdm.figures.intervals import interval_panels
from rcdm.figures.result import StudyResult
from rcdm.figures.style import Look
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.metrics import cycle_error, mean, similarity
from rcdm.measures.retention import draw_each
from rcdm.studies.declared import Entry, Option
from rcdm.studies.record import Study

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


def _numbers(kept: Tensor, target: Tensor, k: int) -> tuple[dict[str, Any], Tensor]:
    """Of standardised h of the draws [N·K,D] and of the images [N,D]; and the similarity of each image's draws [N]."""
    own, next_one = (
        similarity(kept, h.repeat_interleave(k, 0)).view(-1, k).mean(1) for h in (target, target.roll(1, 0))
    )
    measures = {
        "similarity": mean(own, null=float(next_one.mean())),
        "cycle_error": cycle_error(kept[::k], target),
        "distance": mean(target.square().mean(1), null=1.0),
    }
    return {name: number.to_json() for name, number in measures.items()}, own


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


_ALL = (-1e9, 1e9)
_MEASURES = {
    "": ("similarity", "similarity of the draws to the given representation", "to the next image's", _ALL),
    "drop": ("drop", "similarity of the draws lost against the image as given", "none", _ALL),
    "cycle-error": (
        "cycle_error",
        "cycle error of the draws: 0 the given representation",
        "shuffled draws",
        (0.0, 4.0),
    ),
    "distance": ("distance", "mean square of the standardised representation", "training images", _ALL),
}
"""Key of a figure -> measure, what it says, what its null is, and the range that all panels share."""


def _figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """A panel per kind of image, a row per source; the first images of each kind with their draws."""
    drawn = {}
    for key, (measure, says, null, limits) in _MEASURES.items():
        panels: dict[str, dict[str, Mapping[str, float]]] = {}
        for source, found in result.numbers["sources"].items():
            for kind, number in found[measure].items():
                panels.setdefault(kind, {})[source] = number
        drawn[key] = interval_panels(panels, looks, xlabel=says, value="value, 95 % interval", null=null, limits=limits)
    kinds = len(result.numbers["images"])
    return drawn | general.images(result, group=len(result.rows) // kinds if len(result.rows) % kinds == 0 else 1)


STUDY = Study(
    "out_of_distribution",
    __doc__,
    study,
    options=(Option("others", "other data, whose images are drawn beside", kind="data"),),
    figures=_figures,
    captions={
        "": "Similarity of the draws to the given representation, for images as given, their sketches, their inverted "
        "colours and other data.",
        "drop": "How much less similar than those of the image itself the draws of its sketch and its inverse are.",
        "cycle-error": "Distance of the draws' representation to the given one, over that of another such image.",
        "distance": "How far from the training images the representation lies: 1 is usual.",
        "images": "Images of each kind, and a draw from every source; an image has one noise in all columns.",
    },
    images=64,
    fewest=2,
    report={"out_of_distribution": Entry(quick=(8, 1))},
)
