"""How a denoiser is laid out, and what its arguments mean."""

import pytest
import torch

from rcdm.diffusion.image_space import PixelSpace
from rcdm.diffusion.unet import RepresentationUNet, unet_arguments


def test_attention_stands_where_feature_maps_have_its_size_on_the_way_down_and_up():
    found = unet_arguments(64, channels=(64, 128, 192), attention_resolutions=(8, 16), space=PixelSpace(patch=2))
    assert (found["sample_size"], found["in_channels"], found["out_channels"]) == (32, 12, 12)
    assert [kind.startswith("Attn") for kind in found["down_block_types"]] == [False, True, True]  # 32, 16 and 8
    assert [kind.startswith("Attn") for kind in found["up_block_types"]] == [True, True, False]
    assert found["block_out_channels"] == (64, 128, 192) and found["layers_per_block"] == 2
    usual = unet_arguments(32, channels=(64, 128, 192))
    assert [kind.startswith("Attn") for kind in usual["down_block_types"]] == [False, False, True]
    assert usual["in_channels"] == 3


@pytest.mark.parametrize(("channels", "groups", "width"), [
    ((64, 128), 32, 64), ((32, 96), 32, 32), ((48, 96, 160), 16, 48), ((24, 40), 8, 24), ((4, 8), 4, 4),
    ((6, 10), 2, 6), ((5, 7), 1, 5), ((128, 256), 32, 64),
])  # fmt: skip
def test_norms_have_the_most_groups_that_divide_all_channels_and_heads_are_64_wide(channels, groups, width):
    found = unet_arguments(32, channels=channels)
    assert found["norm_num_groups"] == found["attn_norm_num_groups"] == groups
    assert found["attention_head_dim"] == width


def network(**options) -> RepresentationUNet:
    torch.manual_seed(1)
    arguments = unet_arguments(8, channels=(8, 16), attention_resolutions=(4,), layers_per_block=1)
    return RepresentationUNet({"a/backbone": 5}, arguments, **options).eval()


def test_a_scale_of_the_timestep_is_a_factor_of_it():
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 40.0])
    plain = network()
    for scale in (0.5, 2.0, 2.5):
        scaled = network(timestep_scale=scale)
        assert torch.allclose(scaled(x, t).sample, plain(x, scale * t).sample, atol=1e-6)
        assert not torch.allclose(scaled(x, t).sample, plain(x, t).sample, atol=1e-4)


def test_the_only_source_needs_no_name_and_the_result_may_be_a_tuple():
    unet, x, h = network(), torch.randn(2, 3, 8, 8), torch.randn(2, 5)
    named = unet(x, 10, h, "a/backbone").sample
    (bare,) = unet(x, 10, h, return_dict=False)
    assert torch.equal(named, bare) and unet.sources == ("a/backbone",) and unet.image_size == 8
    assert not torch.allclose(named, unet(x, 10).sample, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
def test_a_bias_of_the_projection_is_there_where_it_is_asked_for(bias):
    unet, x = network(projection_bias=bias), torch.randn(2, 3, 8, 8)
    nothing = unet(x, 10, torch.zeros(2, 5), "a/backbone").sample
    assert torch.allclose(nothing, unet(x, 10).sample, atol=1e-6) != bias
    assert network().config.has_unconditional is True and unet.config.projection_bias is bias


def test_a_sinusoid_of_another_width_and_other_heads_change_the_network_as_they_should():
    x = torch.randn(2, 3, 8, 8)
    wide = network(embedding_channels=24)
    assert wide.unet.time_embedding.linear_1.in_features == 24
    assert wide.unet.time_embedding.linear_2.out_features == 96
    assert torch.isfinite(wide(x, 10, torch.randn(2, 5), "a/backbone").sample).all()
    sinusoid = wide.unet.time_proj(torch.zeros(1))[0]
    assert torch.allclose(sinusoid[:12], torch.ones(12)) and torch.allclose(sinusoid[12:], torch.zeros(12))
    slow = wide.unet.time_proj(torch.tensor([1e-3]))[0, 12:] / 1e-3  # frequencies fall from 1 by 10,000^(-1/12) each
    assert torch.allclose(slow, 10_000 ** (-torch.arange(12) / 12), rtol=1e-3)
    same = network(embedding_channels=8)
    assert torch.equal(same(x, 10).sample, network()(x, 10).sample)
    heads = network(attention_heads=(2, 4))
    for name, module in heads.unet.named_modules():
        if hasattr(module, "heads"):
            expected = 4 if name.startswith("up_blocks") else 2
            assert module.heads == expected and module.scale == pytest.approx((16 / expected) ** -0.5)
    assert not torch.allclose(heads(x, 10).sample, network()(x, 10).sample, atol=1e-6)


def test_single_images_are_dropped_and_numbers_are_standardised_in_full_precision():
    unet, x, h = network(), torch.randn(3, 3, 8, 8), torch.randn(3, 5)
    drop = torch.tensor([False, True, False])
    mixed = unet(x, 10, h, "a/backbone", drop=drop).sample
    assert torch.allclose(mixed[1], unet(x, 10).sample[1], atol=1e-6)
    assert torch.allclose(mixed[~drop], unet(x, 10, h, "a/backbone").sample[~drop], atol=1e-6)
    unet.set_statistics("a/backbone", torch.full((5,), 100.0), torch.full((5,), 1e-3))
    far = 100 + 1e-3 * h
    with torch.autocast("cpu", torch.bfloat16):
        embedding, _ = unet._embed(far, "a/backbone")
    assert embedding.dtype == torch.float32
    assert torch.allclose(embedding, unet._embed(far, "a/backbone")[0])
    assert torch.allclose(unet.standardise(far, "a/backbone"), h, atol=0.02)
