"""Numbers with their interval, N and null: similarity, cycle error, retrieval rank, retention, calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import permutation_test
from torch import Tensor


@dataclass(frozen=True)
class Number:
    """A value with its bootstrap 95 % interval over n images, and what it would be if nothing were true (`null`)."""

    value: float
    low: float
    high: float
    n: int
    null: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A dict without the null where none is defined."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def finite(record: Any) -> Any:
    """A record of numbers as JSON has them: without entries of a dict that are not finite, or lists of such."""
    if isinstance(record, dict):
        return {key: finite(own) for key, own in record.items() if not _is_nan(own)}
    return [finite(own) for own in record] if isinstance(record, list | tuple) else record


def _is_nan(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_nan(own) for own in value)
    return isinstance(value, float) and not math.isfinite(value)


_AT_ONCE = 2**16
"""Indices of a bootstrap that are taken at once: more would not be faster, and the rows they name are held."""


def bootstrap(
    statistic: Callable[[Tensor], Tensor],
    n: int,
    *,
    null: float | None = None,
    draws: int = 500,
    seed: int = 0,
    vectorised: bool = True,
) -> Number:
    """`statistic(index)` of n images, resampled with replacement; index is int64 [n], the result a scalar.

    Many samples are taken at once by `torch.vmap`; `vectorised` is False for a statistic that it does not know how to
    take so: one that looks at a number itself (`float`, NumPy), a quantile. Indices are drawn on the CPU, so that they
    are the same everywhere, and lie where the statistic's numbers do.
    """
    stream = torch.Generator().manual_seed(seed)
    value = statistic(torch.arange(n))
    many = torch.vmap(statistic) if vectorised else lambda rows: torch.stack([statistic(index) for index in rows])
    step = max(1, _AT_ONCE // n)
    sizes = [min(step, draws - done) for done in range(0, draws, step)]
    rows = (torch.randint(n, (size, n), generator=stream).to(value.device) for size in sizes)
    samples = torch.cat([many(own).double().cpu() for own in rows])
    low, high = samples.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Number(float(value), low, high, n, null)


def mean(values: Tensor, *, null: float | None = None) -> Number:
    """The mean of one value per image, [N]."""
    return bootstrap(lambda i: values[i].mean(), len(values), null=null)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of standardised representations, row by row: [N,D], [N,D] -> [N] in [-1,1]."""
    return F.cosine_similarity(a, b, dim=1)


def squared_error(drawn: Tensor, given: Tensor) -> Tensor:
    """‖f(x̂_i) − f(x_i)‖² per image: [N,D] standardised, twice -> [N]."""
    return (drawn - given).square().sum(1)


def squared_distance_to_others(given: Tensor) -> Tensor:
    """Mean over j ≠ i of ‖f(x_i) − f(x_j)‖²: [N,D] standardised -> [N]; NaN of a single one."""
    n = len(given)
    if n == 1:
        return torch.full_like(given[:, 0], torch.nan)
    # Σ_j ‖a_i − a_j‖² = n ‖a_i‖² + Σ ‖a_j‖² − 2 a_i · Σ a_j
    total = n * given.square().sum(1) + given.square().sum() - 2 * given @ given.sum(0)
    return total / (n - 1)


def cycle_error(drawn: Tensor, given: Tensor) -> Number:
    """E‖f(x̂) − f(x)‖² / E‖f(x) − f(x')‖² for standardised [N,D]: 0 perfect, 1 as far as another image.

    Null: the draws shuffled over the images.
    """
    errors, distances = squared_error(drawn, given), squared_distance_to_others(given)
    shuffled = squared_error(drawn.roll(1, 0), given).mean() / distances.mean()
    return bootstrap(lambda i: errors[i].mean() / distances[i].mean(), len(given), null=float(shuffled))


