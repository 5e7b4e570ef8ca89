"""How much an evaluation draws, with help texts: options of the command line are made from them. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _size(default: int, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class EvaluationSize:
    """How much is drawn; the defaults are what the published tables use."""

    gallery: int = _size(1000, "held-out images: each is drawn once, and its draw has to find it among all of them")
    retention_images: int = _size(128, "of these, images for retention and calibration")
    retention_draws: int = _size(16, "draws of each of these, per source")
    realism_draws: int = _size(
        0,
        "draws per source for FID and KID against as many training images, with --evaluator; 0: KID of the gallery",
    )
    probe_images: int = _size(4096, "training images that the probes learn from")
    guidance_images: int = _size(
        64, "further held-out images, on which guidance is chosen; 0: the checkpoint's own stays"
    )
    guidance_draws: int = _size(8, "draws of each of these, per source and guidance")
