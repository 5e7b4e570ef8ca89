"""What happens when part of a representation is changed?

`neighbours`: the method of Bordes et al. 2022 for representations that are never negative: the dimensions that are
active in most of an image's nearest neighbours are what they share; they are set to 0, or to another image's values.
`principal` and `attributes`: steps along directions found in reference images, or shipped with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.attributes import Attributes, attributes_of
from rcdm.measures.directions import FILE, find_directions, shipped_directions
from rcdm.measures.directions import METHODS as ALONG
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.metrics import variance
from rcdm.studies.result import StudyResult

METHODS = ("neighbours", *ALONG)
NO_REFERENCE = "This needs reference images, best training images of the checkpoint: say where with --data."


def nearest(query: Tensor, bank: Tensor, k: int) -> Tensor:
    """Rows of bank [N,D] nearest to query [D] by cosine, nearest first: int64 [min(k, N)]."""
    likeness = F.normalize(bank, dim=1) @ F.normalize(query, dim=0)
    return likeness.topk(min(k, len(bank))).indices


def active_dimensions(features: Tensor, more_than: int) -> Tensor:
    """Dimensions that are not zero in more than so many of the rows [K,D]: bool [D]."""
    return (features != 0).sum(0) > more_than


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int],
    reference: Tensor | Sequence[Image.Image] | None = None,
    method: str = "principal",
    target: Tensor | Image.Image | None = None,
    neighbours: int = 20,
    more_than: int = 14,
    directions: int = 4,
    reach: float = 2.0,
    points: int = 5,
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Change the representation of each image and draw it with each seed; `reference` images say what there is.

    Without them the directions are those that the checkpoint ships (`rcdm evaluate` writes them).

    `neighbours`: columns are the given image and draws of h, of h without the dimensions that are active in more than
    `more_than` of its `neighbours` nearest reference images, and, with a `target`, of h with the target's values there.
    Else: rows are image x direction x seed, columns steps from −`reach` to `reach` deviations of the reference images;
    numbers say how far each attribute moves per step, in its own deviations (`moves`), so that what else moves is seen.
    Raises ValueError for an unknown method, where a representation that can be negative is given to `neighbours`, and
    without reference images where they are needed.
    """
    _check(method, len(images), None if reference is None else len(reference))
    grid: list[Image.Image] = []
    rows: list[str] = []
    columns: list[str] = []
    numbers: dict[str, Any] = {}
    given = im.to_pil(pixels_of(pipe, images))
    attributes = attributes_of(pipe)
    steps = torch.linspace(-reach, reach, points)
    for source in sources:
        on_progress(source)
        h = encode_all(pipe, images, source)
        if method == "neighbours":
            assert reference is not None
            goal = None if target is None else pipe.encode(target, source)[0]
            bank = encode_all(pipe, reference, source)
            edits, numbers[source] = _without_shared(h, bank, goal, neighbours, more_than, source)
            ways, columns = [""], list(edits)
            changed = torch.stack(list(edits.values()), 1)[:, None]  # [N,1,E,D]
        else:
            along = _directions(method, pipe, reference, attributes, source, directions)
            ways, columns = list(along), [f"{step:+.1f}" for step in steps]
            changed = h[:, None, None] + steps.to(h)[:, None] * torch.stack(list(along.values()))[:, None]  # [N,W,E,D]
        drawn = _draw(pipe, changed, source, seeds, num_inference_steps)
        for i, w, k in product(range(len(h)), range(len(ways)), range(len(seeds))):
            grid += [given[i], *im.to_pil(drawn[i, w, :, k])]
            rows.append(", ".join(filter(None, (source, f"image {i}", ways[w], f"seed {seeds[k]}"))))
        if method != "neighbours":
            numbers[source] = {"moves": _moves(drawn, ways, steps, attributes)}
    used = FILE if reference is None else len(reference)
    found = {"method": method, "seeds": list(seeds), "images": len(given), "reference": used, "sources": numbers}
    return StudyResult(grid, tuple(rows), ("given", *columns), found, _summary(numbers, used))


