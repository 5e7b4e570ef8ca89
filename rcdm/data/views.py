"""Views: crops, flips, colour jitter, greyscale, blur and solarising on whole batches, parameters drawn per image.

Everything is plain tensor code on the device of the images; with the same parameters each image comes out as
torchvision would make it (tests), without its antialiasing where views are smaller than their crops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rcdm.data.colour import hsv_to_rgb, luma, rgb_to_hsv
from rcdm.data.view_strengths import ViewStrengths


def random_view(
    images: Tensor, strengths: ViewStrengths, generator: torch.Generator | None = None, size: int | None = None
) -> Tensor:
    """One random view of each image: [B,3,H,W] in [-1,1] -> the same shape and range (Chen et al. 2020, app. A).

    With `size` the views are [B,3,size,size], of the same crops.
    """
    views = _crop_and_flip(images, strengths, generator, (size, size) if size else images.shape[2:])
    if strengths.jitter == strengths.hue == strengths.grey == strengths.blur == strengths.solarize == 0:
        return views
    rgb = (views.clamp(-1, 1) + 1) / 2
    if strengths.jitter > 0 or strengths.hue > 0:
        rgb = torch.where(_chance(rgb, 0.8, generator), _jitter(rgb, strengths, generator), rgb)
    if strengths.grey > 0:
        rgb = torch.where(_chance(rgb, strengths.grey, generator), luma(rgb).expand_as(rgb), rgb)
    if strengths.blur > 0:
        rgb = torch.where(_chance(rgb, 0.5, generator), _blur(rgb, strengths, generator), rgb)
    if strengths.solarize > 0:
        rgb = torch.where(_chance(rgb, strengths.solarize, generator), torch.where(rgb >= 0.5, 1 - rgb, rgb), rgb)
    return rgb * 2 - 1


def _uniform(like: Tensor, low: float, high: float, generator: torch.Generator | None) -> Tensor:
    """[B,1,1,1], one number per image of the batch, drawn where the generator lies."""
    where = like.device if generator is None else generator.device
    return torch.empty(len(like), 1, 1, 1, device=where).uniform_(low, high, generator=generator).to(like.device)


def _chance(like: Tensor, probability: float, generator: torch.Generator | None) -> Tensor:
    return _uniform(like, 0, 1, generator) < probability


def _crop_and_flip(
    images: Tensor, strengths: ViewStrengths, generator: torch.Generator | None, size: Sequence[int]
) -> Tensor:
    """A crop of random area and aspect ratio (3/4 … 4/3), mirrored or not, resampled to `size`, (height, width)."""
    if strengths.crop == 0 and strengths.flip == 0 and size == images.shape[2:]:
        return images
    mirror = 1 - 2 * _chance(images, strengths.flip, generator).flatten().float()
    width = height = torch.ones_like(mirror)
    if strengths.crop > 0:
        side = _uniform(images, 1 - strengths.crop, 1, generator).flatten().sqrt()  # areas are even, as in the paper
        ratio = _uniform(images, -0.1438, 0.1438, generator).flatten().exp()  # sqrt(4/3) = exp(0.1438)
        width, height = (side * ratio).clamp(max=1), (side / ratio).clamp(max=1)
    x = (1 - width) * _uniform(images, -1, 1, generator).flatten()
    y = (1 - height) * _uniform(images, -1, 1, generator).flatten()
    zero = torch.zeros_like(x)
    # [B,2,3]: where each pixel of the view is taken from, in coordinates from -1 to 1
    matrix = torch.stack([width * mirror, zero, x, zero, height, y], 1).view(-1, 2, 3)
    where = F.affine_grid(matrix, [*images.shape[:2], *size], align_corners=False)
    where = torch.stack(
        [_within(where[..., 0], x, width, images.shape[3]), _within(where[..., 1], y, height, images.shape[2])], 3
    )
    return F.grid_sample(images, where, mode="bilinear", padding_mode="border", align_corners=False)


def _within(where: Tensor, centre: Tensor, extent: Tensor, pixels: int) -> Tensor:
    """Coordinates [B,H,W] held between the outermost pixel centres of each crop: what lies beyond is not seen."""
    reach = (extent - 1 / pixels).clamp(min=0)
    return where.clamp(min=(centre - reach)[:, None, None], max=(centre + reach)[:, None, None])


def _jitter(rgb: Tensor, strengths: ViewStrengths, generator: torch.Generator | None) -> Tensor:
    """Brightness, contrast, saturation, hue, in this order; [B,3,H,W] in [0,1] -> the same."""
    low, high = 1 - strengths.jitter, 1 + strengths.jitter
    rgb = (rgb * _uniform(rgb, low, high, generator)).clamp(0, 1)
    mean = luma(rgb).mean((2, 3), keepdim=True)
    rgb = (mean + (rgb - mean) * _uniform(rgb, low, high, generator)).clamp(0, 1)
    grey = luma(rgb)
    rgb = (grey + (rgb - grey) * _uniform(rgb, low, high, generator)).clamp(0, 1)
    if strengths.hue == 0:
        return rgb
    hue, saturation, value = rgb_to_hsv(rgb).split(1, dim=1)
    shift = _uniform(rgb, -strengths.hue, strengths.hue, generator)
    return hsv_to_rgb(torch.cat([hue + shift, saturation, value], 1))


def _blur(rgb: Tensor, strengths: ViewStrengths, generator: torch.Generator | None) -> Tensor:
    """A Gaussian of 0.1 … `strengths.blur` pixels; one shifted copy per tap, because each image has its own kernel."""
    deviation = _uniform(rgb, min(0.1, strengths.blur), strengths.blur, generator)
    radius = min(math.ceil(3 * strengths.blur), min(rgb.shape[2:]) - 1)
    taps = torch.arange(-radius, radius + 1, device=rgb.device).view(-1, 1, 1, 1, 1)
    weights = torch.exp(-taps.square() / (2 * deviation.square()))
    weights = weights / weights.sum(0)
    for dim in (2, 3):
        length = rgb.shape[dim]
        padded = F.pad(rgb, (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0), mode="reflect")
        blurred = torch.zeros_like(rgb)
        for k, weight in enumerate(weights):
            blurred = torch.addcmul(blurred, weight, padded.narrow(dim, k, length))
        rgb = blurred
    return rgb
