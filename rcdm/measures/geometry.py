"""The shape of a representation: what the projector makes of the directions along which views differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from rcdm.measures.metrics import Number, bootstrap, squared_distance_to_others


@dataclass(frozen=True)
class Views:
    """A level's representations of images and of two views of each, [N,D] three times, raw, on the CPU."""

    given: Tensor
    first: Tensor
    second: Tensor

    @property
    def change(self) -> Tensor:
        """How each image's views differ, [N,D]."""
        return self.first - self.second


def view_variance(views: Views) -> Number:
    """E‖f(v) − f(v')‖² over two views of an image, over E‖f(x) − f(x')‖² over images; null 1: as two images."""
    moved, apart = views.change.square().sum(1), squared_distance_to_others(views.given)
    return bootstrap(lambda i: moved[i].mean() / apart[i].mean(), len(moved), null=1.0)


def removed_share(backbone: Views, projector: Views) -> Number:
    """Share of the backbone's view variance that the projector removes: 1 − V(z) / V(h), V as in `view_variance`.

    1: views of an image become one; below 0: they move apart. Null 0: a projector that only turns and scales.
    """
    parts = [
        part
        for views in (projector, backbone)
        for part in (views.change.square().sum(1), squared_distance_to_others(views.given))
    ]

    def removed(i: Tensor) -> Tensor:
        moved_z, apart_z, moved_h, apart_h = (part[i].mean() for part in parts)
        return 1 - moved_z / apart_z / (moved_h / apart_h)

    return bootstrap(removed, len(parts[0]), null=0.0)


def row_space(projector: Callable[[Tensor], Tensor], h: Tensor, *, draws: int = 8, seed: int = 0) -> Tensor:
    """Directions of h that a projector hears: orthonormal [D,r], the strongest first.

    Those of E JᵀJ over the rows of h [N,D], J the projector's Jacobian, estimated with `draws` random directions of z
    per row; as many as its effective rank exp(H(p)), p = eigenvalue / Σ, rounded. Of a linear projector with equal
    singular values it is the row space.
    """
    stream = torch.Generator().manual_seed(seed)
    total = torch.zeros(h.shape[1], h.shape[1], dtype=torch.float64)
    with torch.enable_grad():
        point = h.detach().clone().requires_grad_()
        z = projector(point)
        for _ in range(draws):
            signs = (torch.randint(2, z.shape, generator=stream) * 2 - 1).to(z)
            (pulled,) = torch.autograd.grad((z * signs).sum(), point, retain_graph=True)
            pulled = pulled.double().cpu()  # Jᵀs of each row with random signs s: E (Jᵀs)(Jᵀs)ᵀ = JᵀJ
            total += pulled.T @ pulled
    energy, directions = torch.linalg.eigh(total)
    return directions.flip(1)[:, : _effective(energy.clamp(min=0))].float()


def main_directions(change: Tensor, count: int | None = None) -> Tensor:
    """Where changes [N,D] point: orthonormal [D,k], k by default their effective rank (not centred), rounded."""
    change = change.double()
    if len(change) < change.shape[1]:
        _, values, rows = torch.linalg.svd(change, full_matrices=False)
        energy, directions = values.square(), rows.T
    else:  # many short rows: far faster by way of their second moments
        energy, directions = (part.flip(-1) for part in torch.linalg.eigh(change.T @ change))
    return directions[:, : count or _effective(energy.clamp(min=0))].float()


def _effective(energy: Tensor) -> int:
    return max(1, round(math.exp(float(torch.special.entr(energy / energy.sum()).sum()))))


def against_projector(hears: Tensor, backbone: Views) -> dict[str, Any]:
    """How the directions [D,r] that a projector hears lie to the changes between views.

    `heard`: share of the changes' squared length within them (null: that of differences between images); `angle`: mean
    principal angle in degrees between the two subspaces (null: random subspaces of the same sizes), `angles`: each,
    rising; `dimensions`: of the two subspaces.
    """
    change, centred = backbone.change, backbone.given - backbone.given.mean(0)
    inside, whole = (change @ hears).square().sum(1), change.square().sum(1)
    usual = float((centred @ hears).square().sum() / centred.square().sum())
    moves = main_directions(change)
    r, k = hears.shape[1], moves.shape[1]
    angles = principal_angles(hears, moves)
    angle = bootstrap(
        lambda i: principal_angles(hears, main_directions(change[i], k)).mean(),
        len(change),
        null=_chance_angle(len(hears), r, k),
        draws=100,
        vectorised=False,
    )
    return {
        "heard": bootstrap(lambda i: inside[i].sum() / whole[i].sum(), len(change), null=usual).to_json(),
        "angle": angle.to_json(),
        "angles": angles.tolist(),
        "dimensions": [r, k],
    }


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Between the spaces that the columns of [D,r] and [D,k] span: degrees [min(r,k)], rising (Björck & Golub 1973)."""
    angles = subspace_angles(a.double().numpy(), b.double().numpy())
    return torch.from_numpy(angles).flip(0).rad2deg()


def _chance_angle(d: int, r: int, k: int, *, draws: int = 20) -> float:
    stream = torch.Generator().manual_seed(0)
    pairs = ([torch.randn(d, n, generator=stream) for n in (r, k)] for _ in range(draws))
    return float(torch.stack([principal_angles(a, b).mean() for a, b in pairs]).mean())
