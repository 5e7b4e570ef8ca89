"""What a backbone is pretrained for: each objective owns its projector and turns two views into a loss."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from lightly.loss import NTXentLoss, VICRegLoss
from lightly.models.modules.heads import SimCLRProjectionHead, VICRegProjectionHead
from torch import Tensor, nn


class Objective(nn.Module):
    """`projector` maps h [B,D] to z [B,P]; `forward(z_a, z_b, labels)` is the loss of two views (scalar)."""

    projector: nn.Sequential
    views = 2

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError


class SimCLR(Objective):
    """Chen et al. 2020 (arXiv 2002.05709): NT-Xent."""

    def __init__(self, dim: int, projector_dim: int, classes: int) -> None:
        super().__init__()
        self.projector = _in_blocks(SimCLRProjectionHead(dim, dim, projector_dim).layers)
        self.loss = NTXentLoss(temperature=0.1)

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor) -> Tensor:
        return self.loss(z_a, z_b)


class VICReg(Objective):
    """Bardes et al. 2021 (arXiv 2105.04906), weights 25, 25, 1."""

    def __init__(self, dim: int, projector_dim: int, classes: int) -> None:
        super().__init__()
        self.projector = _in_blocks(VICRegProjectionHead(dim, 2 * dim, projector_dim).layers)
        self.loss = VICRegLoss()

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor) -> Tensor:
        return self.loss(z_a, z_b)


class Supervised(Objective):
    """Cross-entropy on the labels, through the same kind of MLP projector and one linear classifier."""

    views = 1

    def __init__(self, dim: int, projector_dim: int, classes: int) -> None:
        super().__init__()
        self.projector = _in_blocks(SimCLRProjectionHead(dim, dim, projector_dim).layers)
        self.classifier = nn.Linear(projector_dim, classes)

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.classifier(z_a), labels)


def _in_blocks(layers: nn.Sequential) -> nn.Sequential:
    """A flat MLP -> one nn.Sequential per hidden layer, each ending in its ReLU, so that `projector.0` names it."""
    blocks: list[list[nn.Module]] = [[]]
    for layer in layers:
        blocks[-1].append(layer)
        if isinstance(layer, nn.ReLU):
            blocks.append([])
    return nn.Sequential(*(nn.Sequential(*block) for block in blocks if block))


OBJECTIVES: dict[str, Callable[[int, int, int], Objective]] = {
    "simclr": SimCLR,
    "vicreg": VICReg,
    "supervised": Supervised,
}
"""Name -> constructor (backbone width, projector width, number of classes)."""
