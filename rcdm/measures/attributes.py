"""What can be read off any image, as φ: a number [N,1], an angle as (cos, sin) [N,2], a class one-hot [N,C]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rcdm.data.colour import luma, rgb_to_hsv
from rcdm.measures.metrics import variance


@dataclass(frozen=True)
class Attributes:
    """`read(images [N,3,H,W])` -> name -> φ [N,P] on the CPU; `spread`: name -> Var φ over data images."""

    read: Callable[[Tensor], dict[str, Tensor]]
    spread: Mapping[str, float]


CONSTANT = 1e-12
"""A variance of φ up to here is none: no share of it can be kept."""


def varying_in(attributes: Attributes, images: Tensor) -> tuple[Attributes, list[str]]:
    """Attributes without those that are the same in all of the images [N,3,H,W], and the names of these.

    Raises ValueError where none is left.
    """
    given = attributes.read(images)
    constant = [name for name, phi in given.items() if not float(variance(phi)) > CONSTANT]
    if not constant:
        return attributes, []

    def read(pictures: Tensor) -> dict[str, Tensor]:
        return {name: phi for name, phi in attributes.read(pictures).items() if name not in constant}

    if len(constant) == len(given):
        raise ValueError("These images are alike in everything that is read off them: give different ones.")
    return Attributes(read, attributes.spread), constant


def constant_in_words(result: Mapping[str, Any]) -> list[str]:
    """A sentence about the attributes that a study left out as `constant`; none where it left out none."""
    if not (names := result.get("constant")):
        return []
    return [f"Left out, as the same in all images, so that nothing of them can be kept: {', '.join(names)}."]


@torch.no_grad()
def photo_attributes(images: Tensor) -> dict[str, Tensor]:
    """What can be measured on any image [N,3,H,W] in [-1,1], from RGB and HSV in [0,1].

    hue: circular mean, weighted by saturation x value; saturation, brightness, contrast (deviation of luma), sharpness
    (log variance of the Laplacian of luma), warmth (mean of R − B); edges: circular mean of the doubled angle of the
    gradient, weighted by its magnitude; place: centre of mass of the saturation, x and y in [-1,1]. φ lies on the CPU.
    """
    rgb = (images.float().clamp(-1, 1) + 1) / 2
    hue, saturation, value = rgb_to_hsv(rgb).unbind(1)
    grey = luma(rgb)
    turn = 2 * torch.pi * hue
    weight = saturation * value
    dx = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2])[:, 0]
    dy = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1])[:, 0]
    magnitude, angle = (dx.square() + dy.square()).sqrt(), 2 * torch.atan2(dy, dx)
    laplacian = F.conv2d(grey, grey.new_tensor([[[[0, 1, 0], [1, -4, 1], [0, 1, 0]]]]))
    axis_y, axis_x = (torch.linspace(-1, 1, side, device=images.device) for side in images.shape[2:])
    mass = saturation.sum((1, 2)).clamp(min=1e-6)
    read = {
        "hue": _direction(weight, turn),
        "saturation": saturation.mean((1, 2))[:, None],
        "brightness": value.mean((1, 2))[:, None],
        "contrast": grey.std((1, 2, 3))[:, None],
        "sharpness": (laplacian.var((1, 2, 3)) + 1e-6).log()[:, None],
        "warmth": (rgb[:, 0] - rgb[:, 2]).mean((1, 2))[:, None],
        "edges": _direction(magnitude, angle),
        "place": torch.stack(
            [(saturation * axis_x).sum((1, 2)) / mass, (saturation * axis_y[:, None]).sum((1, 2)) / mass], 1
        ),
    }
    return {name: phi.cpu() for name, phi in read.items()}


def _direction(weight: Tensor, angle: Tensor) -> Tensor:
    """Weighted circular mean of angles [N,H,W] as (cos, sin) [N,2]."""
    mean = torch.stack([(weight * angle.cos()).sum((1, 2)), (weight * angle.sin()).sum((1, 2))], 1)
    return F.normalize(mean, dim=1)


def is_angle(name: str, phi: Tensor) -> bool:
    """Whether φ [..., P] of an attribute is an angle as (cos, sin)."""
    return phi.shape[-1] == 2 and name != "place"


def turned_back(phi: Tensor, start: Tensor) -> Tensor:
    """Angles φ [..., 2] as seen from where they began, [..., 2]: φ itself where that is at 0."""
    (c, s), (c0, s0) = phi.unbind(-1), start.unbind(-1)
    return torch.stack([c * c0 + s * s0, s * c0 - c * s0], -1)


MEANINGS = {
    "hue": "which colour, on the circle of colours: the mean over pixels, vivid and bright ones first",
    "saturation": "how vivid the colours are: mean saturation",
    "brightness": "mean value of the pixels",
    "contrast": "deviation of the grey levels",
    "sharpness": "how much fine detail there is: log variance of the Laplacian",
    "warmth": "red minus blue, on average",
    "edges": "the direction in which most edges run",
    "place": "where the vivid part of the image lies, left to right and top to bottom",
}
"""The attributes of photographs, in words."""


@dataclass(frozen=True)
class Kept:
    """Share of an attribute's variance that `n` draws of one image hold fixed: 1 all, 0 none, below 0 they vary more
    than images do. A 95 % interval from 3 draws on; `null`: that of as many unconditional draws, where it is known.
    """

    value: float
    n: int
    low: float | None = None
    high: float | None = None
    null: float | None = None

    @property
    def told(self) -> bool:
        """Whether it is above its null, as far down as its interval goes; True where no null is known."""
        return self.null is None or (self.value if self.low is None else self.low) > self.null

    def to_json(self) -> dict[str, float]:
        """A dict without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def kept_by_draws(
    attributes: Attributes, phi: Mapping[str, Tensor], free: Mapping[str, Tensor] | None = None
) -> dict[str, Kept]:
    """1 − Var_k φ / Var φ(data) over the draws of one image, attribute -> φ [K,P], with a jackknife interval.

    `free`: φ of K unconditional draws, for the null. Attributes whose spread over data images is not known, or is
    none, are left out. The interval leaves out one draw at a time (Efron & Stein 1981) and says how far the value
    depends on which draws were made. Raises ValueError for fewer than 2 draws.
    """
    kept = {}
    for name, values in phi.items():
        k = len(values)
        if k < 2:
            raise ValueError("At least two draws are needed to see what varies.")
        if not (spread := attributes.spread.get(name, 0.0)) > CONSTANT:
            continue
        number = Kept(1 - float(variance(values)) / spread, k)
        if free is not None:
            number = replace(number, null=1 - float(variance(free[name])) / spread)
        if k > 2:
            without = torch.stack([variance(values[torch.arange(k) != i]) for i in range(k)])
            error = float(((k - 1) / k * (without - without.mean()).square().sum()).sqrt()) / spread
            number = replace(number, low=number.value - 1.96 * error, high=number.value + 1.96 * error)
        kept[name] = number
    return kept
