"""How many bits of each image does a representation hold, and where in the picture do they speak?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.process import Process
from rcdm.figures import general
from rcdm.figures.grids import Maps
from rcdm.figures.intervals import interval_rows, marks
from rcdm.figures.result import StudyResult
from rcdm.figures.style import DOUBLE, SINGLE, Look, figure, fill_handles, null_line
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.information import Information, measure_bits, noise_ladder
from rcdm.measures.metrics import mean
from rcdm.measures.retention import backbones_and_projectors
from rcdm.studies.declared import Entry, Option
from rcdm.studies.record import Study

ERROR_SPARED, GUESS_MOVED = "by error spared", "by guess moved"
"""What people read for form 1 and form 2 of `rcdm.measures.information`."""

MOST_APART = 1.5
WITHHELD = "its two estimates do not agree ({:.1f} by error spared, {:.1f} by guess moved): this is of the decoder."


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int] = (0,),
    levels: int = 24,
    lowest: float = -8.0,
    highest: float = 6.0,
    batch_size: int = 64,
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Integrate what each representation spares the denoiser over log signal-to-noise ratios `lowest` … `highest`.

    All sources see the same x, ε and λ; the noise of image i is that of its own stream, averaged over `seeds`. Numbers
    per source, in bits per image: `form_1` (null: h of the next image) and `form_2`; `differences`: backbone minus
    projector of each network, paired, with `limited_by_decoder` where it is negative, or `withheld` where the forms
    disagree. Images: the given one and the map of form 2 from every source, brightest where h speaks most, on one
    scale (`white`: bits per pixel). Raises ValueError for a denoiser that cannot do without a representation, or
    fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"Information needs at least 2 images, better 64, and got {len(images)}.")
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}.")
    x = pixels_of(pipe, images).to(pipe.device)
    steps = noise_ladder(pipe, levels, lowest, highest)
    found: dict[str, Information] = {}
    nulls: dict[str, Tensor] = {}
    for source in sources:
        on_progress(source)
        h = encode_all(pipe, images, source)
        found[source] = _mean([measure_bits(pipe, x, h, source, steps, seed, batch_size) for seed in seeds])
        nulls[source] = measure_bits(pipe, x, h.roll(1, 0), source, steps, seeds[0], batch_size).form_1
    numbers = {
        source: {
            "form_1": mean(bits.form_1, null=float(nulls[source].mean())).to_json(),
            "form_2": mean(bits.form_2).to_json(),
        }
        for source, bits in found.items()
    }
    setting = {
        "logsnr": _reached(pipe, steps),
        "asked": [lowest, highest],
        "levels": len(steps),
        "seeds": list(seeds),
        "images": len(x),
    }
    grid, rows, white = _pictures(x, found)
    result = {**setting, "white": white, "sources": numbers, "differences": _differences(found)}
    return StudyResult(grid, rows, ("given", *sources), result, _summary(result))


def _reached(pipe: RCDMPipeline, steps: Sequence[int]) -> list[float]:
    """The lowest and the highest ln SNR of these timesteps."""
    logsnr = Process(pipe.scheduler).logsnr()[list(steps)]
    return [float(logsnr.min()), float(logsnr.max())]


def _mean(parts: list[Information]) -> Information:
    maps = [part.map for part in parts if part.map is not None]
    return Information(
        torch.stack([part.form_1 for part in parts]).mean(0),
        torch.stack([part.form_2 for part in parts]).mean(0),
        torch.stack(maps).mean(0),
    )


def _differences(bits: dict[str, Information]) -> dict[str, Any]:
    """Backbone minus projector of one network, on the same images and noise.

    For an exact denoiser both forms say the same. Where they do not agree in sign, and within a factor of MOST_APART,
    what they say is of the decoder, and no `value` is given: `withheld`, with the mean of each form.
    """
    result: dict[str, Any] = {}
    for backbone, projector in backbones_and_projectors(list(bits)).values():
        gap = bits[backbone].form_1 - bits[projector].form_1
        other = float((bits[backbone].form_2 - bits[projector].form_2).mean())
        number = mean(gap, null=0.0).to_json()
        name = f"{backbone} − {projector}"
        if agree(number["value"], other):
            result[name] = {**number, "form_2": other, "limited_by_decoder": number["value"] < 0}
        else:
            result[name] = {"withheld": True, "form_1": number["value"], "form_2": other, "n": number["n"]}
    return result


def agree(one: float, other: float) -> bool:
    """Whether two estimates of a difference have one sign and are within a factor of MOST_APART."""
    small, large = sorted((abs(one), abs(other)))
    return one * other > 0 and large <= MOST_APART * small


def _pictures(x: Tensor, found: dict[str, Information]) -> tuple[list[Image.Image], tuple[str, ...], float]:
    """The given images beside their maps, and how many bits a white pixel stands for."""
    few = min(4, len(x))
    given = im.to_pil(x[:few].cpu())
    maps = [bits.map[:few] for bits in found.values() if bits.map is not None]
    top = torch.stack(maps).max().clamp(min=1e-9)
    shown = [im.to_pil((2 * m / top - 1)[:, None].expand(-1, 3, -1, -1)) for m in maps]
    grid = [image for i in range(few) for image in (given[i], *(column[i] for column in shown))]
    return grid, tuple(f"image {i}" for i in range(few)), float(top)


def _summary(result: dict[str, Any]) -> str:
    low, high = result["logsnr"]
    lines = [
        f"Bits per image down to ln SNR {high:.1f} (from {low:.1f}), {result['images']} images: {ERROR_SPARED} (95 %), "
        f"that of another image's h, {GUESS_MOVED}"
    ]
    if max(abs(one - other) for one, other in zip(result["logsnr"], result["asked"], strict=True)) > 0.1:
        lines.append(
            "Asked for were {:g} to {:g}: this checkpoint's timesteps have no such noise.".format(*result["asked"])
        )
    for source, bits in result["sources"].items():
        one = bits["form_1"]
        lines.append(
            f"{source:24} {one['value']:8.1f} ({one['low']:.1f} … {one['high']:.1f}) {one['null']:8.1f} "
            f"{bits['form_2']['value']:8.1f}"
        )
    for name, gap in result["differences"].items():
        if "withheld" in gap:
            lines.append(f"{name}: withheld, {WITHHELD.format(gap['form_1'], gap['form_2'])}")
            continue
        note = ""
        if gap["limited_by_decoder"]:
            note = ", negative: limited by the decoder" if gap["high"] < 0 else ", not told apart from 0"
        lines.append(f"{name}: {gap['value']:.1f} ({gap['low']:.1f} … {gap['high']:.1f}){note}")
    return "\n".join(lines)


def _figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Bits with intervals; the paired differences beside them where there are any; maps on one scale in colour."""
    numbers = result.numbers
    rows = {source: {**bits["form_1"], "other": bits["form_2"]["value"]} for source, bits in numbers["sources"].items()}
    gaps = {name: gap for name, gap in numbers.get("differences", {}).items() if "withheld" not in gap}
    drawn = figure(DOUBLE if gaps else SINGLE, 0.75 + 0.15 * len(rows))
    axes = drawn.subplots(1, 2 if gaps else 1, squeeze=False)[0]
    interval_rows(axes[0], rows, list(rows), looks)
    low, high = numbers["logsnr"]
    axes[0].set_xlabel(f"bits per image, ln SNR {low:.1f} … {high:.1f}".replace("-", "−"))
    if gaps:
        _draw_differences(axes[1], gaps, looks)
    handles = [*marks(f"{ERROR_SPARED}, 95 %", "of another image's h", GUESS_MOVED), *fill_handles(rows, looks)]
    drawn.legend(handles=handles, loc="outside upper center", ncols=6 if gaps else 2)
    maps = Maps(result.columns[1:], numbers.get("white", 1.0), f"bits per pixel ({GUESS_MOVED})")
    return {"": drawn} | general.images(result, maps=maps)


