"""What a noisy image says of h: a regression on the prior's guess, where no network was ever trained on noisy images.

x̂, the prior's guess at x_t, is a mean of many images, blurred and pale, and f has never seen its like: f(x̂) says little
of f(x) while much noise is left, and drowns in what it says of blur. So z, standardised h in its main directions, is
predicted from what f says of x̂ and from what x̂ looks like, on images of the prior with noise of each level:

    z | x_t ~ N(c + Bᵀ φ(x̂), Σ),  φ = (z(x̂), x̂ in 8 x 8 pixels)                                           (6)

with ridge regression for c and B, and Σ, the covariance of what is left, from images that were held out. That is what
classifier guidance (Dhariwal & Nichol 2021, arXiv 2105.05233) trains a network for, and the twist of `particles`. Where
images are normal, f is linear and the denoiser exact, (6) is p(z | x_t) itself, but for the number of images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import cross_val_predict
from torch import Tensor, nn

from rcdm.diffusion.image_space import ImageSpace
from rcdm.diffusion.process import Process, add_noise, to_x0

LEVELS = (-4.0, -2.5, -1.0, 0.5, 2.0, 4.0)
"""λ = ln(a² / s²) of the images it is fitted on; between two, c, B and Σ are interpolated."""

DIRECTIONS = 64
"""Main directions of h at most; fewer than half of the images."""

SIDE, GAIN = 8, 3.0
"""Pixels of x̂ along a side, and what they are multiplied by: about as wide as a standardised number then."""

PENALTIES = np.logspace(-1, 5, 13)
FOLDS = 20

BATCH = 32
"""Images at once, where no gradient is asked for."""


class Regression(nn.Module):
    """(6) at L levels of noise, for z in K directions and φ of F numbers.

    Args:
        basis: directions of standardised h [D,K]. intercept: c [L,K]. weight: B [L,F,K]. covariance: Σ [L,K,K].
        levels: λ of each level, rising [L]; LEVELS, where none are given.
    """

    basis: Tensor
    intercept: Tensor
    weight: Tensor
    covariance: Tensor
    levels: Tensor

    def __init__(
        self, basis: Tensor, intercept: Tensor, weight: Tensor, covariance: Tensor, levels: Tensor | None = None
    ) -> None:
        super().__init__()
        for name, value in (
            ("basis", basis),
            ("intercept", intercept),
            ("weight", weight),
            ("covariance", covariance),
            ("levels", torch.tensor(LEVELS).to(basis) if levels is None else levels),
        ):
            self.register_buffer(name, value)

    @classmethod
    def blank(cls, dim: int, directions: int, features: int, levels: int) -> Regression:
        """One of D, K, F and L, all zeros: to be filled from a file."""
        shapes: tuple[tuple[int, ...], ...] = (
            (dim, directions),
            (levels, directions),
            (levels, features, directions),
            (levels, directions, directions),
            (levels,),
        )
        return cls(*(torch.zeros(shape) for shape in shapes))

    def flat(self) -> Tensor:
        """All its numbers, to be kept or sent; `blank(…).filled(flat)` has them again."""
        return torch.cat([value.flatten() for value in self.state_dict().values()])

    def filled(self, flat: Tensor) -> Regression:
        """With the numbers of another one of the same shapes."""
        own = self.state_dict()
        parts = flat.split([value.numel() for value in own.values()])
        self.load_state_dict({name: part.view_as(own[name]) for name, part in zip(own, parts, strict=True)})
        return self

    def forward(self, wanted: Tensor, guessed: Tensor, images: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        """How far h is from what is predicted, r [B,K], and Σ⁻¹ r [B,K].

        Standardised h [B,D], that of the guess [B,D], the guess itself [B,3,S,S], λ of each image or of all [B or 1].
        Gradients flow through r alone.
        """
        low, share = self._between(logsnr)
        c, weight, covariance = (
            torch.lerp(of[low], of[low + 1], share.view(-1, *[1] * (of.dim() - 1)))
            for of in (self.intercept, self.weight, self.covariance)
        )
        r = wanted @ self.basis - c - (_features(guessed @ self.basis, images)[:, None] @ weight)[:, 0]
        solved = torch.cholesky_solve(r.detach()[..., None], torch.linalg.cholesky(covariance))
        return r, solved[..., 0]

    def _between(self, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        """λ [B] -> the level below each, and how far it is to the next, 0 to 1."""
        levels = self.levels.to(logsnr.dtype)
        low = (torch.searchsorted(levels, logsnr.contiguous(), right=True) - 1).clamp(0, len(levels) - 2)
        return low, ((logsnr - levels[low]) / (levels[low + 1] - levels[low])).clamp(0, 1)


@torch.no_grad()
def learn_regression(
    process: Process,
    space: ImageSpace,
    say: Callable[[Tensor, Tensor | float, slice], Tensor],
    read: Callable[[Tensor], Tensor],
    images: Tensor,
    z: Tensor,
    tolerance: float,
) -> Regression:
    """Images [N,3,S,S] with standardised h [N,D] -> (6) of the guesses of one denoiser; N at least 10.

    `say(x_t, timestep, rows)` is its output for those of the images; `read` says standardised h of guesses; `tolerance`
    is τ². The noise is always the same.
    """
    x, stream = space.encode(images), torch.Generator().manual_seed(0)
    steps = range(process.steps)
    logsnr = torch.stack([logsnr_of(*process.levels(t)) for t in steps])

    def guess(level: float) -> Tensor:
        timestep = steps[int((logsnr - level).abs().argmin())]
        a, s = (part.to(x) for part in process.levels(timestep))
        noisy = add_noise(x, torch.randn(x.shape, generator=stream).to(x), a, s)
        parts = []
        for first in range(0, len(x), BATCH):
            rows = slice(first, first + BATCH)
            out = say(noisy[rows], timestep, rows)[:, : space.channels]
            parts.append(space.decode(to_x0(process.kind, out, noisy[rows], a, s)))
        return torch.cat(parts)

    def read_all(guesses: Tensor) -> Tensor:
        return torch.cat([read(few) for few in guesses.split(BATCH)])

    return fit_regression(guess, read_all, z, tolerance)


def fit_regression(
    guess: Callable[[float], Tensor], read: Callable[[Tensor], Tensor], z: Tensor, tolerance: float
) -> Regression:
    """Standardised h of images of the prior [N,D] -> (6); N at least 10.

    `guess(λ)` is what the prior makes of the same images with noise of that level, [N,3,S,S] in [-1,1]; `read` says
    standardised h [N,D] of images; `tolerance` is τ², how much h varies where the image is known: Σ is larger by it.
    """
    directions = directions_of(*z.shape)
    basis = torch.linalg.svd(z - z.mean(0), full_matrices=False).Vh[:directions].T.contiguous()
    found = [_regressed(_features(read(at) @ basis, at), z @ basis, tolerance) for at in map(guess, LEVELS)]
    c, weight, covariance = (torch.stack(pieces).to(z) for pieces in zip(*found, strict=True))
    return Regression(basis, c, weight, covariance)


def _regressed(features: Tensor, z: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """φ [N,F], z [N,K] -> c, B, Σ."""
    x, y = features.double().cpu().numpy(), z.double().cpu().numpy()
    chosen = RidgeCV(PENALTIES).fit(x, y)  # leaves one out
    left = y - cross_val_predict(Ridge(chosen.alpha_), x, y, cv=min(FOLDS, len(x))).reshape(y.shape)
    covariance = torch.from_numpy(ledoit_wolf(left, assume_centered=True)[0]) + tolerance * torch.eye(y.shape[1])
    weight = torch.from_numpy(np.atleast_2d(chosen.coef_).T.copy())
    return torch.from_numpy(np.atleast_1d(chosen.intercept_)), weight, covariance


def _features(z: Tensor, images: Tensor) -> Tensor:
    """φ [B,F]."""
    return torch.cat([z, GAIN * F.adaptive_avg_pool2d(images, min(SIDE, images.shape[-1])).flatten(1)], 1)


def directions_of(n: int, dim: int) -> int:
    """K: how many directions of h [n,dim] are predicted."""
    return min(DIRECTIONS, dim, (n - 1) // 2)


def features_of(directions: int, image_size: int) -> int:
    """F: how many numbers φ has."""
    return directions + 3 * min(SIDE, image_size) ** 2


def logsnr_of(a: Tensor, s: Tensor) -> Tensor:
    """λ = ln(a² / s²), within ±40 where one of them is 0."""
    return 2 * (a.clamp(min=2e-9).log() - s.clamp(min=2e-9).log())
