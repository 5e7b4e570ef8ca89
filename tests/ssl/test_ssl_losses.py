"""SSL losses against what is known of them in closed form."""

import pytest
import torch
from lightly.loss import NTXentLoss

from rcdm.ssl.losses import (
    DirectPredictor,
    byol_cosine,
    byol_euclidean,
    identity_vicreg,
    isoloss_cosine,
    isoloss_euclidean,
    nt_xent_between_classes,
    spectral_contrastive,
    view_pairs,
)


def graph(n: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weighted graph: edges [2,E], weights [E] and its adjacency matrix [n,n], double."""
    stream = torch.Generator().manual_seed(seed)
    edges = torch.combinations(torch.arange(n)).T
    edges = edges[:, torch.rand(edges.shape[1], generator=stream) < 0.3]
    weights = torch.rand(edges.shape[1], generator=stream, dtype=torch.float64)
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    adjacency[edges[0], edges[1]] = weights
    return edges, weights, adjacency + adjacency.T


def descend(loss, z: torch.Tensor) -> torch.Tensor:
    """The minimum of `loss` near z [N,P], by L-BFGS."""
    z = z.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [z], max_iter=3000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(z)
        value.backward()
        return value

    optimizer.step(closure)
    return z.detach()


@pytest.mark.parametrize("gamma", [0.05, 0.2])
def test_identity_vicreg_reaches_its_closed_form_optimum(gamma):
    edges, weights, adjacency = graph()
    n, k = len(adjacency), 4
    laplacian = torch.diag(adjacency.sum(1)) - adjacency
    values, vectors = torch.linalg.eigh(laplacian)
    values, vectors = values[1 : k + 1], vectors[:, 1 : k + 1]  # the lowest but the constant one
    s = (1 - gamma * values).clamp(min=0)
    optimum = n**0.5 * vectors * s.sqrt()
    least = ((s - 1).square() + 2 * gamma * s * values).sum()

    def loss(z):
        return identity_vicreg(z, edges, gamma, weights)

    assert torch.isclose(loss(optimum), least, atol=1e-10)
    found = descend(loss, torch.randn(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    assert torch.isclose(loss(found), least, atol=1e-7)
    found = found - found.mean(0)
    assert torch.allclose(found @ found.T, optimum @ optimum.T, atol=1e-3)  # up to a rotation


def test_nt_xent_between_classes_is_nt_xent_where_every_image_is_its_class():
    z_a, z_b = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(3))
    known = NTXentLoss(0.2)(z_a, z_b)
    assert nt_xent_between_classes(z_a, z_b, torch.arange(12), 0.2) == pytest.approx(float(known), rel=1e-5)


def test_nt_xent_between_classes_is_nothing_where_the_classes_are_apart():
    labels = torch.arange(12) % 3
    z = torch.eye(3)[labels]
    assert nt_xent_between_classes(z, z, labels, 0.02) < 1e-6
    assert NTXentLoss(0.02)(z, z) > 1  # to which the other images of the class are negatives


def test_spectral_contrastive_reaches_the_leading_eigenpairs():
    edges, weights, adjacency = graph(seed=2)
    n, k = len(adjacency), 3
    values = torch.linalg.eigvalsh(adjacency)
    discarded = values[:-k].square().sum()  # the top k are positive here
    assert (values[-k:] > 0).all()

    def loss(z):
        return spectral_contrastive(z, edges, weights)

    found = descend(loss, torch.randn(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    assert torch.isclose(loss(found) + adjacency.square().sum(), discarded, atol=1e-7)
    assert torch.allclose(torch.linalg.eigvalsh(found.T @ found / n), values[-k:], atol=1e-5)


def test_spectral_contrastive_of_two_views_is_its_expectation_form():
    z_a, z_b = torch.randn(2, 16, 5, dtype=torch.float64)
    z = torch.cat([z_a, z_b])
    expected = (z @ z.T).square().mean() - 2 * (z_a * z_b).sum(1).mean()
    assert torch.isclose(spectral_contrastive(z, view_pairs(16)), expected)


MODES = torch.tensor([1.0, 0.5, 0.2, 0.05, 0.014], dtype=torch.float64)


def evolve(loss, steps: int = 400, rate: float = 0.05) -> torch.Tensor:
    """Eigenmodes of a linear network z = x M on white data under gradient descent, [steps + 1, 5]."""
    network = torch.diag(MODES).requires_grad_()
    path = [MODES.clone()]
    for _ in range(steps):
        predictor = DirectPredictor(5, decay=0.0, eps=0.0).double()
        x = torch.eye(5, dtype=torch.float64) * 5**0.5  # white: XᵀX / B = I
        z = x @ network
        predictor.update(z.detach())
        (gradient,) = torch.autograd.grad(loss(z, predictor, z.detach()), network)
        network = (network - rate * gradient).detach().requires_grad_()
        path.append(network.diagonal().detach().clone())
    return torch.stack(path)


def recursion(step, steps: int = 400, rate: float = 0.05) -> torch.Tensor:
    """The same modes from their known dynamics: λ <- λ + rate * step(λ, p), p = λ / max λ (DirectPred, α = ½)."""
    path = [MODES.clone()]
    for _ in range(steps):
        mode = path[-1]
        path.append(mode + rate * step(mode, mode / mode.max()))
    return torch.stack(path)


def test_byol_moves_each_mode_by_its_predictor_times_what_is_missing():
    path = evolve(lambda z, predictor, target: byol_euclidean(predictor(z), target))
    assert torch.allclose(path, recursion(lambda mode, p: 2 * p * (1 - p) * mode), atol=1e-5)


def test_isoloss_moves_each_mode_by_what_is_missing_alone():
    path = evolve(lambda z, predictor, target: isoloss_euclidean(z, predictor(z), target))
    assert torch.allclose(path, recursion(lambda mode, p: 2 * (1 - p) * mode), atol=1e-5)


def test_isoloss_raises_the_small_mode_that_byol_leaves():
    byol = evolve(lambda z, predictor, target: byol_euclidean(predictor(z), target))[:, -1]
    iso = evolve(lambda z, predictor, target: isoloss_euclidean(z, predictor(z), target))[:, -1]
    assert byol[400] < 0.04 and iso[200] > 0.9


def test_cosine_isoloss_moves_like_cosine_byol_without_the_predictor_in_front():
    """Its gradient with respect to z is that of cosine BYOL with W left out (arXiv 2212.04858)."""
    torch.manual_seed(0)
    z, target = torch.randn(2, 6, 5, dtype=torch.float64)
    predictor = DirectPredictor(5, decay=0.0).double()
    predictor.update(torch.randn(30, 5, dtype=torch.float64))
    p = (z @ predictor.weight).requires_grad_()
    (through_p,) = torch.autograd.grad(byol_cosine(p, target), p)
    leaf = z.clone().requires_grad_()
    (of_z,) = torch.autograd.grad(isoloss_cosine(leaf, predictor.weight, target), leaf)
    assert torch.allclose(of_z, through_p, atol=1e-9)


@pytest.mark.parametrize("broken", ["no stop-gradient", "no predictor"])
def test_without_stop_gradient_or_predictor_the_representation_collapses(broken):
    """Share of ‖z‖² that differs between images, for a linear network with a bias on noisy views: 0 is collapse."""

    def variety(loss, steps: int = 1500) -> float:
        stream = torch.Generator().manual_seed(0)
        network = torch.diag(torch.linspace(1, 0.4, 5, dtype=torch.float64))
        network = torch.cat([network, torch.full((1, 5), 0.3, dtype=torch.float64)])
        predictor = DirectPredictor(5, decay=0.9, eps=0.1).double()
        for _ in range(steps):
            x = torch.randn(128, 5, dtype=torch.float64, generator=stream)
            noise = torch.randn(2, 128, 5, dtype=torch.float64, generator=stream)
            network = network.requires_grad_()
            z, other = (torch.cat([x + n, torch.ones(128, 1)], 1) @ network for n in noise)
            predictor.update(z.detach())
            (gradient,) = torch.autograd.grad(loss(z, predictor, other), network)
            network = (network - 0.05 * gradient).detach()
        energy = network.square().sum(1)
        return float(energy[:-1].sum() / energy.sum())

    losses = {
        "no stop-gradient": lambda z, predictor, other: 2 - 2 * torch.cosine_similarity(predictor(z), other).mean(),
        "no predictor": lambda z, predictor, other: byol_cosine(z, other),
    }
    whole = variety(lambda z, predictor, other: isoloss_cosine(z, predictor.weight, other))
    assert variety(losses[broken]) < 0.01 < 0.1 < whole


def test_the_predictor_is_the_root_of_the_correlation():
    z = torch.randn(200, 6, dtype=torch.float64)
    predictor = DirectPredictor(6, eps=0.0).double()
    predictor.update(z)
    correlation = z.T @ z / len(z)
    assert torch.allclose(
        predictor.weight @ predictor.weight, correlation / torch.linalg.eigvalsh(correlation).max(), atol=1e-5
    )
    before = predictor.correlation.clone()
    predictor.update(2 * z)
    assert torch.allclose(predictor.correlation, 0.99 * before + 0.01 * 4 * correlation, atol=1e-5)
