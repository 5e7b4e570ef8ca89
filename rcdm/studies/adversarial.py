"""How little must an image change for its representation to become another one? What is drawn then?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from rcdm.figures.style import Look, band, null_line
from rcdm.measures.attributes import Attributes
from rcdm.measures.faithfulness import pixels_of
from rcdm.measures.metrics import Number, bootstrap, mean, squared_distance_to_others, squared_error
from rcdm.measures.parts import part
from rcdm.measures.readers import attributes_of
from rcdm.studies.declared import Entry, Option
from rcdm.studies.record import Study

CLASSES = ("class", "shape")
SHOWN = 4
STRENGTHS = (0, 1, 2, 4, 8, 16)
"""Largest change of a value, in grey levels of 255."""


def attack(
    encode: Callable[[Tensor], Tensor], images: Tensor, epsilon: float, *, steps: int = 20, seed: int = 0
) -> Tensor:
    """Images [N,3,H,W] in [-1,1], each value changed by at most `epsilon`, whose encoding is far from the original one.

    Projected gradient ascent on ‖f(x + δ) − f(x)‖² from a random start (Madry et al. 2017, arXiv 1706.06083).
    """
    if epsilon == 0:
        return images.clone()
    with torch.no_grad():
        goal = encode(images)
    stream = torch.Generator().manual_seed(seed)
    start = torch.rand(images.shape, generator=stream).to(images) * 2 - 1
    changed = (images + epsilon * start).clamp(-1, 1)
    rate = 2.5 * epsilon / steps
    for _ in range(steps):
        changed.requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad((encode(changed) - goal).square().sum(), changed)
        changed = changed.detach() + rate * gradient.sign()
        changed = torch.minimum(torch.maximum(changed, images - epsilon), images + epsilon).clamp(-1, 1)
    return changed


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int] = (0,),
    steps: int = 20,
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Attack each image at 0, 1, 2, 4, 8 and 16 grey levels of 255, and draw from what its representation became.

    Numbers: source -> list over the strengths of `distance` (of the attacked representation, over that of another
    image), `random` (the same for a change of the same size and random signs), `drawn` (of the draws' representation to
    that of the clean image) and, where a class can be read from the draws, `flips`: the share of draws whose class is
    not that of the clean image's draw with the same noise. Shown are the first images (up to 4) under attack and a draw
    of each.
    Raises ValueError for fewer than 2 images, or no step.
    """
    if len(images) < 2:
        raise ValueError(f"The attack needs at least 2 images, better 32, and got {len(images)}.")
    if steps < 1:
        raise ValueError(f"The attack takes at least 1 step, better 20, not {steps}.")
    x, attributes = pixels_of(pipe, images).to(pipe.device), attributes_of(pipe)
    grid: list[Image.Image] = []
    rows: list[str] = []
    numbers: dict[str, Any] = {}
    for source in sources:
        on_progress(source)
        numbers[source], shown = _attacked(pipe, x, source, seeds, attributes, steps, num_inference_steps)
        for i in range(min(SHOWN, len(x))):
            for label, pictures in shown.items():
                grid += im.to_pil(torch.stack([strength[i] for strength in pictures]))
                rows.append(f"{source}, image {i}, {label}")
    setting = {"strengths_of_255": list(STRENGTHS), "images": len(x), "seeds": list(seeds), "steps": steps}
    columns = tuple(f"{strength}/255" for strength in STRENGTHS)
    return StudyResult(grid, tuple(rows), columns, {**setting, "sources": numbers}, _summary(numbers))