def ranks(queries: Tensor, gallery: Tensor, *, chunk: int = 1024) -> Tensor:
    """Rank of gallery row i for query i by cosine distance, half a rank per tie: [N,D], [N,D] -> float [N] >= 1.

    NaN where the query is no number.
    """
    queries, gallery = F.normalize(queries, dim=1), F.normalize(gallery, dim=1)
    result = []
    for rows in torch.arange(len(queries)).split(chunk):
        likeness = queries[rows] @ gallery.T  # cosines, [chunk,N]
        own = likeness.gather(1, rows[:, None].to(likeness.device))
        closer, ties = (likeness > own).sum(1), (likeness == own).sum(1) - 1
        result.append((1 + closer + ties / 2).float().masked_fill(own[:, 0].isnan(), torch.nan))
    return torch.cat(result)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of the ranks of [N] and [N], ties in their middle. In torch, as `bootstrap` asks 500 times."""
    return torch.corrcoef(torch.stack([(x[:, None] - x).sign().sum(1).double() for x in (a, b)]))[0, 1]


def nearest(queries: Tensor, bank: Tensor, *, chunk: int = 500) -> tuple[Tensor, Tensor]:
    """Euclidean distance of each row of [N,D] to the nearest row of [M,D], float [N], and which one, int64 [N]."""
    parts = [torch.cdist(rows, bank).min(1) for rows in queries.split(chunk)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def retrieval(drawn: Tensor, gallery: Tensor) -> dict[str, Number]:
    """`mrr` and `recall_at_1` of finding the given image from its draw, standardised [N,D]; null: chance among N."""
    n = len(gallery)
    r = ranks(drawn, gallery)
    # a rank that is uniform over 1 … n: its mean reciprocal is (1 + ½ + … + 1/n) / n
    chance = float((1 / torch.arange(1, n + 1, dtype=torch.float64)).mean())
    return {
        "mrr": bootstrap(lambda i: (1 / r[i]).mean(), n, null=chance),
        "recall_at_1": bootstrap(lambda i: (r[i] < 1.5).float().mean(), n, null=1 / n),
    }


def variance(phi: Tensor, dim: int = 0) -> Tensor:
    """Trace of the covariance over `dim` with 1/(K−1): [..., K, ..., P] -> without `dim` and the last axis."""
    return phi.var(dim, correction=1).sum(-1)


def retention(drawn: Tensor, given: Tensor) -> Number:
    """R = 1 − E Var_k φ(a(x̂_k)) / Var φ(a(x)): 1 kept, 0 gone.

    `drawn` [N,K,P] is φ of K draws per image, `given` [N,P] is φ of the images by the same reader.
    """
    within = variance(drawn, 1)  # Var_k φ(a(x̂_k)) of each image, [N]
    return bootstrap(lambda i: 1 - within[i].mean() / variance(given[i]), len(given))


def calibration(drawn: Tensor, given: Tensor) -> Number:
    """ρ = E‖φ(a(x)) − φ(a(x̂_k))‖² / (2 E Var_k φ(a(x̂_k))): 1 for exact posterior draws, more if over-confident.

    Null: the images shuffled. Shapes as in `retention`. Where nothing varies over the draws the ratio is not finite.
    """
    errors, within = (drawn - given[:, None]).square().sum(-1).mean(1), variance(drawn, 1)
    shuffled = (drawn - given.roll(1, 0)[:, None]).square().sum(-1).mean() / (2 * within.mean())
    return bootstrap(lambda i: errors[i].mean() / (2 * within[i].mean()), len(given), null=float(shuffled))


def calibration_difference(drawn: Tensor, given: Tensor) -> Number:
    """|E‖Δφ‖² − 2 E Var_k| / (2 Var φ(a(x))): calibration where retention is above 0.9; 0 is exact. Shapes as above."""
    errors, within = (drawn - given[:, None]).square().sum(-1).mean(1), variance(drawn, 1)
    return bootstrap(lambda i: (errors[i].mean() - 2 * within[i].mean()).abs() / (2 * variance(given[i])), len(given))


def effective_rank(h: Tensor) -> float:
    """exp(H(p)), p = σ²/Σσ² over the singular values of centred h [N,D], not standardised: 1 … D.

    It is the effective rank of Roy & Vetterli (2007) of the covariance matrix, whose singular values are σ²/(N−1).
    """
    energy = singular_values(h).square()
    return float(torch.exp(torch.special.entr(energy / energy.sum()).sum()))


def participation_ratio(h: Tensor) -> float:
    """(Σσ²)² / Σσ⁴ over the singular values of centred h [N,D]: 1 … D."""
    energy = singular_values(h).square()
    return float(energy.sum().square() / energy.square().sum())


def rankme(h: Tensor) -> float:
    """exp(H(p)), p = σ/Σσ over the singular values of h [N,D] as it is, not centred (Garrido et al. 2023)."""
    values = singular_values(h, centred=False)
    return float(torch.exp(torch.special.entr(values / values.sum()).sum()))


def singular_values(h: Tensor, *, centred: bool = True) -> Tensor:
    """Of h [N,D], falling, float64 [min(N, D)]."""
    h = h.double()
    h = h - h.mean(0) if centred else h
    # σ² are the eigenvalues of HᵀH and of HHᵀ alike: the smaller one is taken
    gram = h.T @ h if h.shape[1] <= h.shape[0] else h @ h.T
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).sqrt()


def jackknife(statistic: Callable[[Tensor], float], n: int, *, folds: int = 10) -> Number:
    """`statistic(index)` of n images, the interval from leaving out one of `folds` parts at a time.

    For statistics that count distinct images, such as ranks, which resampling with replacement would shrink.
    """
    index = torch.arange(n)
    folds = min(folds, n)
    left = torch.tensor([statistic(index[index % folds != fold]) for fold in range(folds)], dtype=torch.float64)
    value = statistic(index)
    # Efron & Stein 1981: (f − 1)/f Σ (θ_(−k) − mean)²
    error = float(((folds - 1) / folds * (left - left.mean()).square().sum()).sqrt())
    return Number(value, value - 1.96 * error, value + 1.96 * error, n)


def sign_flip(differences: Tensor, *, flips: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value that paired differences [N] lie evenly about 0: their mean against that of random signs.

    All signs are tried, and the p-value is exact, where 2^N is at most `flips`.
    """
    values = differences.double().cpu().numpy()
    test = permutation_test(
        (values,),
        lambda flipped, axis: np.abs(flipped.mean(axis)),
        permutation_type="samples",
        n_resamples=flips,
        batch=1000,  # bounds the memory
        alternative="greater",  # of the absolute mean
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number so that any wrong rejection among them is rare (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = largest
    return corrected


def cosines(a: Tensor, b: Tensor) -> dict[str, Number]:
    """Mean cosine of matching rows (`positive`), of other rows (`random`), the difference (`margin`): [N,D] twice."""
    positive, other = similarity(a, b), similarity(a, b.roll(1, 0))
    return {
        "positive": bootstrap(lambda i: positive[i].mean(), len(a)),
        "random": bootstrap(lambda i: other[i].mean(), len(a)),
        "margin": bootstrap(lambda i: (positive[i] - other[i]).mean(), len(a), null=0.0),
    }


def accuracy(predicted: Tensor, labels: Tensor, classes: int, *, cases: int = 1) -> Number:
    """Share of equal entries of two int64 [cases * N]; null: chance among the classes.

    Row `c * N + i` is case c of image i: n and the interval are of images.
    """
    right = (predicted == labels).float().unflatten(0, (cases, -1)).mean(0)
    return bootstrap(lambda i: right[i].mean(), len(right), null=1 / classes)
