"""What moves the weights of a backbone that is pretrained, and which of them decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightly.utils.lars import LARS
from torch import nn

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda groups, lr: torch.optim.AdamW(groups, lr=lr),
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9),
    "lars": lambda groups, lr: LARS(groups, lr=lr, momentum=0.9),
}
"""Name -> constructor (parameter groups, peak learning rate)."""


def groups(learner: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; vectors do not, and LARS leaves those alone (You et al. 2017)."""
    parameters = [p for p in learner.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
