"""GroupNorm from sums over channels is PyTorch's, forwards and backwards."""

import copy

import pytest
import torch
from torch import nn

from rcdm.diffusion.unet import RepresentationUNet, unet_arguments
from rcdm.training.channel_norm import compile_for, normalise_by_channels


def both(groups: int, channels: int) -> tuple[nn.GroupNorm, nn.GroupNorm]:
    """PyTorch's with random weights, and a copy that computes by channels."""
    torch.manual_seed(0)
    plain = nn.GroupNorm(groups, channels)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    other = copy.deepcopy(plain)
    normalise_by_channels(other)
    assert other.forward.__func__ is not plain.forward.__func__
    return plain, other


@pytest.mark.parametrize("shape", [(3, 12, 5, 7), (2, 12, 3, 3), (2, 12, 9)])
@pytest.mark.parametrize("groups", [1, 4, 12])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_values_and_gradients_are_those_of_pytorch(shape, groups, offset):
    plain, other = both(groups, 12)
    x = torch.randn(shape) * 2 + offset
    upward, found = torch.randn(shape), []
    for norm in (plain, other):
        given = x.clone().requires_grad_()
        out = norm(given)
        (out * upward).sum().backward()
        found.append([out.detach(), given.grad, norm.weight.grad, norm.bias.grad])
    for own, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-3 if offset else 2e-5)


def test_a_constant_image_stays_finite():
    _, norm = both(4, 12)
    x = torch.full((2, 12, 4, 4), 1000.1, requires_grad=True)
    norm(x).square().sum().backward()
    assert x.grad.isfinite().all()


def test_a_denoiser_computes_the_same_and_is_saved_alike():
    torch.manual_seed(0)
    unet = RepresentationUNet({"s": 8}, unet_arguments(16, channels=(8, 16), layers_per_block=1)).eval()
    inputs = torch.randn(3, 3, 16, 16), torch.tensor([5, 500, 999]), torch.randn(3, 8), "s"
    names, before = list(unet.state_dict()), unet(*inputs).sample
    normalise_by_channels(unet.unet)
    assert sum(type(module).__name__ == "_ByChannels" for module in unet.modules()) > 5
    assert list(unet.state_dict()) == names
    torch.testing.assert_close(unet(*inputs).sample, before, rtol=1e-4, atol=1e-5)


def test_under_autocast_it_computes_in_float32():
    plain, other = both(4, 12)
    x = (torch.randn(2, 12, 8, 8) + 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        own = other(x)
    assert own.dtype == torch.float32
    torch.testing.assert_close(own, plain(x.float()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_it_is_compiled_into_the_kernels_of_a_gpu_alone(device, monkeypatch):
    compiled = []
    network = nn.Sequential(nn.GroupNorm(2, 4))
    monkeypatch.setattr(network, "compile", lambda: compiled.append(type(network[0]) is not nn.GroupNorm))
    compile_for(network, torch.device(device))
    assert compiled == [device == "cuda"]
