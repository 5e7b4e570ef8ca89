"""What happens when part of a representation is changed?

`neighbours`: the method of Bordes et al. 2022 for representations that are never negative: the dimensions that are
active in most of an image's nearest neighbours are what they share; they are set to 0, or to another image's values.
`principal` and `attributes`: steps along directions found in reference images, or shipped with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures import general
from rcdm.figures.matrix import matrix
from rcdm.figures.result import StudyResult
from rcdm.figures.style import DOUBLE, SINGLE, Look, figure, fill_handles
from rcdm.measures.attributes import Attributes, is_angle, turned_back
from rcdm.measures.directions import FILE, find_directions, shipped_directions, spoken
from rcdm.measures.directions import METHODS as ALONG
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.metrics import variance
from rcdm.measures.readers import attributes_of
from rcdm.studies.declared import Entry, Option
from rcdm.studies.record import Study

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
    _check_ways(method, target is not None, directions, points)
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
            along = directions_for(method, pipe, reference, attributes, source, directions)
            ways, columns = list(along), [f"{step:+.1f}" for step in steps]
            changed = h[:, None, None] + steps.to(h)[:, None] * torch.stack(list(along.values()))[:, None]  # [N,W,E,D]
        drawn = _draw(pipe, changed, source, seeds, num_inference_steps)
        for i, w, k in product(range(len(h)), range(len(ways)), range(len(seeds))):
            grid += [given[i], *im.to_pil(drawn[i, w, :, k])]
            rows.append(", ".join(filter(None, (source, f"image {i}", ways[w], f"seed {seeds[k]}"))))
        if method != "neighbours":
            numbers[source] = {"moves": moves(drawn, ways, steps, attributes)}
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


def _check_ways(method: str, target: bool, directions: int, points: int) -> None:
    if method == "neighbours":
        return
    if target:
        raise ValueError("A target is for method=neighbours: give that, too, or leave the target out.")
    if directions < 1 or points < 2:
        raise ValueError(f"Give at least 1 direction and 2 points along it, not {directions} and {points}.")


def directions_for(
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


def moves(drawn: Tensor, ways: list[str], steps: Tensor, attributes: Attributes) -> dict[str, dict[str, float]]:
    """Direction -> attribute -> movement of its φ per step of one deviation, in deviations of the data (a length).

    It is what moves in all images alike; an angle counts from where it is without a push.
    """
    n, w, e, k = drawn.shape[:4]
    read = attributes.read(drawn.flatten(0, 3))
    centred = steps - steps.mean()
    result: dict[str, dict[str, float]] = {way: {} for way in ways}
    for name, phi in read.items():
        phi = phi.unflatten(0, (n, w, e, k))
        if is_angle(name, phi):
            phi = turned_back(phi, phi[:, :, [int(steps.abs().argmin())]])
        slope = (phi * centred.view(1, 1, -1, 1, 1)).sum(2) / centred.square().sum()  # [N,W,K,P]
        spread = attributes.spread.get(name) or float(variance(read[name])) or 1.0
        length = slope.mean((0, 2)).norm(dim=1) / spread**0.5
        for way, value in zip(ways, length.tolist(), strict=True):
            result[way][name] = value
    return result


def _summary(numbers: dict[str, Any], reference: str | int) -> str:
    lines: list[str] = []
    shipped = " (directions that the checkpoint ships)" if reference == FILE else ""
    for source, by_source in numbers.items():
        if "moves" not in by_source:
            lines += [f"{source}, image {i}: {len(d)} shared dimensions" for i, d in enumerate(by_source["dimensions"])]
            continue
        lines.append(f"{source}: movement of each attribute per step of one deviation, in its own deviations{shipped}")
        for way, moves in by_source["moves"].items():
            lines.append(f"  {way:20} " + "  ".join(f"{name} {value:.2f}" for name, value in moves.items()))
    return "\n".join(lines)


def _figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Direction x attribute, a table per source; or how many dimensions the neighbours share; the draws."""
    by_source = result.numbers["sources"]
    drawn = (
        _moves_figure(result) if all("moves" in one for one in by_source.values()) else _shared_figure(result, looks)
    )
    return {"": drawn} | general.images(result, group=len(result.numbers["seeds"]))


