"""How many bits of an image does a representation hold? From what it spares a denoiser.

With x_t = a x + s ε and λ = ln(a² / s²), for exact denoisers (Kong et al. 2023, arXiv 2302.03792)
    form 1   I = ½ ∫ E[ ‖ε − ε̂(x_t)‖² − ‖ε − ε̂(x_t, h)‖² ] dλ
    form 2   I = ½ ∫ E ‖ε̂(x_t) − ε̂(x_t, h)‖² dλ
are the same. With a trained network they are not: their disagreement measures how far it is from exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.process import Process, add_noise, levels_of
from rcdm.measures.parts import part
from rcdm.measures.processes import over_processes

Predict = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""x_t [N,…] at level k of the ladder -> ε̂(x_t) and ε̂(x_t, h), each [N,…]."""


@dataclass(frozen=True)
class Information:
    """Bits of each image, [N] each, and where they are: `map` [N,H,W] sums to form 2 (None where x holds vectors)."""

    form_1: Tensor
    form_2: Tensor
    map: Tensor | None


def information(predict: Predict, x: Tensor, logsnr: Tensor, noise: Callable[[int], Tensor]) -> Information:
    """Integrate both forms over a ladder of log signal-to-noise ratios.

    `x` [N,D] or [N,C,H,W]; `logsnr` [L], rising or falling; `noise(k)` gives ε of level k in the shape of x, which must
    be the same for every representation that is compared. The trapezoid rule is used.
    """
    form_1, form_2 = x.new_zeros(len(x)), x.new_zeros(len(x))
    picture = x.new_zeros(len(x), *x.shape[2:]) if x.ndim == 4 else None
    for k, weight in enumerate(trapezoid(logsnr)):
        epsilon = noise(k)
        free, given = predict(add_noise(x, epsilon, *levels_of(logsnr[k])), k)
        scale = float(weight) / (2 * math.log(2))  # ½ dλ, from nats to bits
        # form 1: ‖ε − ε̂(x_t)‖² − ‖ε − ε̂(x_t,h)‖²; form 2: ‖ε̂(x_t) − ε̂(x_t,h)‖²
        gain = (epsilon - free).square() - (epsilon - given).square()
        change = (free - given).square()
        form_1 += scale * gain.flatten(1).sum(1)
        form_2 += scale * change.flatten(1).sum(1)
        if picture is not None:
            picture += scale * change.sum(1)
    return Information(form_1, form_2, picture)


def trapezoid(points: Tensor) -> Tensor:
    """Weights [L] with which values at points [L] in order integrate over their range."""
    gaps = (points[1:] - points[:-1]).abs()
    return torch.cat([gaps[:1], gaps[1:] + gaps[:-1], gaps[-1:]]) / 2


def noise_ladder(pipe: RCDMPipeline, levels: int, lowest: float, highest: float) -> list[int]:
    """Timesteps whose log signal-to-noise ratios are spaced evenly over the range, as far as the schedule reaches.

    Raises ValueError for fewer than two levels, or a range that is empty or that the schedule does not reach.
    """
    if levels < 2 or not lowest < highest:
        raise ValueError(
            f"Give at least 2 levels from a lower to a higher ln SNR, not {levels} from {lowest:g} to {highest:g}."
        )
    logsnr = Process(pipe.scheduler).logsnr()
    targets = torch.linspace(highest, lowest, levels)
    found = sorted({int((logsnr - value).abs().argmin()) for value in targets})
    if len(found) < 2:
        raise ValueError(
            f"From {lowest:g} to {highest:g} ln SNR the schedule of this denoiser has a single level; it reaches from "
            f"{float(logsnr.min()):.1f} to {float(logsnr.max()):.1f}."
        )
    return found


@torch.no_grad()
def measure_bits(
    pipe: RCDMPipeline, x: Tensor, h: Tensor, source: str, steps: list[int], seed: int, batch_size: int = 64
) -> Information:
    """What h [N,D], raw, spares the denoiser of a pipeline on images [N,3,S,S], at the timesteps of `noise_ladder`.

    Image i has the noise of the stream `seed + i`, whatever the source and the batch; results are on the CPU. What the
    denoiser says without h is the same for all sources, and a part (`parts`). Raises ValueError for
    a denoiser that cannot do without a representation.
    """
    if not pipe.unet.config.has_unconditional:
        raise ValueError("Information needs a denoiser that also learned to draw without a representation.")
    x = pipe.unet.space.encode(x)
    batches = torch.arange(len(x)).split(batch_size)
    parts: list[Tensor] = []
    with pipe.progress_bar(total=len(batches) * len(steps)) as bar:

        def compute(index: Tensor) -> Tensor:
            own = (x[index.to(x.device)], h[index.to(h.device)], source, steps, [seed + int(i) for i in index])
            inputs = dict(zip(("x", "h", "source", "steps", "seeds"), own, strict=True))
            return part("bits", inputs, lambda: _bits(pipe, *own, on_level=bar.update))

        for bits in over_processes(batches, compute):
            parts.append(bits.cpu())
            bar.n = len(parts) * len(steps)
            bar.refresh()
    bits = torch.cat(parts)
    return Information(bits[:, 0], bits[:, 1], bits[:, 2:].unflatten(1, x.shape[2:]))


def _bits(
    pipe: RCDMPipeline,
    x: Tensor,
    h: Tensor,
    source: str,
    steps: list[int],
    seeds: list[int],
    *,
    on_level: Callable[[], Any],
) -> Tensor:
    """Both forms and the map of each image of a batch: [B, 2 + H * W]."""
    logsnr, draw = Process(pipe.scheduler).logsnr()[steps].to(x.device), _noise(x, seeds)

    def without() -> Tensor:
        epsilon = _noise(x, seeds)
        noisy = (add_noise(x, epsilon(), *levels_of(level)) for level in logsnr)
        return torch.stack([_predicted(pipe, x_t, t) for x_t, t in zip(noisy, steps, strict=True)])

    free = part("free", {"x": x, "steps": steps, "seeds": seeds}, without).to(x.device)

    def noise(_: int) -> Tensor:
        on_level()
        return draw()

    def predict(x_t: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return free[k], _predicted(pipe, x_t, steps[k], h, source)

    bits = information(predict, x, logsnr, noise)
    assert bits.map is not None
    return torch.cat([bits.form_1[:, None], bits.form_2[:, None], bits.map.flatten(1)], 1)


def _noise(x: Tensor, seeds: list[int]) -> Callable[[], Tensor]:
    """What gives ε in the shape of x, level by level: image i from the stream of seed i."""
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]
    return lambda: torch.stack([torch.randn(x.shape[1:], generator=stream) for stream in streams]).to(x)


def _predicted(pipe: RCDMPipeline, x_t: Tensor, t: int, *given: Any) -> Tensor:
    """ε̂ at a timestep, with h and its source or without."""
    out = pipe.unet(x_t, torch.full((len(x_t),), t, device=x_t.device), *given).sample.float()
    return Process(pipe.scheduler).noise(out[:, : pipe.unet.space.channels], x_t, t)
