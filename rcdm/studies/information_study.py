"""How many bits of each image does a representation hold, and where in the picture do they speak?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.information import Information, measure_bits, noise_ladder
from rcdm.measures.metrics import mean
from rcdm.measures.retention import backbones_and_projectors
from rcdm.studies.result import StudyResult


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
    projector of each network, paired, with `limited_by_decoder` where it is negative. Images: the given one and the map
    of form 2 from every source, brightest where h speaks most, on one scale (`white`: bits per pixel). Raises
    ValueError for a denoiser that cannot do without a representation, or fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"Information needs at least 2 images, better 64, and got {len(images)}.")
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
    setting = {"logsnr": [lowest, highest], "levels": len(steps), "seeds": list(seeds), "images": len(x)}
    grid, rows, white = _pictures(x, found)
    result = {**setting, "white": white, "sources": numbers, "differences": _differences(found)}
    return StudyResult(grid, rows, ("given", *sources), result, _summary(result))


def _mean(parts: list[Information]) -> Information:
    maps = [part.map for part in parts if part.map is not None]
    return Information(
        torch.stack([part.form_1 for part in parts]).mean(0),
        torch.stack([part.form_2 for part in parts]).mean(0),
        torch.stack(maps).mean(0),
    )


def _differences(found: dict[str, Information]) -> dict[str, Any]:
    """Backbone minus projector of one network, on the same images and noise."""
    result: dict[str, Any] = {}
    for backbone, projector in backbones_and_projectors(list(found)).values():
        gap = found[backbone].form_1 - found[projector].form_1
        number = mean(gap, null=0.0).to_json()
        result[f"{backbone} − {projector}"] = {**number, "limited_by_decoder": number["value"] < 0}
    return result


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
        f"Bits per image down to ln SNR {high:g} (from {low:g}), {result['images']} images: form 1 (95 %), of another "
        "image's h, form 2"
    ]
    for source, found in result["sources"].items():
        one = found["form_1"]
        lines.append(
            f"{source:24} {one['value']:8.1f} ({one['low']:.1f} … {one['high']:.1f}) {one['null']:8.1f} "
            f"{found['form_2']['value']:8.1f}"
        )
    for name, gap in result["differences"].items():
        note = ""
        if gap["limited_by_decoder"]:
            note = ", negative: limited by the decoder" if gap["high"] < 0 else ", not told apart from 0"
        lines.append(f"{name}: {gap['value']:.1f} ({gap['low']:.1f} … {gap['high']:.1f}){note}")
    return "\n".join(lines)