def _moves_figure(result: StudyResult) -> Figure:
    moves = {source: one["moves"] for source, one in result.numbers["sources"].items()}
    columns = min(2, len(moves))
    lines = -(-len(moves) // columns)
    attributes = list(next(iter(next(iter(moves.values())).values())))
    most = max(len(ways) for ways in moves.values())
    drawn = figure(SINGLE if columns == 1 else DOUBLE, 0.75 + lines * (0.3 + 0.14 * most))
    grid = drawn.subplots(lines, columns, squeeze=False, sharex=True)
    values = [value for ways in moves.values() for way in ways.values() for value in way.values()]
    top = min(max([*values, 0.1]), 1.0)
    names = [name.replace("_", " ") for name in attributes]
    for axes, (source, ways) in zip(grid.flat, moves.items(), strict=False):
        table = [[way.get(name, float("nan")) for name in attributes] for way in ways.values()]
        matrix(axes, table, [spoken(name) for name in ways], names, top=top)
        axes.set_title(source, loc="left")
    for axes in list(grid.flat)[len(moves) :]:
        axes.set_axis_off()
    drawn.supxlabel("movement per step of one deviation, in deviations of the attribute", fontsize=7)
    return drawn


def _shared_figure(result: StudyResult, looks: Mapping[str, Look]) -> Figure:
    by_source = result.numbers["sources"]
    drawn = figure(SINGLE, 0.6 + 0.17 * len(by_source))
    axes = drawn.subplots()
    for place, (source, one) in enumerate(by_source.items()):
        counts = [len(dims) for dims in one["dimensions"]]
        axes.plot(counts, [place] * len(counts), linewidth=0, **looks[source].point)
    if handles := fill_handles(by_source, looks):
        drawn.legend(handles=handles, loc="outside upper center", ncols=3)
    one = next(iter(by_source.values()))
    axes.set_yticks(range(len(by_source)), list(by_source))
    axes.set_ylim(len(by_source) - 0.4, -0.6)
    most = max(len(dims) for each in by_source.values() for dims in each["dimensions"])
    axes.set_xlim(0, 1.04 * max(most, 1))
    axes.set_xlabel(
        f"shared dimensions, of each image: active in\nmore than {one['more_than']} of {one['neighbours']} neighbours"
    )
    return drawn


def _cost(pictures: int, numbers: int, settings: Mapping[str, Any]) -> int:
    ways = numbers if settings["method"] == "attributes" else settings["directions"]
    return ways * settings["points"] * pictures


STUDY = Study(
    "manipulation",
    __doc__.partition("\n")[0],
    study,
    options=(
        Option("method", "which directions, or the values that nearest neighbours share", choices=METHODS),
        Option("target", "neighbours: an image whose values replace the shared ones", kind="file"),
        Option("neighbours", "neighbours: how many nearest reference images are looked at"),
        Option("more_than", "neighbours: a dimension is shared where more of them than this are active"),
        Option("directions", "principal: how many directions"),
        Option("reach", "how far along a direction, in deviations of the reference images"),
        Option("points", "draws along a direction"),
    ),
    figures=_figures,
    captions={
        "": "What a step of one deviation along each direction moves, in deviations of each attribute.",
        "images": "Draws along each direction, or without the shared dimensions.",
    },
    captions_by_method={
        "neighbours": {
            "": "How many dimensions of each image are active in most of its nearest neighbours, and so what they "
            "share.",
            "images": "Draws of each image as it is, without the shared dimensions, and with those of a target.",
        },
    },
    intervals=False,
    images=1,
    cost=_cost,
    report={
        "manipulation-principal": Entry({"method": "principal"}, quick=(1, 1), quick_settings={"points": 3}),
        "manipulation-attributes": Entry({"method": "attributes"}, quick=(1, 1), quick_settings={"points": 3}),
        "manipulation-neighbours": Entry(
            {"method": "neighbours"}, quick=(3, 2), only=lambda source: source.endswith("/backbone")
        ),
    },
)
