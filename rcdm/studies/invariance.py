"""What is a representation invariant to? Images are transformed, more and more; what follows, and what stays?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.data.transformations import TELLING, TRANSFORMATIONS, Transformation
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures.result import StudyResult
from rcdm.measures.attributes import Attributes, is_angle
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.levels import transformation_probe
from rcdm.measures.metrics import Number, bootstrap, squared_distance_to_others, squared_error
from rcdm.measures.parts import json_part
from rcdm.measures.readers import attributes_of
from rcdm.studies.declared import Entry, Option
from rcdm.studies.invariance_figures import CAPTIONS, figures
from rcdm.studies.record import Study

SHOWN = 4


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int] = (0,),
    only: str = "",
    backgrounds: Tensor | None = None,
    probe_images: Tensor | None = None,
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Encode and draw every transformed image, with the noise of the untransformed one.

    `only`: names of transformations, separated by commas; all of them if empty. Images are transformed at the size of
    the drawn ones. Numbers: transformation -> source -> list over strengths of `alignment` (null 1: another image) and
    `seen` (pixel distance of the draws over that of draws of another image, of the same noise; null 1), and once per
    transformation `transport`: the slope with which the attribute that it moves follows in the draws (1 kept, 0
    invariant). Shown are the first images (up to 4) at every strength, each followed by a draw from every source.
    `backgrounds` [N,3,H,W]: the same images with other backgrounds, towards which the transformation `background`
    moves. With `probe_images` [M,3,H,W] to learn from, `transformation_probe`: name -> source -> accuracy at telling
    which case was applied (null: chance). Raises ValueError for an unknown name or fewer than 2 images.
    """
    if len(images) < 2:
        raise ValueError(f"Invariance needs at least 2 images, better 32, and got {len(images)}.")
    known = {**TRANSFORMATIONS, **_replacement(pipe, backgrounds)}
    names = [name.strip() for name in only.split(",") if name.strip()] or list(known)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"There is no transformation {unknown[0]!r} here; choose of {', '.join(known)}.")
    x, attributes = pixels_of(pipe, images).to(pipe.device), attributes_of(pipe)
    unlike = x.roll(1, 0)  # another image for each
    plain = {source: _seen(pipe, [x, unlike], source, seeds, num_inference_steps) for source in sources}
    width = 1 + max(len(known[name].strengths) for name in names)
    grid: list[Image.Image] = []
    rows: list[str] = []
    numbers: dict[str, Any] = {}
    for name in names:
        what = known[name]
        changed = [what.apply(x, strength) for strength in what.strengths]
        ladders = {"": [x, *changed]}
        numbers[name] = {"strengths": list(what.strengths), "unit": what.unit, "in_views": what.in_views, "sources": {}}
        for source in sources:
            on_progress(f"{name}: {source}")
            seen = _seen(pipe, changed, source, seeds, num_inference_steps)
            numbers[name]["sources"][source] = _numbers(plain[source], seen, x, changed, what, attributes, len(seeds))
            ladders[source] = [drawn[:: len(seeds)] for _, drawn in (plain[source][0], *seen)]
        for i in range(min(SHOWN, len(x))):
            for source, ladder in ladders.items():
                grid += _padded(ladder, i, width)
                rows.append(f"{name}, image {i}, {source}" if source else f"{name}, image {i}")
    setting = {"images": len(x), "seeds": list(seeds), "sources": list(sources), "transformations": numbers}
    if probe_images is not None and (asked := [name for name in TELLING if not only or name in names]):
        on_progress("transformation probes")
        setting["transformation_probe"] = _told(pipe, pixels_of(pipe, probe_images), x, sources, asked)
    columns = ("none", *(f"strength {i + 1}" for i in range(width - 1)))
    return StudyResult(grid, tuple(rows), columns, setting, _summary(setting))


def _replacement(pipe: RCDMPipeline, backgrounds: Tensor | None) -> dict[str, Transformation]:
    """The transformation towards other backgrounds, where those are known."""
    if backgrounds is None:
        return {}
    other = pixels_of(pipe, backgrounds).to(pipe.device)
    moves = ("ground_brightness",)
    return {
        "background": Transformation(
            lambda images, share: torch.lerp(images, other, share), (0.25, 0.5, 1.0), "of the way", False, moves
        )
    }


