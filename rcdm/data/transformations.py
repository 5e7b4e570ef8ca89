"""Transformations of images, each with a ladder of strengths: what a representation ought to notice, or to ignore."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms.v2.functional import gaussian_blur

from rcdm.data.colour import hsv_to_rgb, luma, rgb_to_hsv

Apply = Callable[[Tensor, float], Tensor]
"""Images [B,3,H,W] in [-1,1] and a strength -> the same kind of images."""


@dataclass(frozen=True)
class Transformation:
    """What is done, at which strengths, and what of the image it moves.

    Args:
        apply: the transformation.
        strengths: from weak to strong.
        unit: what the strength counts.
        in_views: whether SSL views usually contain it.
        moves: attributes that follow it, the first that a checkpoint can read is looked at.
    """

    apply: Apply
    strengths: tuple[float, ...]
    unit: str
    in_views: bool
    moves: tuple[str, ...] = ()


def rotate_quarters(images: Tensor, quarters: float) -> Tensor:
    """[B,C,H,H] turned by quarters of a turn."""
    return torch.rot90(images, int(quarters), (2, 3))


def flip(images: Tensor, times: float = 1) -> Tensor:
    """[B,C,H,W] mirrored left to right, or left alone where `times` is even."""
    return images.flip(3) if int(times) % 2 else images


def flip_vertically(images: Tensor, times: float = 1) -> Tensor:
    """[B,C,H,W] mirrored top to bottom, or left alone where `times` is even."""
    return images.flip(2) if int(times) % 2 else images


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Turned clockwise about the centre; what comes in from outside is a mirror image."""
    angle = math.radians(degrees)
    return _affine(images, [[math.cos(angle), math.sin(angle), 0.0], [-math.sin(angle), math.cos(angle), 0.0]])


def shift(images: Tensor, share: float) -> Tensor:
    """Moved to the right by a share of the width; what comes in is a mirror image."""
    return _affine(images, [[1.0, 0.0, -2 * share], [0.0, 1.0, 0.0]])


def zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarged about the centre."""
    return _affine(images, [[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]])


def _affine(images: Tensor, matrix: list[list[float]]) -> Tensor:
    """Where each output pixel is taken from, in coordinates from -1 to 1."""
    theta = images.new_tensor(matrix).expand(len(images), 2, 3)
    where = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, where, mode="bilinear", padding_mode="reflection", align_corners=False)


def shift_hue(images: Tensor, turns: float) -> Tensor:
    """Every hue moved round the circle by `turns`."""
    hue, saturation, value = _hsv(images)
    return hsv_to_rgb(torch.cat([hue + turns, saturation, value], 1)) * 2 - 1


def scale_saturation(images: Tensor, factor: float) -> Tensor:
    """Saturation times a factor."""
    hue, saturation, value = _hsv(images)
    return hsv_to_rgb(torch.cat([hue, (saturation * factor).clamp(0, 1), value], 1)) * 2 - 1


def scale_brightness(images: Tensor, factor: float) -> Tensor:
    """Light times a factor, black staying black."""
    return ((images + 1) * factor - 1).clamp(-1, 1)


def _hsv(images: Tensor) -> tuple[Tensor, ...]:
    return rgb_to_hsv((images.clamp(-1, 1) + 1) / 2).split(1, dim=1)


def greyscale(images: Tensor, strength: float = 1.0) -> Tensor:
    """Moved towards the luma; 1 is grey."""
    return torch.lerp(images, luma(images).expand_as(images), strength)


def blur(images: Tensor, share: float) -> Tensor:
    """A Gaussian whose deviation is a share of the width."""
    deviation = share * images.shape[3]
    if deviation == 0:
        return images
    size = 2 * min(math.ceil(3 * deviation), (images.shape[3] - 1) // 2) + 1
    return gaussian_blur(images, [size, size], [deviation, deviation])


def add_noise(images: Tensor, deviation: float) -> Tensor:
    """White noise, the same for every call, clipped to the range."""
    stream = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=stream).to(images)
    return (images + 2 * deviation * noise).clamp(-1, 1)


def jpeg(images: Tensor, quality: float) -> Tensor:
    """Stored as JPEG and read again; 0 … 100, lower is worse."""
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    again = torch.stack([decode_jpeg(encode_jpeg(image, quality=int(quality))) for image in pixels])
    return again.to(images) / 127.5 - 1


def invert(images: Tensor) -> Tensor:
    """Every value mirrored about grey: [B,C,H,W] in [-1,1] -> the same, its colours inverted."""
    return -images


def sketch(images: Tensor) -> Tensor:
    """Edges as dark lines on white: the squared gradient of the luma (Sobel), the largest of each image black."""
    slope = images.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    grey = F.pad(luma(images), (1, 1, 1, 1), mode="replicate")
    strength = F.conv2d(grey, torch.stack([slope, slope.T])[:, None]).square().sum(1, keepdim=True)
    lines = strength / strength.amax((2, 3), keepdim=True).clamp(min=1e-6)
    return (1 - 2 * lines).expand_as(images).contiguous()


def mask(images: Tensor, share: float) -> Tensor:
    """A share of an 8 x 8 grid of patches covered with grey, the same patches for every call."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    covered = torch.zeros(64)
    covered[order[: round(64 * share)]] = 1
    pattern = F.interpolate(covered.view(1, 1, 8, 8), size=images.shape[2:], mode="nearest").to(images)
    return images * (1 - pattern)


