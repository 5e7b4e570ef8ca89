"""Views: random crops, flips, colour jitter and greyscale on whole batches, parameters drawn per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rcdm.colour import hsv_to_rgb, luma, rgb_to_hsv


@dataclass(frozen=True)
class ViewStrengths:
    """How strong each view operation is; 0 switches it off.

    crop: largest share of the area that may be cut away (SimCLR on ImageNet: 0.92); flip, grey: probabilities;
    jitter: brightness, contrast and saturation are multiplied by 1 ± jitter (SimCLR: 0.8); hue: largest shift in turns
    (SimCLR: 0.2). Jitter and hue together are applied to 80 % of the images.
    """

    crop: float = 0.5
    flip: float = 0.5
    jitter: float = 0.8
    hue: float = 0.5
    grey: float = 0.2

    def __post_init__(self) -> None:
        for name, top in (("crop", 0.99), ("flip", 1.0), ("jitter", 1.0), ("hue", 0.5), ("grey", 1.0)):
            if not 0 <= getattr(self, name) <= top:
                raise ValueError(f"The view strength {name} must lie between 0 and {top}.")


def random_view(images: Tensor, strengths: ViewStrengths, generator: torch.Generator | None = None) -> Tensor:
    """One random view of each image: [B,3,H,W] in [-1,1] -> the same shape and range (Chen et al. 2020, app. A)."""
    views = _crop_and_flip(images, strengths, generator)
    if strengths.jitter == strengths.hue == strengths.grey == 0:
        return views
    rgb = (views.clamp(-1, 1) + 1) / 2
    if strengths.jitter > 0 or strengths.hue > 0:
        rgb = torch.where(_chance(rgb, 0.8, generator), _jitter(rgb, strengths, generator), rgb)
    if strengths.grey > 0:
        rgb = torch.where(_chance(rgb, strengths.grey, generator), luma(rgb).expand_as(rgb), rgb)
    return rgb * 2 - 1


def _uniform(like: Tensor, low: float, high: float, generator: torch.Generator | None) -> Tensor:
    """[B,1,1,1], one number per image of the batch."""
    return torch.empty(len(like), 1, 1, 1, device=like.device).uniform_(low, high, generator=generator)


def _chance(like: Tensor, probability: float, generator: torch.Generator | None) -> Tensor:
    return _uniform(like, 0, 1, generator) < probability


def _crop_and_flip(images: Tensor, strengths: ViewStrengths, generator: torch.Generator | None) -> Tensor:
    """A crop of random area and aspect ratio (3/4 … 4/3), mirrored or not, resampled to the image's size."""
    if strengths.crop == 0 and strengths.flip == 0:
        return images
    mirror = 1 - 2 * _chance(images, strengths.flip, generator).flatten().float()
    width = height = torch.ones_like(mirror)
    if strengths.crop > 0:
        side = _uniform(images, 1 - strengths.crop, 1, generator).flatten().sqrt()
        ratio = _uniform(images, -0.1438, 0.1438, generator).flatten().exp()  # sqrt(4/3) = exp(0.1438)
        width, height = (side * ratio).clamp(max=1), (side / ratio).clamp(max=1)
    x = (1 - width) * _uniform(images, -1, 1, generator).flatten()
    y = (1 - height) * _uniform(images, -1, 1, generator).flatten()
    zero = torch.zeros_like(x)
    matrix = torch.stack([width * mirror, zero, x, zero, height, y], 1).view(-1, 2, 3)
    where = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, where, mode="bilinear", padding_mode="reflection", align_corners=False)


def _jitter(rgb: Tensor, strengths: ViewStrengths, generator: torch.Generator | None) -> Tensor:
    """Brightness, contrast, saturation, hue, in this order; [B,3,H,W] in [0,1] -> the same."""
    low, high = 1 - strengths.jitter, 1 + strengths.jitter
    rgb = (rgb * _uniform(rgb, low, high, generator)).clamp(0, 1)
    mean = luma(rgb).mean((2, 3), keepdim=True)
    rgb = (mean + (rgb - mean) * _uniform(rgb, low, high, generator)).clamp(0, 1)
    grey = luma(rgb)
    rgb = (grey + (rgb - grey) * _uniform(rgb, low, high, generator)).clamp(0, 1)
    hue, saturation, value = rgb_to_hsv(rgb).split(1, dim=1)
    shift = _uniform(rgb, -strengths.hue, strengths.hue, generator)
    return hsv_to_rgb(torch.cat([hue + shift, saturation, value], 1))