def _told(
    pipe: RCDMPipeline, train: Tensor, test: Tensor, sources: Sequence[str], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Name -> source -> accuracy of a probe at telling the cases of a transformation."""

    def encode(images: Tensor) -> dict[str, Tensor]:
        return {source: encode_all(pipe, images, source).cpu() for source in sources}

    def probe(name: str) -> dict[str, Any]:
        accuracies = transformation_probe(encode, train, test, name, penalties=(1e-4,))
        return {source: number.to_json() for source, number in accuracies.items()}

    inputs = {"train": train, "test": test, "sources": list(sources)}
    return {name: json_part("telling", {**inputs, "name": name}, partial(probe, name)) for name in names}


def _seen(
    pipe: RCDMPipeline, ladder: Sequence[Tensor], source: str, seeds: Sequence[int], steps: int | None
) -> list[tuple[Tensor, Tensor]]:
    """Standardised h [N,D] and draws [N*K,3,S,S] at each step of a ladder of images [N,3,S,S].

    Image i and seed k have one noise, whatever the image became.
    """
    n = len(ladder[0])
    h = torch.cat([pipe.encode(chunk, source) for images in ladder for chunk in images.split(256)])
    noise = [seed + 1000 * i for i in range(n) for seed in seeds] * len(ladder)
    drawn = pipe.draw(h.repeat_interleave(len(seeds), 0), source, noise, num_inference_steps=steps).cpu()
    standardised = pipe.unet.standardise(h, source).cpu()
    return list(zip(standardised.split(n), drawn.split(n * len(seeds)), strict=True))


def _numbers(
    plain: Sequence[tuple[Tensor, Tensor]],
    seen: Sequence[tuple[Tensor, Tensor]],
    x: Tensor,
    changed: Sequence[Tensor],
    what: Transformation,
    attributes: Attributes,
    k: int,
) -> dict[str, Any]:
    (h, drawn), (_, unlike) = plain
    others, apart = squared_distance_to_others(h), _distance(unlike, drawn, k)  # of the same noise
    result: dict[str, Any] = {"alignment": [], "seen": []}
    for h_t, drawn_t in seen:
        moved, visible = squared_error(h_t, h), _distance(drawn_t, drawn, k)
        result["alignment"].append(_ratio(moved, others).to_json())
        result["seen"].append(_ratio(visible, apart).to_json())
    name = next((name for name in what.moves if name in attributes.read(x[:1])), None)
    if name is not None:
        given = _path(attributes, name, [x, *changed])
        followed = _path(attributes, name, [drawn, *(d for _, d in seen)]).unflatten(0, (-1, k)).mean(1)
        result["transport"] = _slope(followed, given).to_json() | {"attribute": name}
    return result


def _distance(a: Tensor, b: Tensor, k: int) -> Tensor:
    """Root mean square difference of draws [N*K,3,S,S], averaged over the K of an image: [N]."""
    return (a - b).square().mean((1, 2, 3)).sqrt().view(-1, k).mean(1)


def _ratio(part: Tensor, whole: Tensor) -> Number:
    return bootstrap(lambda i: part[i].mean() / whole[i].mean(), len(part), null=1.0)


def _path(attributes: Attributes, name: str, ladder: Sequence[Tensor]) -> Tensor:
    """How an attribute moves from the untransformed images on: [N,strengths,P]; an angle in turns, unwrapped (P 1)."""
    phi = torch.stack([attributes.read(images)[name] for images in ladder], 1)  # [N, 1 + strengths, P]
    if is_angle(name, phi):
        turns = torch.atan2(phi[..., 1], phi[..., 0]) / (2 * math.pi)
        steps = (turns[:, 1:] - turns[:, :-1] + 0.5) % 1 - 0.5
        return steps.cumsum(1)[..., None]
    return phi[:, 1:] - phi[:, :1]


def _slope(followed: Tensor, given: Tensor) -> Number:
    """Least-squares slope through zero of what the draws did on what was done, both [N, strengths, P]; null: 0."""
    product, square = (followed * given).sum((1, 2)), given.square().sum((1, 2))
    return bootstrap(lambda i: product[i].sum() / square[i].sum().clamp(min=1e-12), len(given), null=0.0)


def _padded(ladder: Sequence[Tensor], i: int, width: int) -> list[Image.Image]:
    """Image i of each step; empty pictures fill the row."""
    shown = im.to_pil(torch.stack([images[i].cpu() for images in ladder]))
    return shown + [Image.new("RGB", shown[0].size, "white")] * (width - len(shown))


def _summary(setting: dict[str, Any]) -> str:
    lines = [
        "At the strongest: alignment (0 invariant, 1 another image), seen change, slope of the attribute that moves"
    ]
    for name, found in setting["transformations"].items():
        where = "in usual views" if found["in_views"] else ""
        for source, n in found["sources"].items():
            slope = n.get("transport")
            moved = f"{slope['attribute']} {slope['value']:.2f}" if slope else ""
            lines.append(
                f"{name:14} {where:14} {source:24} {n['alignment'][-1]['value']:6.2f} "
                f"{n['seen'][-1]['value']:6.2f}  {moved}"
            )
    for name, told in setting.get("transformation_probe", {}).items():
        chance = next(iter(told.values()))["null"]
        accuracies = ", ".join(f"{source} {number['value']:.2f}" for source, number in told.items())
        lines.append(f"telling {name} (chance {chance:.2f}): {accuracies}")
    return "\n".join(lines)


def _cost(pictures: int, numbers: int, settings: Mapping[str, Any]) -> int:
    wished = [name.strip() for name in settings["only"].split(",") if name.strip()] or list(TRANSFORMATIONS)
    steps = sum(len(TRANSFORMATIONS[name].strengths) for name in wished if name in TRANSFORMATIONS)
    return pictures * (2 + steps)


STUDY = Study(
    "invariance",
    __doc__,
    study,
    options=(
        Option(
            "only",
            f"transformations, separated by commas; all if empty: {', '.join(TRANSFORMATIONS)}, and background where "
            "the images are known on other ones",
        ),
    ),
    figures=figures,
    captions=CAPTIONS,
    images=32,
    fewest=2,
    cost=_cost,
    report={"invariance": Entry(quick=(4, 1))},
)
