"""How strong each view operation is, with help texts: options of a command line are made from them. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _strength(default: float, top: float, text: str) -> Any:
    return field(default=default, metadata={"help": f"view strength, 0 is off: {text}", "top": top})


@dataclass(frozen=True)
class ViewStrengths:
    """How strong each view operation is; 0 switches it off. The defaults suit small photographs.

    Jitter and hue are applied together, to 80 % of the images; SimCLR on ImageNet: crop 0.92, jitter 0.8, hue 0.2.
    """

    crop: float = _strength(
        0.8, 0.99, "largest share of the area that a crop may cut away, besides what its aspect ratio does"
    )
    flip: float = _strength(0.5, 1.0, "probability of a mirror image")
    jitter: float = _strength(0.4, 1.0, "brightness, contrast and saturation are multiplied by 1 ± JITTER")
    hue: float = _strength(0.1, 0.5, "largest shift of the hue in turns")
    grey: float = _strength(0.2, 1.0, "probability of greyscale")
    blur: float = _strength(0.0, 8.0, "largest deviation of a Gaussian in pixels, applied to half of the images")
    solarize: float = _strength(0.0, 1.0, "probability that the brighter half of the range is inverted")

    def __post_init__(self) -> None:
        for option in fields(self):
            if not 0 <= getattr(self, option.name) <= option.metadata["top"]:
                raise ValueError(f"The view strength {option.name} must lie between 0 and {option.metadata['top']:g}.")

    def scaled(self, factor: float) -> ViewStrengths:
        """Every strength times a factor: 0 is no augmentation. Raises ValueError where one grows too large."""
        return ViewStrengths(**{option.name: factor * getattr(self, option.name) for option in fields(self)})
