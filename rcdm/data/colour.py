"""RGB to HSV and back, for batches: every channel in [0,1], hue in turns."""

import torch
from torch import Tensor


def rgb_to_hsv(rgb: Tensor) -> Tensor:
    """[B,3,H,W] in [0,1] -> [B,3,H,W]: hue in turns [0,1), saturation, value. Grey has hue 0."""
    value, top = rgb.max(1)
    chroma = value - rgb.min(1).values
    r, g, b = rgb.unbind(1)
    safe = chroma.clamp(min=1e-8)
    sextant = torch.stack([(g - b) / safe, (b - r) / safe + 2, (r - g) / safe + 4], 1)
    hue = sextant.gather(1, top[:, None])[:, 0] / 6 % 1
    saturation = chroma / value.clamp(min=1e-8)
    return torch.stack([torch.where(chroma > 0, hue, 0.0), saturation, value], 1)


def hsv_to_rgb(hsv: Tensor) -> Tensor:
    """[B,3,H,W]: hue in turns (any real number), saturation and value in [0,1] -> [B,3,H,W] in [0,1]."""
    h, s, v = (c[:, None] for c in hsv.unbind(1))
    k = (torch.tensor([5.0, 3.0, 1.0], device=hsv.device, dtype=hsv.dtype).view(1, 3, 1, 1) + 6 * h) % 6
    return v * (1 - s * torch.minimum(k, 4 - k).clamp(0, 1))


def luma(rgb: Tensor) -> Tensor:
    """[B,3,H,W] -> [B,1,H,W]: ITU-R BT.601, in the range of the input."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=rgb.device, dtype=rgb.dtype)
    return (rgb * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
