"""What each objective asks for, beyond a loss that falls."""

import pytest
import torch
from torch import nn

from rcdm.ssl.losses import byol_cosine, isoloss_cosine, isoloss_euclidean
from rcdm.ssl.objectives import OBJECTIVES, Supervised


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def views(n: int = 16, p: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    """z of both views [N,P], labels [N] and the targets of both."""
    z_a, z_b, t_a, t_b = torch.randn(4, n, p)
    return z_a, z_b, torch.arange(n) % 4, (t_a, t_b)


@pytest.mark.parametrize("name", ["byol", "directpred", "isoloss", "isoloss-euclidean"])
def test_the_target_of_whoever_has_one_moves_slowly(name):
    assert 0.9 < OBJECTIVES[name].momentum < 1


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_the_views_may_change_places(name):
    """The loss is that of a pair, not of a first and a second view; what one view predicts is the other's target."""
    objective = OBJECTIVES[name](12, 8, 4)
    objective.eval()
    z_a, z_b, labels, (t_a, t_b) = views()
    with torch.no_grad():
        forth, back = objective(z_a, z_b, labels, (t_a, t_b)), objective(z_b, z_a, labels, (t_b, t_a))
    assert torch.allclose(forth, back, rtol=1e-4) != isinstance(objective, Supervised)


@pytest.mark.parametrize(("name", "one_way"), [
    ("directpred", lambda z, w, t: byol_cosine(z @ w, t) / 2 - 1), ("isoloss", isoloss_cosine),
    ("isoloss-euclidean", lambda z, w, t: isoloss_euclidean(z, z @ w, t)),
])  # fmt: skip
def test_a_target_is_that_of_the_other_view_and_both_ways_count_half(name, one_way):
    objective = OBJECTIVES[name](12, 8, 4)
    z_a, z_b, labels, (t_a, t_b) = views()
    loss = float(objective(z_a, z_b, labels, (t_a, t_b)))
    w = objective.direct.weight
    assert loss == pytest.approx(float(one_way(z_a, w, t_b) + one_way(z_b, w, t_a)) / 2, rel=1e-4)
    assert not torch.allclose(w, torch.eye(8))  # set from these very projections
    both = torch.cat([z_a, z_b])
    assert torch.allclose(objective.direct.correlation, both.T @ both / len(both), atol=1e-5)
    objective.eval()
    objective(2 * z_a, z_b, labels, (t_a, t_b))
    assert objective.direct.weight is w and int(objective.direct.updates) == 1  # measuring teaches nothing


def test_byol_of_a_perfect_prediction_is_least():
    objective = OBJECTIVES["byol"](12, 8, 4)
    objective.predictor = nn.Identity()
    z_a, z_b, labels, _ = views()
    assert float(objective(z_a, z_b, labels, (3 * z_b, 2 * z_a))) == pytest.approx(-1)
    assert float(objective(z_a, z_b, labels, (-z_b, z_a))) == pytest.approx(0, abs=1e-6)


def widths(objective: nn.Module) -> list[int]:
    """What goes into a projector, and what comes out of each of its layers."""
    layers = [layer for layer in objective.projector.modules() if isinstance(layer, nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)]


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_projectors_have_the_widths_that_are_asked_for(name):
    wide = 12 if name in ("simclr", "simclr-supervised", "supervised") else 24
    for hidden, inside in ((None, wide), (20, 20)):
        first, *middle, last = widths(OBJECTIVES[name](12, 8, 4, hidden))
        assert first == 12 and last == 8 and middle and set(middle) == {inside}
    assert OBJECTIVES[name].views == (1 if name == "supervised" else 2)
    assert OBJECTIVES[name].pairs_by_label == (name == "simclr-supervised")


@pytest.mark.parametrize("name", ["simclr", "simclr-supervised"])
def test_a_low_temperature_sees_the_hardest_negative_alone(name):
    """Where the views agree and the nearest negative has cosine c, the loss is about exp((c - 1) / T) for small T."""
    angle = torch.tensor([0.0, 0.5, 2.0, 2.5])
    z = torch.stack([angle.cos(), angle.sin()], 1)
    for temperature in (0.02, 0.03):
        loss = OBJECTIVES[name](12, 8, 4, temperature=temperature)(z, z, torch.arange(4))
        nearest = 2 * torch.exp((torch.tensor(0.5).cos() - 1) / temperature)  # in both views
        assert float(loss) == pytest.approx(float(nearest), rel=0.05)


def test_the_identity_penalty_has_weight_one():
    """Views that agree and are white cost nothing; where one view has a sign turned they stay white together, and what
    is left is how far the rows of a pair lie apart: 2γ Σ‖z − z'‖² over the 2N rows."""
    white = torch.linalg.qr(torch.cat([torch.ones(16, 1), torch.randn(16, 8)], 1))[0][:, 1:] * 4
    objective = OBJECTIVES["vicreg-identity"](12, 8, 4)
    assert float(objective(white, white, None)) == pytest.approx(0, abs=1e-6)
    turned = white @ torch.diag(torch.tensor([-1.0] + [1.0] * 7))
    assert float(objective(white, turned, None)) == pytest.approx(2 * float((white - turned).square().sum()) / 32)


def test_cosine_losses_see_directions_alone():
    z, target = torch.randn(2, 9, 5)
    w = torch.diag(torch.tensor([1.0, 0.8, 0.5, 0.3, 0.1]))
    assert float(byol_cosine(z, 3 * z)) == pytest.approx(0, abs=1e-6)
    assert float(byol_cosine(z, -z)) == pytest.approx(4)
    for length in (1e-3, 0.1, 50.0):
        known = float(isoloss_cosine(z, w, target))
        assert float(isoloss_cosine(z, w, length * target)) == pytest.approx(known, rel=1e-3)
        assert float(isoloss_cosine(length * z, w, target)) == pytest.approx(known, rel=1e-3)
