"""What can be read off any image, as φ: a number [N,1], an angle as (cos, sin) [N,2], a class one-hot [N,C]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rcdm import sprites
from rcdm.checkpoints import checkpoint_folder
from rcdm.datasets import HELD_OUT_SEED
from rcdm.metrics import variance
from rcdm.pipeline import RCDMPipeline
from rcdm.readers import load_reader


@dataclass(frozen=True)
class Attributes:
    """`read(images [N,3,H,W])` -> name -> φ [N,P]; `spread`: name -> Var φ over data images."""

    read: Callable[[Tensor], dict[str, Tensor]]
    spread: Mapping[str, float]


def attributes_of(pipe: RCDMPipeline) -> Attributes:
    """The attributes that suit a checkpoint: the factors of the drawn world when it ships a reader.

    Raises ValueError when it has none.
    """
    folder = checkpoint_folder(pipe.config._name_or_path or "") if "_name_or_path" in pipe.config else None
    if folder is None or not (folder / "reader").is_dir():
        raise ValueError("This checkpoint has no reader: its folder holds no `reader/`.")
    return _sprite_attributes(folder / "reader")


def _sprite_attributes(folder: Path) -> Attributes:
    reader = load_reader(folder)
    held_out = sprites.render(sprites.sample_factors(1024, HELD_OUT_SEED), reader.size)
    spread = {name: float(variance(phi)) for name, phi in reader.read(held_out).items()}
    return Attributes(lambda images: reader.read(images.cpu()), spread)


@torch.no_grad()
def kept_by_draws(attributes: Attributes, draws: Tensor) -> dict[str, float]:
    """Share of each attribute's variance that the draws of one image [K,3,H,W] keep: 1 all, 0 none, K >= 2."""
    if len(draws) < 2:
        raise ValueError("At least two draws are needed to see what varies.")
    read = attributes.read(draws)
    return {name: 1 - float(variance(phi)) / attributes.spread[name] for name, phi in read.items()}
