"""Learning on whitened representations, so that narrow directions are learnt as soon as wide ones.

After standardising, the variances of a representation's directions lie orders of magnitude apart, and gradient descent
follows the wide ones first; what a representation holds does not depend on such scales. While it learns, the Linear of
a source is therefore V A, with A the inverse square root of the training covariance. V is what the optimizer moves; the
network that is saved holds the product.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from sklearn.covariance import oas
from torch import Tensor, nn
from torch.nn.utils import parametrize


def shrunk_covariance(standardised: Tensor) -> Tensor:
    """[N,D] with zero mean and unit deviation -> covariance [D,D].

    Shrunk towards the identity as far as N asks for (OAS, Chen et al. 2010), so that it is never singular. A
    number that does not vary has a deviation of 1.
    """
    covariance, _ = oas(standardised.cpu().numpy(), assume_centered=True)
    result, still = torch.from_numpy(covariance).float(), standardised.cpu().std(0) < 0.5
    result[still, still] = 1
    return result


def whiten(linear: nn.Linear, covariance: Tensor) -> None:
    """Learn the layer as one on input that is whitened by this covariance [D,D]; what it computes stays the same."""
    parametrize.register_parametrization(linear, "weight", _Whitened(covariance))


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network with whitened layers -> those of one with ordinary layers that computes the same."""
    result = {}
    for name, value in state.items():
        layer, _, part = name.partition(".parametrizations.weight.")
        if not part:
            result[name] = value
        elif part == "original":
            result[f"{layer}.weight"] = value @ state[f"{layer}.parametrizations.weight.0.whitening"]
    return result


class _Whitened(nn.Module):
    """The weight [E,D] of a Linear as V A."""

    whitening: Tensor

    def __init__(self, covariance: Tensor) -> None:
        super().__init__()
        variances, directions = torch.linalg.eigh(covariance.double())  # C = U diag(λ) Uᵀ, A = U diag(λ^-½) Uᵀ
        self.register_buffer("whitening", (directions / variances.sqrt() @ directions.T).float())

    def forward(self, weight: Tensor) -> Tensor:
        return weight @ self.whitening

    def right_inverse(self, weight: Tensor) -> Tensor:
        # V of a given W = V A; in double, as A is badly conditioned
        return torch.linalg.solve(self.whitening.double(), weight.double(), left=False).float()
