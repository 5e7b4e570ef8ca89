"""What a backbone is pretrained for: each objective owns its projector and turns two views into a loss."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, VICRegLoss
from lightly.models.modules.heads import (
    BarlowTwinsProjectionHead,
    BYOLPredictionHead,
    BYOLProjectionHead,
    SimCLRProjectionHead,
    VICRegProjectionHead,
)
from torch import Tensor, nn

from rcdm.ssl.losses import (
    DirectPredictor,
    identity_vicreg,
    isoloss_cosine,
    isoloss_euclidean,
    nt_xent_between_classes,
    spectral_contrastive,
    view_pairs,
)

Targets = tuple[Tensor, Tensor]


class Objective(nn.Module):
    """`projector` maps h [B,D] to z [B,P]; `forward(z_a, z_b, labels, targets)` is the loss of two views (scalar).

    `targets` are the projections of the same views by the slowly following network, where `momentum` asks for one.
    """

    projector: nn.Sequential
    views = 2
    momentum: float | None = None
    """Share of itself that the target network keeps at each step; None: there is no target network."""
    pairs_by_label = False
    needs_labels = False
    """Whether the second view is taken of another image of the same class."""

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor, targets: Targets | None = None) -> Tensor:
        raise NotImplementedError


class SimCLR(Objective):
    """Chen et al. 2020 (arXiv 2002.05709): NT-Xent."""

    def __init__(
        self, dim: int, projector_dim: int, classes: int, hidden_dim: int | None = None, temperature: float = 0.5
    ) -> None:
        super().__init__()
        self.projector = _in_blocks(SimCLRProjectionHead(dim, hidden_dim or dim, projector_dim).layers)
        self.loss = NTXentLoss(temperature)

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor, targets: Targets | None = None) -> Tensor:
        return self.loss(z_a, z_b)


class SupervisedSimCLR(SimCLR):
    """SimCLR whose positive pairs are two images of one class: the control where the projector is the better level.

    All images of a class are positive to each other: where there are few classes, other images of the class among the
    negatives would keep the network from learning any.
    """

    pairs_by_label = needs_labels = True

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor, targets: Targets | None = None) -> Tensor:
        return nt_xent_between_classes(z_a, z_b, labels, self.loss.temperature)


class VICReg(Objective):
    """Bardes et al. 2021 (arXiv 2105.04906), weights 25, 25, 1."""

    def __init__(self, dim: int, projector_dim: int, classes: int, hidden_dim: int | None = None) -> None:
        super().__init__()
        self.projector = _in_blocks(VICRegProjectionHead(dim, hidden_dim or 2 * dim, projector_dim).layers)
        self.loss = VICRegLoss()

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor, targets: Targets | None = None) -> Tensor:
        return self.loss(z_a, z_b)


class IdentityVICReg(VICReg):
    """VICReg with one penalty, the distance of the covariance to the identity (`losses.identity_vicreg`)."""

    gamma = 1.0

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor, targets: Targets | None = None) -> Tensor:
        return identity_vicreg(torch.cat([z_a, z_b]), view_pairs(len(z_a), z_a.device), self.gamma)


class SpectralContrastive(VICReg):
    """HaoChen et al. 2021 (arXiv 2106.04156)."""

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor, targets: Targets | None = None) -> Tensor:
        return spectral_contrastive(torch.cat([z_a, z_b]), view_pairs(len(z_a), z_a.device))


class BarlowTwins(Objective):
    """Zbontar et al. 2021 (arXiv 2103.03230)."""

    def __init__(self, dim: int, projector_dim: int, classes: int, hidden_dim: int | None = None) -> None:
        super().__init__()
        hidden_dim = hidden_dim or 2 * dim
        self.projector = _in_blocks(BarlowTwinsProjectionHead(dim, hidden_dim, projector_dim).layers)
        self.loss = BarlowTwinsLoss()

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor, targets: Targets | None = None) -> Tensor:
        return self.loss(z_a, z_b)


class BYOL(Objective):
    """Grill et al. 2020 (arXiv 2006.07733): predict the target network's projection of the other view."""

    momentum = 0.99

    def __init__(self, dim: int, projector_dim: int, classes: int, hidden_dim: int | None = None) -> None:
        super().__init__()
        hidden_dim = hidden_dim or 2 * dim
        self.projector = _in_blocks(BYOLProjectionHead(dim, hidden_dim, projector_dim).layers)
        self.predictor: nn.Module = BYOLPredictionHead(projector_dim, hidden_dim, projector_dim)
        self.loss = NegativeCosineSimilarity()

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor, targets: Targets | None = None) -> Tensor:
        t_a, t_b = _needed(targets)
        return (self.loss(self.predictor(z_a), t_b) + self.loss(self.predictor(z_b), t_a)) / 2


