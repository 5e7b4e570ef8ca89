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

LEVELS = (-4.0, -2.5, -1.0, 0.5, 2.0, 4.0)
"""λ = ln(a² / s²) of the images it is fitted on; between two, c, B and Σ are interpolated."""

DIRECTIONS = 64
"""Main directions of h at most; fewer than half of the images."""

SIDE, GAIN = 8, 3.0
"""Pixels of x̂ along a side, and what they are multiplied by: about as wide as a standardised number then."""

PENALTIES = np.logspace(-1, 5, 13)
FOLDS = 20


class Regression(nn.Module):
    """(6) at L levels of noise, for z in K directions and φ of F numbers.

    Args:
        basis: directions of standardised h [D,K]. intercept: c [L,K]. weight: B [L,F,K]. covariance: Σ [L,K,K].
    """

    basis: Tensor
    intercept: Tensor
    weight: Tensor
    covariance: Tensor

    def __init__(self, basis: Tensor, intercept: Tensor, weight: Tensor, covariance: Tensor) -> None:
        super().__init__()
        for name, value in (
            ("basis", basis), ("intercept", intercept), ("weight", weight), ("covariance", covariance)
        ):  # fmt: skip
            self.register_buffer(name, value)

    def forward(self, wanted: Tensor, guessed: Tensor, images: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        """How far h is from what is predicted, r [B,K], and Σ⁻¹ r [B,K].

        Standardised h [B,D], that of the guess [B,D], the guess itself [B,3,S,S], λ of each image or of all [B or 1].
        Gradients flow through r alone.
        """
        low, share = _between(logsnr)
        c, weight, covariance = (
            torch.lerp(of[low], of[low + 1], share.view(-1, *[1] * (of.dim() - 1)))
            for of in (self.intercept, self.weight, self.covariance)
        )
        r = wanted @ self.basis - c - (_features(guessed @ self.basis, images)[:, None] @ weight)[:, 0]
        solved = torch.cholesky_solve(r.detach()[..., None], torch.linalg.cholesky(covariance))
        return r, solved[..., 0]


def fit_regression(
    guess: Callable[[float], Tensor], read: Callable[[Tensor], Tensor], z: Tensor, tolerance: float
) -> Regression:
    """Standardised h of images of the prior [N,D] -> (6); N at least 10.

    `guess(λ)` is what the prior makes of the same images with noise of that level, [N,3,S,S] in [-1,1]; `read` says
    standardised h [N,D] of images; `tolerance` is τ², how much h varies where the image is known: Σ is larger by it.
    """
    directions = min(DIRECTIONS, z.shape[1], (len(z) - 1) // 2)
    basis = torch.linalg.svd(z - z.mean(0), full_matrices=False).Vh[:directions].T.contiguous()
    found = [_regressed(_features(read(at) @ basis, at), z @ basis, tolerance) for at in map(guess, LEVELS)]
    return Regression(basis, *(torch.stack(pieces).to(z) for pieces in zip(*found, strict=True)))


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


def _between(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """λ [B] -> the level below each, and how far it is to the next, 0 to 1."""
    levels = torch.tensor(LEVELS, device=logsnr.device, dtype=logsnr.dtype)
    low = (torch.searchsorted(levels, logsnr.contiguous(), right=True) - 1).clamp(0, len(LEVELS) - 2)
    share = (logsnr - levels[low]) / (levels[low + 1] - levels[low])
    return low, share.clamp(0, 1)
