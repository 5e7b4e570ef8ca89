"""Learning on whitened representations: the same function, other steps."""

import copy

import torch
from torch import Tensor, nn

from rcdm.diffusion.whitening import folded, shrunk_covariance, whiten


def narrow(n: int = 20_000) -> Tensor:
    """[n,6] with zero mean and unit deviations; the first two numbers differ by a tenth of what they vary."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    x[:, 1] = x[:, 0] + 0.1 * x[:, 1]
    return (x - x.mean(0)) / x.std(0)


def test_whitening_changes_no_output_and_folds_back():
    x = narrow()
    plain = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)).eval()
    network = copy.deepcopy(plain)
    whiten(network[0], shrunk_covariance(x))
    assert torch.allclose(network(x), plain(x), atol=1e-4)
    with torch.no_grad():
        network[0].parametrizations.weight.original.add_(0.1)
    assert not torch.allclose(network(x), plain(x), atol=1e-2)
    plain.load_state_dict(folded(network.state_dict()))
    assert torch.allclose(network(x), plain(x), atol=1e-4)


def test_the_narrow_direction_is_learnt_soon():
    x = narrow()
    target = x[:, :1] - x[:, 1:2]
    target = target / target.std()

    def error(whitened: bool) -> float:
        layer = nn.Linear(6, 1, bias=False)
        nn.init.zeros_(layer.weight)
        if whitened:
            whiten(layer, shrunk_covariance(x))
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(50):
            optimizer.zero_grad()
            (layer(x) - target).square().mean().backward()
            optimizer.step()
        return float((layer(x) - target).detach().square().mean())

    assert error(whitened=True) < 0.01 < 0.8 < error(whitened=False)


def test_whitened_numbers_have_the_identity_as_covariance():
    x = narrow()
    layer = nn.Linear(6, 6, bias=False)
    whiten(layer, shrunk_covariance(x))
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(torch.eye(6))
    z = layer(x).detach()
    assert torch.allclose(z.T @ z / len(z), torch.eye(6), atol=0.2)  # the shrinkage leaves the narrow direction at 0.84


def test_the_covariance_of_few_images_can_be_inverted():
    few = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    covariance = shrunk_covariance(few)
    assert torch.linalg.eigvalsh(covariance).min() > 0.05 and torch.allclose(covariance, covariance.T)
    dead = torch.cat([few, torch.zeros(8, 1)], dim=1)  # a number that never changes
    assert torch.linalg.eigvalsh(shrunk_covariance(dead)).min() > 0
