"""A denoiser that gets more residual blocks draws what it drew, and the new blocks learn."""

import pytest
import torch

from rcdm.diffusion.unet import RepresentationUNet, unet_arguments
from rcdm.training.deepening import deepened


def network(layers: int, seed: int = 0) -> RepresentationUNet:
    torch.manual_seed(seed)
    arguments = unet_arguments(16, channels=(8, 16, 24), attention_resolutions=(8,), layers_per_block=layers)
    unet = RepresentationUNet({"a/backbone": 5}, arguments)
    for parameter in unet.parameters():  # diffusers begins some layers at zero, which would hide them
        torch.nn.init.normal_(parameter, std=0.2)
    return unet


def deeper_one(before: int, after: int) -> tuple[RepresentationUNet, RepresentationUNet]:
    old, new = network(before), network(after, seed=1)
    new.load_state_dict(deepened(old.state_dict(), new.state_dict(), before, after))
    return old, new


@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, 3), (2, 3), (2, 4)])
def test_a_deeper_denoiser_predicts_what_the_one_before_it_did(before, after):
    old, new = deeper_one(before, after)
    x, t, h = torch.randn(3, 3, 16, 16), torch.tensor([3.0, 300.0, 999.0]), torch.randn(3, 5)
    with torch.no_grad():
        expected = old(x, t, h, "a/backbone").sample
        assert torch.allclose(new(x, t, h, "a/backbone").sample, expected, rtol=1e-4, atol=1e-4 * expected.std())
        assert expected.std() > 1e-3
    assert sum(p.numel() for p in new.parameters()) > sum(p.numel() for p in old.parameters())


def test_the_new_blocks_learn_from_the_first_step():
    _, new = deeper_one(1, 2)
    x, h = torch.randn(3, 3, 16, 16), torch.randn(3, 5)
    new(x, 100, h, "a/backbone").sample.square().mean().backward()
    fresh = [block.resnets[1] for block in (*new.unet.down_blocks, *new.unet.up_blocks)]
    assert len(fresh) == 6
    assert all(float(block.conv2.weight.grad.abs().max()) > 0 for block in fresh)
    attention = new.unet.up_blocks[1].attentions[1], new.unet.down_blocks[1].attentions[1]
    assert all(float(one.to_out[0].weight.grad.abs().max()) > 0 for one in attention)
