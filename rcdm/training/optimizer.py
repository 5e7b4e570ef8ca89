"""The optimizer of the denoiser: torch's AdamW, or Muon as timm has it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate.utils import DistributedType
from timm.optim.muon import Muon

from rcdm.training.config import TrainingConfig


def optimizer_of(
    config: TrainingConfig, parameters: Iterable[torch.nn.Parameter], kind: DistributedType
) -> torch.optim.Optimizer:
    """The optimizer by its name; raises ValueError for one that cannot work with parameters in shards."""
    lr, decay = config.learning_rate, config.adam_weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=True)
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError("muon needs whole matrices, which FSDP and DeepSpeed cut up: use adamw.")
    return Muon(list(parameters), lr=lr, weight_decay=decay, nesterov=True, betas=(0.9, 0.999))
