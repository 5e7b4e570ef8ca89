"""FID and KID of any number of draws: features pass by in batches, and none is kept longer than its block needs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rcdm.data.dataset_protocol import Dataset
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.judge import Evaluator
from rcdm.measures.parts import guidance_inputs, keeping, part
from rcdm.measures.processes import over_processes

BATCH = 64
"""Draws of a batch, and of a part that is kept."""

BLOCK = 1000
"""Features of either side that are compared at once for KID."""


class Moments:
    """Mean and covariance of features [N,D] that come in batches, in float64: D² numbers, however many there are."""

    def __init__(self) -> None:
        self.n = 0
        self._sum = torch.zeros(0, dtype=torch.float64)
        self._products = torch.zeros(0, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """A batch [B,D] more."""
        x = features.double()
        if not self.n:
            self._sum, self._products = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], x.shape[1])
        self.n += len(x)
        self._sum += x.sum(0)
        self._products += x.T @ x

    @property
    def mean(self) -> Tensor:
        return self._sum / self.n

    @property
    def covariance(self) -> Tensor:
        """With N - 1 below, as the published FIDs have it."""
        return (self._products - self.n * torch.outer(self.mean, self.mean)) / (self.n - 1)


def frechet(a: Moments, b: Moments) -> float:
    """‖μ − μ'‖² + tr(Σ + Σ' − 2 (Σ Σ')^½): the FID, where the features are those of Inception (Heusel et al. 2017)."""
    root = torch.linalg.eigvals(a.covariance @ b.covariance).sqrt().real.sum()
    return float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * root)


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased MMD² of [N,D] and [N,D] under (x·y / D + 1)³ (Bińkowski et al. 2018)."""
    n, dim = x.shape
    within = [((z @ z.T / dim + 1) ** 3) for z in (x.double(), y.double())]
    between = (x.double() @ y.double().T / dim + 1) ** 3
    same = sum((k.sum() - k.trace()) / (n * (n - 1)) for k in within)
    return float(same - 2 * between.mean())


def blocks(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Rows that come in batches -> blocks of `size` rows; what is left over at the end is left out."""
    held: list[Tensor] = []
    for batch in batches:
        held.append(batch)
        while sum(map(len, held)) >= size:
            rows = torch.cat(held)
            yield rows[:size]
            held = [rows[size:]]


def realism(
    pipe: RCDMPipeline,
    evaluator: Evaluator,
    h: Tensor | None,
    source: str | None,
    dataset: Dataset,
    n: int,
    *,
    num_inference_steps: int | None = None,
) -> dict[str, Any]:
    """`fid` and `kid` (x 1000) of n draws against as many training images, seen by the evaluator.

    The draws are of the rows of h [M,D], raw, one after the other and from the first again, with seeds from M on; of
    nothing where h is None. Features have unit length times √D, as those of the judge's own `fid` and `kid`; KID is
    mean and `deviation` over disjoint blocks of `subset` draws and images. Features are parts, draws are not kept.
    """
    size = max(2, min(BLOCK, n // 2))
    drawn, real = Moments(), Moments()
    sides = (
        blocks(_noted(_of_draws(pipe, evaluator, h, source, n, num_inference_steps), drawn), size),
        blocks(_noted(_of_images(evaluator, dataset, n), real), size),
    )
    distances = [1000 * kernel_distance(x, y) for x, y in zip(*sides, strict=True)]
    found = torch.tensor(distances, dtype=torch.float64)
    kid = {"value": float(found.mean()), "deviation": float(found.std()), "n": n, "subset": size}
    return {"fid": {"value": frechet(drawn, real), "n": n}, "kid": kid}


def _noted(batches: Iterable[Tensor], moments: Moments) -> Iterator[Tensor]:
    """Features of unit length times √D, which the moments have seen, too."""
    for batch in map(_unit, batches):
        moments.add(batch)
        yield batch


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features, dim=1) * features.shape[1] ** 0.5


def _of_draws(
    pipe: RCDMPipeline, evaluator: Evaluator, h: Tensor | None, source: str | None, n: int, steps: int | None
) -> Iterator[Tensor]:
    """Features [B,D] of n draws, batch by batch, on the CPU."""
    m = 0 if h is None else len(h)

    def compute(start: int) -> Tensor:
        numbers = range(start, min(start + BATCH, n))
        seeds = [m + number for number in numbers]
        given = None if h is None else h[[number % m for number in numbers]]

        def features() -> Tensor:
            with keeping(None):
                return evaluator.features(pipe.draw(given, source, seeds, num_inference_steps=steps))

        inputs = {"h": given, "source": source, "seeds": seeds, "steps": steps, "evaluator": evaluator.digest}
        inputs |= {} if source is None else guidance_inputs(pipe, [pipe.guidance_of(source)])
        return part("features", inputs, features).cpu()

    return over_processes(range(0, n, BATCH), compute)


def _of_images(evaluator: Evaluator, dataset: Dataset, n: int) -> Iterator[Tensor]:
    """Features [B,D] of the first n training images, batch by batch, on the CPU."""

    def compute(start: int) -> Tensor:
        images = dataset.batch(start // BATCH, BATCH).images[: n - start]
        inputs = {"images": images, "evaluator": evaluator.digest}
        return part("real", inputs, lambda: evaluator.features(images)).cpu()

    return over_processes(range(0, n, BATCH), compute)
