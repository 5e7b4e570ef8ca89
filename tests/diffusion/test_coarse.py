"""The coarse image: what its regression finds, and how the denoiser is given it."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_SOURCES, make_tiny_sources
from sklearn.linear_model import Ridge

import rcdm
from rcdm.diffusion.coarse import GAIN, PENALTIES, coarse_map
from rcdm.diffusion.image_space import PixelSpace
from rcdm.diffusion.process import velocity_scheduler
from rcdm.diffusion.unet import RepresentationUNet, unet_arguments

SIDE, PATCH = 4, 2
BACKBONE, PROJECTOR, LAYER = TINY_SOURCES


def made() -> RepresentationUNet:
    torch.manual_seed(1)
    widths = make_tiny_sources().widths()
    arguments = unet_arguments(16, channels=(8, 16), attention_resolutions=(4,), space=PixelSpace(patch=PATCH))
    arguments["in_channels"] += 3
    unet = RepresentationUNet(widths, arguments, {"kind": "pixels", "patch": PATCH}, coarse_size=SIDE).eval()
    for name, dim in widths.items():
        unet.set_statistics(name, torch.rand(dim), 0.5 + torch.rand(dim))
        unet.set_coarse(name, torch.randn(3 * SIDE**2, dim) / dim)
    return unet


@pytest.fixture
def unet() -> RepresentationUNet:
    return made()


def given(unet: RepresentationUNet, *args, **options) -> torch.Tensor:
    """The three channels that the U-Net sees beside the noisy image."""
    seen: list[torch.Tensor] = []
    hook = unet.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        unet(*args, **options)
    hook.remove()
    return seen[0][:, 3 * PATCH**2 :]


def test_a_linear_world_is_read_exactly_and_pure_noise_not_at_all():
    generator = torch.Generator().manual_seed(0)
    h, way = torch.randn(600, 6, generator=generator), torch.randn(6, 3 * SIDE**2, generator=generator)
    coarse = (h @ way + torch.rand(3 * SIDE**2, generator=generator)).unflatten(1, (3, SIDE, SIDE))
    images = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)  # 16 px, whose averages are the coarse images
    torch.testing.assert_close(coarse_map(h, images, SIDE), way.T, rtol=0.02, atol=0.02)
    apart = coarse_map(torch.randn(600, 6, generator=generator), images, SIDE)
    assert (h @ apart.T).var() < 0.05 * (h @ way).var()


def test_the_penalty_is_chosen_where_there_are_few_images():
    """As many numbers as images: without a penalty the regression is far worse on new images than the mean image."""
    generator = torch.Generator().manual_seed(0)
    way = torch.randn(120, 3, 1, 1, generator=generator) / 120**0.5

    def world(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.randn(n, 120, generator=generator)
        means = torch.einsum("nd,dcij->ncij", h, way) + 2 * torch.randn(n, 3, 1, 1, generator=generator)
        return h, means.expand(-1, -1, 4, 4)

    h, images = world(128)
    new, truth = world(1000)
    error = (new @ coarse_map(h, images, 1).T - truth[:, :, 0, 0]).square().mean()
    least = torch.linalg.lstsq(h, images[:, :, 0, 0]).solution
    assert error < 1.1 * truth[:, :, 0, 0].square().mean() < (new @ least - truth[:, :, 0, 0]).square().mean() / 5


def test_the_map_is_that_of_a_ridge_regression_of_another_library_with_one_of_the_penalties():
    generator = torch.Generator().manual_seed(0)
    h, mixed = 3 + torch.randn(400, 40, generator=generator), torch.randn(40, 3 * 16, generator=generator)
    images = torch.tanh(h @ mixed / 9).unflatten(1, (3, 4, 4))
    found = coarse_map(h, images, SIDE)
    for_each = [Ridge(len(h) * penalty).fit(h, images.flatten(1)).coef_ for penalty in PENALTIES]
    assert min(abs(found - torch.from_numpy(own)).max() for own in for_each) < 1e-5


@pytest.mark.parametrize("source", TINY_SOURCES)
def test_the_network_is_given_the_enlarged_image_of_standardised_h(unet: RepresentationUNet, source: str):
    x, h = torch.randn(3, 3, 16, 16), torch.randn(3, unet.config.sources[source])
    own = unet.projections[source]
    coarse = (unet.standardise(h, source) @ own.coarse.T).unflatten(1, (3, SIDE, SIDE))
    expected = GAIN * F.interpolate(coarse, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(given(unet, x, torch.tensor([9.0] * 3), h, source), expected)


def test_in_a_mixed_batch_each_image_has_its_own(unet: RepresentationUNet):
    x, t = torch.randn(4, 3, 16, 16), torch.tensor([9.0, 300, 800, 999])
    names = [BACKBONE, PROJECTOR, PROJECTOR, LAYER]
    rows = [torch.randn(1, unet.config.sources[name]) for name in names]
    widest = max(row.shape[1] for row in rows)
    together = torch.cat([F.pad(row, (0, widest - row.shape[1])) for row in rows])
    single = [given(unet, x[i : i + 1], t[i : i + 1], rows[i], name) for i, name in enumerate(names)]
    torch.testing.assert_close(given(unet, x, t, together, names), torch.cat(single))


def test_without_a_representation_there_is_none(unet: RepresentationUNet):
    x, t, h = torch.randn(2, 3, 16, 16), 500, torch.randn(2, unet.config.sources[BACKBONE])
    assert not given(unet, x, t).any()
    assert not given(unet, x, t, h, BACKBONE, drop=torch.tensor([True, True])).any()
    with torch.no_grad():
        _, free = unet.with_and_without(x, t, h, BACKBONE)
        torch.testing.assert_close(free, unet(x, t).sample)


def test_a_checkpoint_keeps_it_and_another_number_of_channels_is_refused(unet: RepresentationUNet, tmp_path: Path):
    pipe = rcdm.RCDMPipeline(unet, velocity_scheduler(), make_tiny_sources(), default_steps=2)
    pipe.save_pretrained(tmp_path / "a")
    again = rcdm.load(tmp_path / "a", device="cpu")
    x = torch.rand(2, 3, 16, 16)
    first, second = (p(x, source=BACKBONE, seeds=[0, 1], output_type="pt").images for p in (pipe, again))
    assert torch.equal(first, second)
    again.unet.set_coarse(BACKBONE, -unet.projections[BACKBONE].coarse)
    assert not torch.equal(first, again(x, source=BACKBONE, seeds=[0, 1], output_type="pt").images)
    arguments = unet_arguments(16, channels=(8, 16), space=PixelSpace(patch=PATCH))
    with pytest.raises(ValueError, match=r"takes 15 channels .* are 12 and 12"):
        RepresentationUNet({"a/b": 4}, arguments, {"kind": "pixels", "patch": PATCH}, coarse_size=SIDE)


def test_a_prior_with_coarse_images_is_guided_as_others_are(unet: RepresentationUNet, tmp_path: Path):
    rcdm.RCDMPipeline(unet, velocity_scheduler(), make_tiny_sources(), default_steps=2).save_pretrained(tmp_path / "a")
    pipe = rcdm.guided(str(tmp_path / "a"), make_tiny_sources(), prior_images=16)
    drawn = pipe(torch.rand(1, 3, 16, 16), source=BACKBONE, seeds=[0, 1], output_type="pt").images
    assert drawn.shape == (2, 3, 16, 16) and torch.isfinite(drawn).all()
