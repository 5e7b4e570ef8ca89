"""What decides how a draw looks: the image, the source, or the noise? And what of h a decoder draws, and what not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rcdm.measures.metrics import Number, bootstrap, mean

HELD, TOLERANCE = 0.3, 0.1
"""An attribute counts as held from this R² of a probe on; draws fall short of it where retention is lower by more."""


def variance_shares(values: Tensor) -> dict[str, Number]:
    """Values [N,S,K,P] of draws by (image, source, seed), the same seeds everywhere -> shares of `image`, `source` and
    `seed`: the sum of squares of each main effect over that of all, summed over P.

    The rest, up to 1, are interactions: what a source makes of an image. Intervals are over images. Raises ValueError
    for fewer than 2 images or seeds.
    """
    _refuse(values)
    images, squares = values.mean((1, 2)), values.square().sum(3).mean((1, 2))  # [N,P], [N]
    sources, seeds = values.mean(2), values.mean(1)  # [N,S,P], [N,K,P]

    def share(i: Tensor, effect: Callable[[Tensor], Tensor]) -> Tensor:
        """Sum of squares of `effect` [levels,P] about the mean, over that of everything."""
        centre = images[i].mean(0)
        total = squares[i].mean() - centre.square().sum()
        return (effect(i) - centre).square().sum(1).mean() / total.clamp(min=1e-12)

    effects: dict[str, Callable[[Tensor], Tensor]] = {
        "image": lambda i: images[i],
        "source": lambda i: sources[i].mean(0),
        "seed": lambda i: seeds[i].mean(0),
    }
    return {name: bootstrap(lambda i, e=effect: share(i, e), len(values)) for name, effect in effects.items()}  # type: ignore[misc]


def seed_told(values: Tensor) -> Number:
    """How often the nearest draw of another image by the same source has the same seed: [N,S,K,P] -> null 1/K.

    Far above it the noise shows through: the denoiser has learnt too little. Raises ValueError as `variance_shares`.
    """
    _refuse(values)
    n, s, k = values.shape[:3]
    hits = torch.zeros(n, s, k)
    for source in range(s):
        rows = values[:, source].flatten(0, 1)  # [N*K,P]
        distance = torch.cdist(rows, rows).view(n, k, n, k)
        own = torch.eye(n, dtype=torch.bool, device=values.device)[:, None, :, None]
        best = distance.masked_fill(own, torch.inf).flatten(2).argmin(2) % k  # [N,K]
        hits[:, source] = (best == torch.arange(k, device=values.device)).float().cpu()
    told = mean(hits.mean((1, 2)))
    return Number(told.value, told.low, told.high, told.n, 1 / k)


def _refuse(values: Tensor) -> None:
    if values.ndim != 4 or len(values) < 2 or values.shape[2] < 2:
        raise ValueError(f"Shares need at least 2 images and 2 seeds, as [N,S,K,P], and got {list(values.shape)}.")


def falls_short(number: Mapping[str, Any]) -> bool:
    """Whether draws keep less of an attribute than a probe reads from h, by its entry in metrics.json."""
    return "probe" in number and number["value"] < number["probe"] - TOLERANCE


def drawn_and_not(sources: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """`sources` of metrics.json -> attributes that are drawn as well as probes read them, and, of the others, in how
    many of the sources that hold them they are not ("3 of 8").

    Only sources whose probe reads at least HELD count; an attribute that none of them holds is in neither.
    """
    well: list[str] = []
    short: dict[str, str] = {}
    attributes = dict.fromkeys(name for about in sources.values() for name in about.get("retention", {}))
    for name in attributes:
        numbers = [about["retention"][name] for about in sources.values() if name in about.get("retention", {})]
        held = [number for number in numbers if number.get("probe", 0) >= HELD]
        missed = sum(falls_short(number) for number in held)
        if held and 4 * missed <= len(held):
            well.append(name)
        elif held:
            short[name] = f"{missed} of {len(held)}"
    return well, short