class DirectPred(BYOL):
    """BYOL whose predictor is set from the correlation of z (Tian et al. 2021, arXiv 2102.06810)."""

    def __init__(self, dim: int, projector_dim: int, classes: int, hidden_dim: int | None = None) -> None:
        super().__init__(dim, projector_dim, classes, hidden_dim)
        self.predictor = DirectPredictor(projector_dim)

    @property
    def direct(self) -> DirectPredictor:
        """The predictor, as what it is."""
        return cast(DirectPredictor, self.predictor)

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor, targets: Targets | None = None) -> Tensor:
        if self.training:
            self.direct.update(torch.cat([z_a, z_b]))
        return super().forward(z_a, z_b, labels, targets)


class IsoLoss(DirectPred):
    """Every eigenmode of z grows at the same rate; cosine form (Halvagal et al. 2022, arXiv 2212.04858)."""

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor, targets: Targets | None = None) -> Tensor:
        t_a, t_b = _needed(targets)
        if self.training:
            self.direct.update(torch.cat([z_a, z_b]))
        return (self.one_way(z_a, t_b) + self.one_way(z_b, t_a)) / 2

    def one_way(self, z: Tensor, target: Tensor) -> Tensor:
        """The loss of z [B,P] against the target [B,P] of the other view."""
        return isoloss_cosine(z, self.direct.weight, target)


class EuclideanIsoLoss(IsoLoss):
    """IsoLoss, Euclidean form."""

    def one_way(self, z: Tensor, target: Tensor) -> Tensor:
        return isoloss_euclidean(z, self.predictor(z), target)


class Supervised(Objective):
    """Cross-entropy on the labels, through the same kind of MLP projector and one linear classifier."""

    views = 1
    needs_labels = True

    def __init__(self, dim: int, projector_dim: int, classes: int, hidden_dim: int | None = None) -> None:
        super().__init__()
        self.projector = _in_blocks(SimCLRProjectionHead(dim, hidden_dim or dim, projector_dim).layers)
        self.classifier = nn.Linear(projector_dim, classes)

    def forward(self, z_a: Tensor, z_b: Tensor, labels: Tensor, targets: Targets | None = None) -> Tensor:
        return F.cross_entropy(self.classifier(z_a), labels)


def _needed(targets: Targets | None) -> Targets:
    if targets is None:
        raise ValueError("This objective needs the target network's projections.")
    return targets


def _in_blocks(layers: nn.Sequential) -> nn.Sequential:
    """A flat MLP -> one nn.Sequential per hidden layer, each ending in its ReLU, so that `projector.0` names it."""
    blocks: list[list[nn.Module]] = [[]]
    for layer in layers:
        blocks[-1].append(layer)
        if isinstance(layer, nn.ReLU):
            blocks.append([])
    return nn.Sequential(*(nn.Sequential(*block) for block in blocks if block))


OBJECTIVES: dict[str, type[Objective]] = {
    "simclr": SimCLR,
    "simclr-supervised": SupervisedSimCLR,
    "vicreg": VICReg,
    "vicreg-identity": IdentityVICReg,
    "spectral": SpectralContrastive,
    "barlow": BarlowTwins,
    "byol": BYOL,
    "directpred": DirectPred,
    "isoloss": IsoLoss,
    "isoloss-euclidean": EuclideanIsoLoss,
    "supervised": Supervised,
}
"""Name -> constructor (backbone width, projector width, number of classes, width of the projector's hidden layers)."""
