"""Views and objectives."""

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from rcdm.data import sprites, views
from rcdm.data.views import ViewStrengths, random_view
from rcdm.ssl.objectives import OBJECTIVES
from rcdm.ssl.pretraining_config import DRAWN_WORLD, OBJECTIVE_NAMES

OFF = vars(ViewStrengths().scaled(0))


def world(n: int = 16) -> torch.Tensor:
    return sprites.render(sprites.sample_factors(n, seed=0))


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_views_of_strength_zero_are_the_images():
    assert torch.equal(random_view(world(), ViewStrengths(**OFF), stream()), world())


def test_a_certain_flip_is_a_mirror_image():
    view = random_view(world(), ViewStrengths(**OFF | {"flip": 1.0}), stream())
    assert torch.allclose(view, world().flip(3), atol=1e-5)


def test_a_certain_greyscale_is_torchvisions():
    view = random_view(world(), ViewStrengths(**OFF | {"grey": 1.0}), stream())
    grey = tv.rgb_to_grayscale((world() + 1) / 2, num_output_channels=3) * 2 - 1
    assert torch.allclose(view, grey, atol=1e-3)


def test_jitter_is_torchvisions_with_the_parameters_of_each_image(monkeypatch):
    drawn = []

    def recorded(like, low, high, generator):
        values = torch.empty(len(like), 1, 1, 1).uniform_(low, high, generator=generator)
        drawn.append(values.flatten())
        return values

    monkeypatch.setattr(views, "_uniform", recorded)
    rgb = (world() + 1) / 2
    jittered = views._jitter(rgb, ViewStrengths(**OFF | {"jitter": 0.5, "hue": 0.2}), stream(1))
    brightness, contrast, saturation, hue = drawn
    for i, image in enumerate(rgb):
        image = tv.adjust_brightness(image, float(brightness[i]))
        image = tv.adjust_contrast(image, float(contrast[i]))
        image = tv.adjust_saturation(image, float(saturation[i]))
        image = tv.adjust_hue(image, float(hue[i]))
        assert torch.allclose(jittered[i], image, atol=2e-3)


def test_crops_keep_the_colours_and_move_the_shape():
    images = torch.cat([world(1)] * 64)
    crops = random_view(images, ViewStrengths(**OFF | {"crop": 0.5}), stream())
    assert crops.shape == images.shape and crops.min() >= -1 and crops.max() <= 1
    assert (crops - images).abs().mean((1, 2, 3)).min() > 0.001
    assert len({round(float(crop.mean()), 4) for crop in crops}) > 50


def test_every_image_gets_its_own_view_and_the_stream_repeats_it():
    images = torch.cat([world(1)] * 8)
    first, again = (random_view(images, ViewStrengths(), stream(2)) for _ in range(2))
    assert torch.equal(first, again)
    assert len(first.flatten(1).unique(dim=0)) == 8


@pytest.mark.parametrize("name", list(OFF))
def test_a_strength_out_of_range_is_refused(name):
    with pytest.raises(ValueError, match=name):
        ViewStrengths(**{name: 9.5})


def fixed(*values: float):
    """Stands in for the random parameters: the next of `values` for every image."""
    queue = iter(values)
    return lambda like, low, high, generator: torch.full((len(like), 1, 1, 1), next(queue))


@pytest.mark.parametrize(("left", "top"), [(0, 0), (16, 8), (7, 3)])
def test_a_crop_is_torchvisions_of_the_same_box(monkeypatch, left, top):
    # flip drawn above its probability; half the side, square; offsets that put the box on whole pixels
    offsets = [(start + 8) / 8 - 2 for start in (left, top)]
    monkeypatch.setattr(views, "_uniform", fixed(1.0, 0.25, 0.0, *offsets))
    crop = random_view(world(), ViewStrengths(**OFF | {"crop": 0.9}))
    expected = tv.resized_crop(world(), top, left, 16, 16, [32, 32], antialias=True)
    assert torch.allclose(crop, expected, atol=1e-5)


@pytest.mark.parametrize("deviation", [0.3, 1.0, 2.0])
def test_a_blur_is_torchvisions_with_the_deviation_of_each_image(monkeypatch, deviation):
    monkeypatch.setattr(views, "_uniform", fixed(deviation))
    rgb = (world() + 1) / 2
    blurred = views._blur(rgb, ViewStrengths(**OFF | {"blur": 2.0}), stream())
    assert torch.allclose(blurred, tv.gaussian_blur(rgb, [13, 13], [deviation]), atol=1e-5)


def test_a_certain_solarising_is_torchvisions():
    view = random_view(world(), ViewStrengths(**OFF | {"solarize": 1.0}), stream())
    assert torch.allclose(view, tv.solarize((world() + 1) / 2, 0.5) * 2 - 1, atol=1e-5)


def test_scaled_strengths_reach_from_nothing_to_all():
    full = DRAWN_WORLD["views"]
    assert full.scaled(1.0) == full and set(vars(full.scaled(0)).values()) == {0}


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "supervised"])
def test_agreeing_views_cost_less_than_shuffled_ones(name):
    torch.manual_seed(0)
    objective, z = OBJECTIVES[name](16, 8, 6), torch.randn(64, 8)
    labels, near = torch.arange(64), z + 0.05 * torch.randn(64, 8)

    def loss(other):
        if hasattr(objective, "predictor"):
            # a predictor that is random tells nothing: the identity stands in for a trained one
            objective.predictor = torch.nn.Identity() if name == "byol" else objective.predictor
        return objective.eval()(z, other, labels, (z, other))

    assert loss(near) < loss(near.roll(1, 0))


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_trains_its_projector(name):
    torch.manual_seed(0)
    objective = OBJECTIVES[name](16, 8, 6)
    z = objective.projector(torch.randn(64, 16)).chunk(2)
    objective(z[0], z[-1], torch.arange(32) % 6, tuple(part.detach() for part in z)).backward()
    gradients = [parameter.grad for parameter in objective.projector.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients) and any(g.abs().sum() > 0 for g in gradients)


def test_the_command_knows_every_objective():
    assert tuple(OBJECTIVES) == OBJECTIVE_NAMES


def test_objectives_without_their_target_say_so():
    with pytest.raises(ValueError, match="target network"):
        OBJECTIVES["byol"](16, 8, 6)(torch.randn(4, 8), torch.randn(4, 8), torch.zeros(4))
