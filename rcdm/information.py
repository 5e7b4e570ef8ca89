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

import torch
from torch import Tensor

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
        signal, deviation = torch.sigmoid(logsnr[k]).sqrt(), torch.sigmoid(-logsnr[k]).sqrt()
        epsilon = noise(k)
        free, given = predict(signal * x + deviation * epsilon, k)
        scale = float(weight) / (2 * math.log(2))
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
