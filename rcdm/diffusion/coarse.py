"""The coarse image of a representation: what a linear map alone reads from it of where is which colour.

Where much noise is left the denoiser has to know from h how an image is laid out, and learns it slowly: an embedding
reaches every position alike. So the regression is done beforehand, and its image, enlarged, is given to the network as
three more channels. Zero is the mean image, and stands for no representation too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GAIN = 4.0
"""The network is given the coarse image times this: then its numbers are about as large as those of x_t. Times 1, its
way in was still too weak after 542 steps: made 4 times as strong, the same weights explained more (the backbone of a
supervised network on CIFAR-10, at pure noise: 0.477 of the pixels' variance in place of 0.459)."""

PENALTIES = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0)
LEFT_OUT = 8


def coarse_map(standardised: Tensor, images: Tensor, side: int) -> Tensor:
    """Standardised h [N,D] of images [N,3,S,S] in [-1,1] -> weight [3 x side x side, D] of their ridge regression.

    The penalty, per image, is the one of PENALTIES with the smallest error on an eighth of the images, left out.
    """
    h, pixels = standardised.float().cpu(), F.adaptive_avg_pool2d(images.float(), side).flatten(1).cpu()
    out = torch.arange(len(h)) % LEFT_OUT == 0
    kept, moment = _moments(h[~out], pixels[~out])
    h_out, pixels_out = h[out] - h[~out].mean(0), pixels[out] - pixels[~out].mean(0)

    def error(penalty: float) -> float:
        return float((h_out @ _solved(kept, moment, penalty) - pixels_out).square().mean())

    return _solved(*_moments(h, pixels), min(PENALTIES, key=error)).T.contiguous()


def _moments(h: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Covariance of h [D,D] and of h with the pixels [D,P], in double."""
    h, pixels = h - h.mean(0), pixels - pixels.mean(0)
    return (h.T @ h).double() / len(h), (h.T @ pixels).double() / len(h)


def _solved(covariance: Tensor, moment: Tensor, penalty: float) -> Tensor:
    return torch.linalg.solve(covariance + penalty * torch.eye(len(covariance)), moment, left=True).float()