TRANSFORMATIONS: dict[str, Transformation] = {
    "flip": Transformation(flip, (1,), "times", True),
    "vertical flip": Transformation(flip_vertically, (1,), "times", False),
    "shift": Transformation(shift, (0.03, 0.06, 0.12, 0.2), "of the width", True, ("x", "place")),
    "zoom": Transformation(zoom, (1.1, 1.25, 1.5, 2.0), "times", True, ("size",)),
    "rotation": Transformation(rotate, (10, 30, 60, 90, 180), "degrees", False, ("rotation", "edges")),
    "hue": Transformation(shift_hue, (0.05, 0.1, 0.2, 0.35, 0.5), "turns", True, ("hue",)),
    "saturation": Transformation(scale_saturation, (0.8, 0.6, 0.3), "times", True, ("saturation",)),
    "brightness": Transformation(
        scale_brightness, (0.9, 0.75, 0.5), "times", True, ("ground_brightness", "brightness")
    ),
    "greyscale": Transformation(greyscale, (0.5, 1.0), "share", True, ("saturation",)),
    "blur": Transformation(blur, (0.02, 0.04, 0.08), "of the width", False, ("sharpness",)),
    "noise": Transformation(add_noise, (0.03, 0.08, 0.2), "of the range", False, ("sharpness",)),
    "jpeg": Transformation(jpeg, (60, 30, 10), "quality", False),
    "mask": Transformation(mask, (0.15, 0.3, 0.6, 0.9), "share", False),
}
"""Name -> transformation."""

TELLING: dict[str, tuple[Callable[[Tensor, int], Tensor], int]] = {
    "rotation": (rotate_quarters, 4),
    "flip": (flip, 2),
    "hue": (lambda images, k: shift_hue(images, k / 4), 4),
    "grey": (lambda images, k: greyscale(images, float(k)), 2),
}
"""Name -> (what is done to images in case k, number of cases): a probe is asked which k was applied."""

_VIEW_STRENGTHS = {
    "flip": ("flip",), "shift": ("crop",), "zoom": ("crop",), "hue": ("hue",), "saturation": ("jitter", "grey"),
    "brightness": ("jitter",), "greyscale": ("grey",), "blur": ("blur",),
}  # fmt: skip
"""Transformation -> the strengths of a network's views, any of which contains it; no view contains the others."""


def in_views_of(views: Mapping[str, float] | None, name: str) -> bool | None:
    """Whether views with these strengths (name -> strength, 0 is off) contain a transformation; None: not known."""
    if views is None:
        return None
    return any(views.get(strength, 0) > 0 for strength in _VIEW_STRENGTHS.get(name, ()))