def _draw_differences(axes: Axes, gaps: Mapping[str, Mapping[str, Any]], looks: Mapping[str, Look]) -> None:
    """Backbone minus projector of each network; a hollow mark where the difference is limited by the decoder."""
    networks = [name.partition("/")[0] for name in gaps]
    for place, (name, gap) in enumerate(gaps.items()):
        look = looks[name.partition(" − ")[0]]
        axes.plot([gap["low"], gap["high"]], [place, place], color=look.colour, linewidth=1.2)
        face = "white" if gap["limited_by_decoder"] else look.face
        axes.plot(gap["value"], place, linewidth=0, **{**look.point, "markerfacecolor": face})
    null_line(axes, 0, across=False)
    axes.set_yticks(range(len(networks)), networks)
    axes.set_ylim(len(networks) - 0.4, -0.6)
    axes.grid(axis="x", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    hollow = "\nhollow: negative, limited by the decoder" if any(g["limited_by_decoder"] for g in gaps.values()) else ""
    axes.set_xlabel(f"backbone − projector, bits (paired){hollow}")


STUDY = Study(
    "information",
    __doc__,
    study,
    options=(
        Option("levels", "noise levels that the bits are summed over"),
        Option("lowest", "ln SNR of the noisiest level"),
        Option("highest", "ln SNR of the cleanest level"),
        Option("batch_size", "images that pass through the denoiser at once"),
    ),
    figures=_figures,
    captions={
        "": "Bits per image by the error that the representation spares the denoiser (dots; grey ticks: of another "
        "image's) and by how far it moves the denoiser's guess (crosses); they agree for an exact denoiser. Beside: "
        "backbone minus projector on the same images and noise, where the two agree.",
        "images": "Where the representation speaks: bits per pixel by how far the guess moves, one scale for all.",
    },
    images=64,
    samples=1,
    fewest=2,
    draws=False,
    shared=True,
    report={"information": Entry(quick=(16, 1), quick_settings={"levels": 10})},
)
