"""The options of a pretraining run, with their help texts: the command line is made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rcdm.data.view_strengths import ViewStrengths
from rcdm.training.config import LEAST, check_counts, check_precision

OBJECTIVE_NAMES = (
    "simclr",
    "simclr-supervised",
    "vicreg",
    "vicreg-identity",
    "spectral",
    "barlow",
    "byol",
    "directpred",
    "isoloss",
    "isoloss-euclidean",
    "supervised",
)
"""The keys of `objectives.OBJECTIVES`, known without lightly."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class PretrainConfig:
    """How a backbone is pretrained; see `DRAWN_WORLD` and `PHOTOGRAPHS` for what suits which data."""

    objective: str
    views: ViewStrengths = field(default_factory=ViewStrengths)
    width: int = _option(40, "channels of the first stage, an eighth of the backbone's")
    blocks: tuple[int, ...] = _option((2, 2, 2, 2), "residual blocks of the four stages; 2 2 2 2 is a ResNet-18")
    stem_stride: int = _option(2, "stride of the first convolution")
    start_from: str | None = _option(
        None, "source folder whose weights the run begins with, backbone and projector; random ones if not given"
    )
    early_size: int | None = _option(
        None, "side in pixels of the views in the first half of the run, which goes faster for it; else the images'"
    )
    projector_dim: int = _option(1024, "width of the projector's output")
    projector_hidden_dim: int | None = _option(1024, "width of the projector's hidden layers; 0: set by the backbone's")
    batch_size: int = _option(512, "images per process and step, and of the loss")
    temperature: float = _option(0.2, "temperature of NT-Xent: simclr and simclr-supervised")
    max_steps: int | None = _option(None, "stop after this many optimiser steps")
    max_minutes: float | None = _option(None, "stop after this many minutes, with a finished schedule")
    optimizer: str = _option("adamw", "adamw, sgd or lars; lars wants a learning rate of 0.3 and more, sgd of 0.03")
    learning_rate: float = _option(
        1e-3, "peak learning rate for 256 images per step of all processes; it grows with them"
    )
    weight_decay: float = _option(1e-4, "weight decay of matrices and kernels")
    warmup_steps: int = _option(200, "steps of linear warm-up; a cosine to zero follows")
    mixed_precision: str = _option("auto", "no, bf16, fp16, or auto: bf16 where the hardware multiplies it, else no")
    compile: bool = _option(False, "compile the network: pays on a GPU, costs minutes on a CPU")
    monitor_minutes: float = _option(2.0, "minutes between looks at kNN and the online linear probe")
    checkpointing_minutes: float = _option(5.0, "minutes between saved states")
    seed: int = _option(0, "fixes images, views and initial weights")

    def __post_init__(self) -> None:
        check_precision(self.mixed_precision)
        if self.optimizer == "lars" and self.weight_decay == 0:
            raise ValueError("lars adapts the rate of matrices that decay alone: give a weight_decay, or take sgd.")
        if self.early_size is not None and self.early_size < 4:
            raise ValueError(f"early_size must be at least 4 pixels, and is {self.early_size}.")
        check_counts(self, {"warmup_steps": 0, "seed": LEAST["seed"]})

    def architecture(self) -> dict[str, Any]:
        """The arguments of `backbones.SmallResNet`."""
        return {"width": self.width, "blocks": list(self.blocks), "stem_stride": self.stem_stride}


HARMLESS = (
    "max_steps", "max_minutes", "checkpointing_minutes", "monitor_minutes", "compile", "learning_rate", "warmup_steps",
)  # fmt: skip
"""Options that may change when a run is continued; the rate, as it may have to fall where a loss was no number."""

PHOTOGRAPHS: dict[str, Any] = {"max_minutes": 30.0}
"""What differs from the defaults of PretrainConfig for photographs at 32 or 64 px."""

DRAWN_WORLD: dict[str, Any] = {
    "views": ViewStrengths(crop=0.5, jitter=0.8, hue=0.5),
    "width": 16,
    "blocks": (1, 1, 1, 1),
    "stem_stride": 1,
    "projector_dim": 64,
    "projector_hidden_dim": None,
    "temperature": 0.5,
    "batch_size": 256,
    "max_steps": 1000,
    "learning_rate": 2e-3,
    "warmup_steps": 50,
}
"""What differs for the drawn world at 32 px."""
