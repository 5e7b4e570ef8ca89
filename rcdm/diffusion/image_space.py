"""Where noise is added, and what the U-Net sees of it: how many channels an image has there, and the way in and back.

A checkpoint names its space in `unet/config.json`: `{"kind": "pixels", "channels": 3, "patch": 2}`. A new one
(a latent) is a class with these methods and a line in SPACES.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor


class ImageSpace(Protocol):
    """Images [B,3,S,S] in [-1,1] <-> x, which noise is added to <-> what the U-Net takes and gives."""

    @property
    def channels(self) -> int:
        """Channels of x; the first so many that come out of the network are its prediction."""

    def shape(self, image_size: int) -> tuple[int, int, int]:
        """Of x without the batch, for images of so many pixels."""

    def network_shape(self, image_size: int) -> tuple[int, int]:
        """Channels and side of what the U-Net takes."""

    def image_size(self, side: int) -> int:
        """Pixels of the images, from the side of what the U-Net takes."""

    def encode(self, images: Tensor) -> Tensor:
        """Images [B,3,S,S] in [-1,1] -> x."""

    def decode(self, x: Tensor) -> Tensor:
        """x -> images [B,3,S,S] in [-1,1]."""

    def to_network(self, x: Tensor) -> Tensor:
        """x, noisy or not -> what the U-Net takes."""

    def from_network(self, out: Tensor) -> Tensor:
        """What the U-Net gives -> in the layout of x; a learned variance is behind the prediction."""


@dataclass(frozen=True)
class PixelSpace:
    """x is the image itself; the U-Net sees blocks of `patch` x `patch` pixels as one position."""

    channels: int = 3
    patch: int = 1

    def __post_init__(self) -> None:
        if not all(type(number) is int and number >= 1 for number in (self.channels, self.patch)):
            raise ValueError(
                f"channels and patch must be whole numbers, at least 1, and are {self.channels} and {self.patch}."
            )

    def shape(self, image_size: int) -> tuple[int, int, int]:
        return self.channels, image_size, image_size

    def network_shape(self, image_size: int) -> tuple[int, int]:
        return self.channels * self.patch**2, image_size // self.patch

    def image_size(self, side: int) -> int:
        return side * self.patch

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)

    def to_network(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, self.patch)  # [B,C,S,S] -> [B, C p², S/p, S/p]

    def from_network(self, out: Tensor) -> Tensor:
        return F.pixel_shuffle(out, self.patch)  # [B, C p², S/p, S/p] -> [B,C,S,S]


PIXELS = PixelSpace()

SPACES: dict[str, type[ImageSpace]] = {"pixels": PixelSpace}
"""`kind` in a config -> class; the other entries of the config are its arguments."""


def space_of(config: Mapping[str, Any]) -> ImageSpace:
    """What a checkpoint names -> the space. Raises ValueError for a kind or an argument that does not exist."""
    arguments = {name: value for name, value in config.items() if name != "kind"}
    if config.get("kind") not in SPACES:
        raise ValueError(f"There is no image space {config.get('kind')!r}; choose one of {', '.join(SPACES)}.")
    try:
        return SPACES[config["kind"]](**arguments)
    except TypeError as error:
        raise ValueError(f"The image space {config['kind']} does not take {', '.join(arguments)}: {error}") from error