def _check(method: str, images: int, reference: int | None) -> None:
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r}; choose one of {', '.join(METHODS)}.")
    if images < 1:
        raise ValueError("Manipulation needs at least one image.")
    if reference is not None and reference < 3:
        raise ValueError(f"Manipulation needs at least 3 reference images, better hundreds, and got {reference}.")
    if reference is None and method not in ALONG:
        raise ValueError(NO_REFERENCE)


def _directions(
    method: str,
    pipe: RCDMPipeline,
    reference: Tensor | Sequence[Image.Image] | None,
    attributes: Attributes,
    source: str,
    count: int,
) -> dict[str, Tensor]:
    """Name -> direction [D], found in the reference images or else shipped; `count` main ones, or all attributes'."""
    if reference is not None:
        return find_directions(method, pipe, pixels_of(pipe, reference), attributes, source, components=count)
    shipped = list(shipped_directions(pipe, source, method).items())
    if not shipped:
        raise ValueError(NO_REFERENCE)
    if method == "principal" and count > len(shipped):
        raise ValueError(f"The checkpoint ships {len(shipped)} main directions; for {count}, say where --data is.")
    return dict(shipped[:count] if method == "principal" else shipped)


def _draw(pipe: RCDMPipeline, h: Tensor, source: str, seeds: Sequence[int], steps: int | None) -> Tensor:
    """[N,W,E,D] -> draws [N,W,E,K,3,S,S], every one with the same K noises."""
    flat = h.flatten(0, 2).repeat_interleave(len(seeds), 0)
    drawn = pipe.draw(flat, source, list(seeds) * (len(flat) // len(seeds)), num_inference_steps=steps)
    return drawn.unflatten(0, (*h.shape[:3], len(seeds)))


def _without_shared(
    h: Tensor, bank: Tensor, goal: Tensor | None, k: int, more_than: int, source: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Name of each edit -> [N,D], and which dimensions were changed."""
    if bank.min() < 0 or h.min() < 0:
        raise ValueError(
            f"{source} can be negative, so all of its dimensions are active everywhere: take a backbone that ends in a "
            "ReLU, or the methods principal or attributes."
        )
    zeroed, replaced, dims = [], [], []
    for row in h:
        shared = active_dimensions(bank[nearest(row, bank, k)], more_than)
        zeroed.append(torch.where(shared, 0.0, row))
        if goal is not None:
            replaced.append(torch.where(shared, goal, row))
        dims.append(shared.nonzero()[:, 0].tolist())
    edits = {"plain": h, "shared = 0": torch.stack(zeroed)}
    if goal is not None:
        edits["shared of target"] = torch.stack(replaced)
    return edits, {"dimensions": dims, "neighbours": min(k, len(bank)), "more_than": more_than}


def _moves(drawn: Tensor, ways: list[str], steps: Tensor, attributes: Attributes) -> dict[str, dict[str, float]]:
    """Direction -> attribute -> movement of its φ per step of one deviation, in deviations of the data (a length)."""
    n, w, e, k = drawn.shape[:4]
    read = attributes.read(drawn.flatten(0, 3))
    centred = steps - steps.mean()
    result: dict[str, dict[str, float]] = {way: {} for way in ways}
    for name, phi in read.items():
        phi = phi.unflatten(0, (n, w, e, k))
        slope = (phi * centred.view(1, 1, -1, 1, 1)).sum(2) / centred.square().sum()  # [N,W,K,P]
        spread = attributes.spread.get(name) or float(variance(phi.flatten(0, 3))) or 1.0
        length = slope.mean((0, 2)).norm(dim=1) / spread**0.5
        for way, value in zip(ways, length.tolist(), strict=True):
            result[way][name] = value
    return result


def _summary(numbers: dict[str, Any], reference: str | int) -> str:
    lines: list[str] = []
    shipped = " (directions that the checkpoint ships)" if reference == FILE else ""
    for source, found in numbers.items():
        if "moves" not in found:
            lines += [f"{source}, image {i}: {len(d)} shared dimensions" for i, d in enumerate(found["dimensions"])]
            continue
        lines.append(f"{source}: movement of each attribute per step of one deviation, in its own deviations{shipped}")
        for way, moves in found["moves"].items():
            lines.append(f"  {way:20} " + "  ".join(f"{name} {value:.2f}" for name, value in moves.items()))
    return "\n".join(lines)
