"""Transformations of images whose trace is looked for in a representation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rcdm.colour import hsv_to_rgb, luma, rgb_to_hsv


def rotate_quarters(images: Tensor, quarters: int) -> Tensor:
    """[B,C,H,H] turned by quarters of a turn."""
    return torch.rot90(images, quarters, (2, 3))


def flip(images: Tensor, times: int = 1) -> Tensor:
    """[B,C,H,W] mirrored left to right, or left alone where `times` is even."""
    return images.flip(3) if times % 2 else images


def shift_hue(images: Tensor, turns: float) -> Tensor:
    """[B,3,H,W] in [-1,1] with every hue moved round the circle by `turns`."""
    hue, saturation, value = rgb_to_hsv((images.clamp(-1, 1) + 1) / 2).split(1, dim=1)
    return hsv_to_rgb(torch.cat([hue + turns, saturation, value], 1)) * 2 - 1


def greyscale(images: Tensor, strength: float = 1.0) -> Tensor:
    """[B,3,H,W] in [-1,1] moved towards its luma; 1 is grey."""
    return torch.lerp(images, luma(images).expand_as(images), strength)


TELLING: dict[str, tuple[Callable[[Tensor, int], Tensor], int]] = {
    "rotation": (rotate_quarters, 4),
    "flip": (flip, 2),
    "hue": (lambda images, k: shift_hue(images, k / 4), 4),
    "grey": (lambda images, k: greyscale(images, float(k)), 2),
}
"""Name -> (what is done to images in case k, number of cases): a probe is asked which k was applied."""
