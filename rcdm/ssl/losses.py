"""SSL losses that lightly lacks: written over a graph of pairs, so that their optima are known in closed form.

Representations are rows, z [N,P]. A graph is `edges` int64 [2,E] with `weights` [E]; a batch of two views is the graph
that joins row i to row i + N/2 (`view_pairs`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def view_pairs(n: int, device: torch.device | None = None) -> Tensor:
    """Edges [2,n] that join the first views, rows 0 … n-1, to the second ones, rows n … 2n-1."""
    first = torch.arange(n, device=device)
    return torch.stack([first, first + n])


def identity_vicreg(z: Tensor, edges: Tensor, gamma: float, weights: Tensor | None = None) -> Tensor:
    """‖ZᵀHZ/N − I‖² + (2γ/N) tr ZᵀLZ: VICReg whose variance and covariance terms are one distance to the identity.

    H centres, L is the Laplacian of the graph. Optimum: √N U diag((1 − γλ)₊)^½ over the lowest eigenvectors of L but
    the constant one.
    """
    centred = z - z.mean(0)
    covariance = centred.T @ centred / len(z)  # ZᵀHZ/N, [P,P]
    identity = torch.eye(z.shape[1], device=z.device, dtype=z.dtype)
    stretch = (z[edges[0]] - z[edges[1]]).square().sum(1)
    # tr ZᵀLZ = Σ over edges of w ‖z_i − z_j‖²
    energy = (stretch if weights is None else weights * stretch).sum()
    return (covariance - identity).square().sum() + 2 * gamma / len(z) * energy


def spectral_contrastive(z: Tensor, edges: Tensor, weights: Tensor | None = None) -> Tensor:
    """‖ZZᵀ/N − A‖² − ‖A‖², A the adjacency matrix of the graph without self-loops (HaoChen et al. 2021).

    For two views it is E (z·z')² over all pairs − 2 E z·z⁺ (arXiv 2106.04156). Optimum: Z/√N holds the leading
    eigenvectors of A, each times the root of its eigenvalue.
    """
    products = (z[edges[0]] * z[edges[1]]).sum(1)
    attraction = 2 * (products if weights is None else weights * products).sum()
    gram = z.T @ z / len(z)  # [P,P]: ‖ZZᵀ‖² = ‖ZᵀZ‖², and P is small
    return gram.square().sum() - 2 * attraction / len(z)


def nt_xent_between_classes(z_a: Tensor, z_b: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """NT-Xent of two views [N,P] with the class of each row, labels [N]: all pairs of a class are positive, and only
    images of other classes negative.

    Mean over the positive pairs. With a class for every row it is NT-Xent (Chen et al. 2020, arXiv 2002.05709); unlike
    SupCon (Khosla et al. 2020, arXiv 2004.11362) no positive is a negative to another.
    """
    z, kinds = F.normalize(torch.cat([z_a, z_b]).float(), dim=1), labels.repeat(2)
    likeness = z @ z.T / temperature  # [2N,2N]
    alike = kinds[:, None] == kinds
    negatives = likeness.masked_fill(alike, -torch.inf).logsumexp(1, keepdim=True)
    positive = alike & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    # −log e^s⁺ / (e^s⁺ + Σ e^s⁻) = softplus(logsumexp(s⁻) − s⁺), a mean over positive pairs
    return (F.softplus(negatives - likeness) * positive).sum() / positive.sum()


def byol_euclidean(p: Tensor, target: Tensor) -> Tensor:
    """‖p − sg z'‖², mean over the batch: prediction p and target z' [N,P]."""
    return (p - target.detach()).square().sum(1).mean()


def byol_cosine(p: Tensor, target: Tensor) -> Tensor:
    """2 − 2 cos(p, sg z'), mean over the batch (Grill et al. 2020)."""
    return (2 - 2 * F.cosine_similarity(p, target.detach(), dim=1)).mean()


def isoloss_euclidean(z: Tensor, p: Tensor, target: Tensor) -> Tensor:
    """‖z − sg(z' + z − p)‖²: every eigenmode approaches 1 at the same rate (Halvagal et al. 2022, arXiv 2212.04858)."""
    return (z - (target + z - p).detach()).square().sum(1).mean()


def isoloss_cosine(z: Tensor, predictor: Tensor, target: Tensor) -> Tensor:
    """−2 [⟨z, sg z'⟩ / sg(‖p‖‖z'‖) − ½ sg(⟨p, z'⟩ / (‖p‖³‖z'‖)) ‖z W^½‖²] with p = zW, W [P,P] symmetric, >= 0."""
    target = target.detach()
    p = z.detach() @ predictor
    p_norm, target_norm = p.norm(dim=1).clamp(min=1e-8), target.norm(dim=1).clamp(min=1e-8)
    pull = (z * target).sum(1) / (p_norm * target_norm)
    brake = (p * target).sum(1) / (p_norm**3 * target_norm)
    size = (z * (z @ predictor)).sum(1)  # ‖z W^½‖²
    return -2 * (pull - 0.5 * brake * size).mean()


class DirectPredictor(nn.Module):
    """A linear predictor W [P,P] set from the correlation of z instead of trained (Tian et al. 2021, arXiv 2102.06810).

    C ← τC + (1−τ) ZᵀZ/B = U diag(s) Uᵀ, s ← max(s,0)/max s + eps, W = U diag(s^α) Uᵀ.

    Args:
        dim: P.
        alpha: 1/2 is DirectPred, 1 is DirectCopy.
        decay: τ, how slowly the correlation follows.
        eps: keeps W of full rank.
    """

    correlation: Tensor
    weight: Tensor
    updates: Tensor

    def __init__(self, dim: int, *, alpha: float = 0.5, decay: float = 0.99, eps: float = 0.1) -> None:
        super().__init__()
        self.alpha, self.decay, self.eps = alpha, decay, eps
        self.register_buffer("correlation", torch.zeros(dim, dim))
        self.register_buffer("weight", torch.eye(dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Follow a batch z [B,P] and set W anew; the first batch is taken as it is."""
        now = z.float().T @ z.float() / len(z)
        # 0 on the first batch, without asking the device for the count
        decay = torch.where(self.updates > 0, self.decay, 0.0)
        self.correlation.mul_(decay).add_(now * (1 - decay))
        self.updates += 1
        values, vectors = torch.linalg.eigh(self.correlation)
        # s ← max(s,0)/max s + eps, then W = U diag(s^α) Uᵀ
        values = values.clamp(min=0) / values.max().clamp(min=1e-12) + self.eps
        self.weight.copy_((vectors * values**self.alpha) @ vectors.T)

    def forward(self, z: Tensor) -> Tensor:
        """[B,P] -> p = zW [B,P]."""
        return z @ self.weight
