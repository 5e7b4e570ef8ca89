"""Laws of the denoiser and of the sources."""

import pytest
import torch
from conftest import TINY_SOURCES, make_tiny_sources
from torch import nn

from rcdm.diffusion.image_space import PixelSpace
from rcdm.diffusion.unet import RepresentationUNet, unet_arguments
from rcdm.networks.projectors import projector_from
from rcdm.networks.representation import Preprocessing, SSLNetwork
from rcdm.networks.source_folder import load_network
from rcdm.ssl.objectives import OBJECTIVES


@pytest.fixture
def unet() -> RepresentationUNet:
    torch.manual_seed(1)
    arguments = unet_arguments(16, channels=(8, 16), attention_resolutions=(4,), space=PixelSpace(patch=2))
    return RepresentationUNet({"a/backbone": 6, "b/projector.0": 4}, arguments, {"kind": "pixels", "patch": 2}).eval()


def noisy() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 3, 16, 16), torch.tensor([10, 500, 999])


def test_dropping_every_representation_is_the_unconditional_denoiser(unet):
    x, t = noisy()
    dropped = unet(x, t, torch.randn(3, 6), "a/backbone", drop=torch.ones(3, dtype=torch.bool)).sample
    assert torch.allclose(dropped, unet(x, t).sample, atol=1e-6)


def test_the_mean_representation_says_nothing(unet):
    x, t = noisy()
    unet.set_statistics("a/backbone", torch.arange(6.0), torch.ones(6))
    assert torch.allclose(unet(x, t, torch.arange(6.0).expand(3, 6), "a/backbone").sample, unet(x, t).sample, atol=1e-6)


def test_standardising_inside_makes_units_irrelevant(unet):
    x, t = noisy()
    h = torch.randn(3, 6)
    plain = unet(x, t, h, "a/backbone").sample
    unet.set_statistics("a/backbone", torch.full((6,), 7.0), torch.full((6,), 100.0))
    assert torch.allclose(unet(x, t, 100 * h + 7, "a/backbone").sample, plain, atol=1e-5)


def test_mixed_sources_equal_single_ones(unet):
    x, t = noisy()
    h = torch.zeros(3, 6)
    h[[0, 2]] = torch.randn(2, 6)
    h[1, :4] = torch.randn(4)
    mixed = unet(x, t, h, ["a/backbone", "b/projector.0", "a/backbone"]).sample
    assert torch.allclose(mixed[[0, 2]], unet(x[[0, 2]], t[[0, 2]], h[[0, 2]], "a/backbone").sample, atol=1e-5)
    assert torch.allclose(mixed[1:2], unet(x[1:2], t[1:2], h[1:2, :4], "b/projector.0").sample, atol=1e-5)


def test_every_parameter_learns_from_a_batch_that_covers_all_sources(unet):
    x, t = noisy()
    unet(x, t, torch.randn(3, 6), ["a/backbone", "b/projector.0", "a/backbone"]).sample.square().mean().backward()
    assert all(p.grad is not None for p in unet.parameters())


@pytest.mark.parametrize(
    ("h", "source", "words"),
    [
        (torch.zeros(3, 5), "a/backbone", "6 dimensions, not 5"),
        (torch.zeros(3, 6), "c", "choose one of"),
        (torch.zeros(3, 6), None, "needs its source"),
        (torch.zeros(3, 6), ["a/backbone"], "3 representations"),
        (torch.zeros(3, 4), ["a/backbone", "a/backbone", "b/projector.0"], "widest"),
    ],
)
def test_a_representation_that_does_not_fit_is_refused(unet, h, source, words):
    x, t = noisy()
    with pytest.raises(ValueError, match=words):
        unet(x, t, h, source)


def test_levels_are_the_outputs_of_their_modules():
    sources = make_tiny_sources()
    network = sources.networks["tiny"]
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    h = network.backbone(x)
    assert torch.allclose(sources["tiny/backbone"](x), h)
    assert torch.allclose(sources["tiny/projector"](x), network.projector(h))
    assert torch.allclose(sources["tiny/projector.0"](x), network.projector[0](h))
    assert sources["tiny/layer2"](x).shape == (2, 8)


def test_a_source_is_frozen_but_lets_gradients_through_to_the_image():
    sources = make_tiny_sources()
    sources.train()
    assert not any(module.training for module in sources.modules())
    assert not any(p.requires_grad for p in sources.parameters())
    x = torch.zeros(1, 3, 16, 16, requires_grad=True)
    sources["tiny/projector"](x).sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0


def test_preprocessing_is_the_networks_own():
    x = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    out = Preprocessing(8, mean=(0.2, 0.5, 0.4), std=(0.1, 0.25, 0.5))(x)
    assert torch.allclose(out[0, :, 0, 0], torch.tensor([-2.0, 0.0, 1.2]), atol=1e-6)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.zeros(3, 16, 16), torch.zeros(2, 1, 16, 16)],
    ids=["uint8", "no batch", "grey"],
)
def test_a_source_says_what_images_it_takes(images):
    with pytest.raises(ValueError, match=r"float tensor \[B,3,H,W\]"):
        make_tiny_sources()["tiny/backbone"](images)


def test_an_image_has_the_same_representation_alone_and_in_a_batch():
    sources, images = make_tiny_sources(), torch.rand(5, 3, 20, 20) * 2 - 1
    for name in sources:
        together = sources[name](images)
        alone = torch.cat([sources[name](image[None]) for image in images])
        assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_representation_is_the_same_on_a_gpu():
    images = torch.rand(5, 3, 20, 20) * 2 - 1
    on_cpu, on_gpu = make_tiny_sources()["tiny/projector"], make_tiny_sources().to("cuda")["tiny/projector"]
    assert torch.allclose(on_cpu(images), on_gpu(images.to("cuda")).cpu(), atol=1e-2)  # TF32 products


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_projector_is_rebuilt_from_its_tensors_alone(objective):
    torch.manual_seed(0)
    projector = OBJECTIVES[objective](32, 8, 3).projector
    projector(torch.randn(64, 32))
    h = torch.randn(5, 32)
    rebuilt = projector_from(projector.state_dict())
    assert torch.equal(rebuilt.eval()(h), projector.eval()(h))


def test_what_is_no_source_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a source folder"):
        load_network(tmp_path)


def test_unknown_level_lists_the_levels():
    sources = make_tiny_sources()
    with pytest.raises(ValueError, match=r"layer1, layer2.*projector"):
        sources["tiny/layer9"]
    assert set(sources.names) == set(TINY_SOURCES)
    assert isinstance(sources.networks["tiny"], SSLNetwork) and isinstance(sources, nn.Module)