def _attacked(
    pipe: RCDMPipeline,
    x: Tensor,
    source: str,
    seeds: Sequence[int],
    attributes: Attributes,
    steps: int,
    num_inference_steps: int | None,
) -> tuple[dict[str, list[Any]], dict[str, list[Tensor]]]:
    """The numbers of one source at every strength, and the first images under attack with a draw of each."""

    def encode(pixels: Tensor) -> Tensor:
        return pipe.unet.standardise(pipe.sources[source](pixels), source)

    with torch.no_grad():
        clean = encode(x)
    k, others = len(seeds), squared_distance_to_others(clean).cpu()
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(1)).to(x) * 2 - 1
    noise = [seed + 1000 * i for i in range(len(x)) for seed in seeds]
    measures: dict[str, list[Any]] = {"distance": [], "random": [], "drawn": []}
    shown: dict[str, list[Tensor]] = {"attacked": [], "drawn": []}
    before: Tensor | None = None
    for strength in STRENGTHS:
        epsilon = 2 * strength / 255
        settings = {"x": x, "source": source, "epsilon": epsilon, "steps": steps}
        hostile = part("attack", settings, partial(attack, encode, x, epsilon, steps=steps)).to(x)
        with torch.no_grad():
            harmed, shaken = encode(hostile), encode((x + epsilon * signs).clamp(-1, 1))
            h = pipe.encode(hostile, source).repeat_interleave(k, 0)
            drawn = pipe.draw(h, source, noise, num_inference_steps=num_inference_steps)
            far = squared_error(encode(drawn), clean.repeat_interleave(k, 0)).view(-1, k).mean(1)
        errors = {"distance": squared_error(harmed, clean), "random": squared_error(shaken, clean), "drawn": far}
        for name, error in errors.items():
            measures[name].append(_ratio(error.cpu(), others).to_json())
        read = attributes.read(drawn)
        kind = next((name for name in CLASSES if name in read), None)
        if kind is not None:
            now = read[kind].argmax(1).cpu()
            before = now if before is None else before
            measures.setdefault("flips", []).append(mean((now != before).float().view(-1, k).mean(1)).to_json())
        shown["attacked"].append(hostile[:SHOWN].cpu())
        shown["drawn"].append(drawn[: SHOWN * k : k].cpu())
    return measures, shown


def _ratio(error: Tensor, others: Tensor) -> Number:
    return bootstrap(lambda i: error[i].mean() / others[i].mean(), len(error), null=1.0)


def _summary(numbers: dict[str, Any]) -> str:
    lines = [
        "Distance of the attacked representation (1 is another image's), at /255 of " + ", ".join(map(str, STRENGTHS))
    ]
    for source, found in numbers.items():
        lines.append(f"{source:24}" + "".join(f"{number['value']:8.2f}" for number in found["distance"]))
        lines.append(f"{'  random change':24}" + "".join(f"{number['value']:8.2f}" for number in found["random"]))
    return "\n".join(lines)


def _figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Distance under attack with random changes in grey beside it, distance of the draws, class flips; the images."""
    numbers = result.numbers
    found, strengths = numbers["sources"], numbers["strengths_of_255"]
    places = range(len(strengths))

    def distance(axes: Axes, source: str) -> None:
        band(axes, places, found[source]["distance"], looks[source])
        axes.plot(places, [n["value"] for n in found[source]["random"]], color="0.6", linewidth=0.8, zorder=1)
        null_line(axes, 1, label="another image")

    def drawn_distance(axes: Axes, source: str) -> None:
        band(axes, places, found[source]["drawn"], looks[source])
        null_line(axes, 1, label="another image")

    def flips(axes: Axes, source: str) -> None:
        if "flips" in found[source]:
            band(axes, places, found[source]["flips"], looks[source])

    panels = [("distance of h", distance), ("distance of draws' h", drawn_distance)]
    if any("flips" in one for one in found.values()):
        panels.append(("class flips", flips))
    drawn = network_panels(list(found), panels, xlabel="largest change, of 255")
    drawn.axes[0].set_xticks(places, [str(s) for s in strengths])
    for axes in drawn.axes:
        if (top := axes.get_ylim()[1]) > 5:
            axes.set_yscale("symlog", linthresh=1, linscale=0.8)  # straight up to 1, then by powers of ten
            axes.set_yticks([y for y in (0, 0.5, 1, 2, 5, 10, 20, 50, 100) if y < top], minor=False)
            axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=0)
    level_legend(drawn, list(found), looks, grey="random change")
    return {"": drawn} | general.images(result, group=2)


STUDY = Study(
    "adversarial",
    __doc__,
    study,
    options=(Option("steps", "steps of the attack on an image"),),
    figures=_figures,
    captions={
        "": "Attack on the representation: its distance over that of another image (grey lines: random changes of the "
        "same size), the distance of the draws' representation, and the share of draws whose class changes.",
        "images": "Images under attack, and draws from what their representation became.",
    },
    images=32,
    fewest=2,
    cost=lambda pictures, numbers, settings: len(STRENGTHS) * pictures,
    report={"adversarial": Entry(quick=(6, 1), quick_settings={"steps": 10})},
)
