"""What a network expects of an image: its size and its normalisation. Nothing heavy is imported before it is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """Images in [-1,1] -> what a network expects: its own size, then (pixel in [0,1] - mean) / std per channel."""

    size: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def to_tensor(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """PIL at full resolution -> [B,3,size,size] in [-1,1], centre square."""
        from rcdm.data import images as im

        return im.to_tensor(images, self.size)

    def __call__(self, images: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] -> [B,3,size,size], normalised; differentiable."""
        from rcdm.data import images as im

        images = im.resize(images, self.size)
        mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return ((images + 1) / 2 - mean) / std
