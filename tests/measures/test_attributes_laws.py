"""Attributes of images for which they can be worked out with a pencil."""

import json
import math

import pytest
import torch

from rcdm.data.colour import hsv_to_rgb
from rcdm.measures.attributes import Attributes, kept_by_draws, photo_attributes
from rcdm.measures.metrics import jackknife, variance
from rcdm.measures.readers import attributes_of


def coloured(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Fields [H,W] in [0,1] -> [1,3,H,W] in [-1,1]."""
    return hsv_to_rgb(torch.stack([hue, saturation, value])[None]) * 2 - 1


def test_a_vivid_and_bright_half_outweighs_a_pale_and_dark_one():
    left = torch.zeros(8, 8)
    left[:, :4] = 1
    image = coloured(0.25 * left, 0.2 + 0.6 * left, 0.4 + 0.4 * left)  # hue 0.25 with weight 0.64, hue 0 with 0.08
    direction = torch.tensor([0.08, 0.64]) / math.hypot(0.08, 0.64)
    assert torch.allclose(photo_attributes(image)["hue"][0], direction, atol=1e-3)


def test_contrast_and_sharpness_of_one_bright_pixel():
    """Of luma with one pixel a brighter: the Laplacian is -4a there and a at its four neighbours."""
    a, n = 0.5, 12
    grey = torch.zeros(1, 3, n, n)
    grey[..., 6, 6] = 2 * a  # images reach from -1 to 1, luma from 0 to 1
    found = photo_attributes(grey)
    inside = (n - 2) ** 2
    assert float(found["sharpness"]) == pytest.approx(math.log(20 * a**2 / (inside - 1) + 1e-6), rel=1e-4)
    assert float(found["contrast"]) == pytest.approx(a / n, rel=1e-3)  # a √(1/N) for N pixels


def test_sharpness_does_not_see_a_slope_and_stays_finite():
    ramp = torch.linspace(-0.8, 0.8, 16).expand(1, 3, 16, 16)
    assert float(photo_attributes(ramp)["sharpness"]) == pytest.approx(math.log(1e-6), abs=1e-2)


def test_edges_at_an_angle_are_doubled_and_weighted_by_their_strength():
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    for angle in (0.3, 1.0, 2.5):
        ramp = ((math.cos(angle) * x + math.sin(angle) * y) * 0.05 - 0.4).expand(1, 3, 16, 16)
        expected = torch.tensor([math.cos(2 * angle), math.sin(2 * angle)])
        assert torch.allclose(photo_attributes(ramp)["edges"][0], expected, atol=1e-3)
    strong, weak = (0.09 * x[:, :8] - 0.7).expand(1, 3, 16, 8), (0.03 * y[:, 8:] - 0.2).expand(1, 3, 16, 8)
    both = photo_attributes(torch.cat([strong, weak], 3))["edges"][0]
    assert both[0] > 0.9  # upright edges are three times as strong as lying ones


def test_place_of_a_wide_image_has_its_own_scale_along_each_side():
    image = torch.zeros(1, 3, 9, 17)
    image[:, 0, 4, 16], image[:, 1:, 4, 16] = 1, -1
    assert torch.allclose(photo_attributes(image)["place"][0], torch.tensor([1.0, 0.0]), atol=1e-5)
    image = torch.zeros(1, 3, 9, 17)
    image[:, 0, 0, 4], image[:, 1:, 0, 4] = 1, -1
    assert torch.allclose(photo_attributes(image)["place"][0], torch.tensor([-0.5, -1.0]), atol=1e-5)


def test_what_lies_outside_of_the_range_is_its_end():
    x = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2).requires_grad_()
    found, clipped = photo_attributes(x), photo_attributes(x.clamp(-1, 1))
    assert not any(phi.requires_grad for phi in found.values())
    assert all(torch.equal(found[name], clipped[name]) for name in found)


@pytest.mark.parametrize("k", [3, 5, 8])
def test_the_interval_of_what_is_kept_is_the_jackknife_of_its_value(k):
    phi = torch.randn(k, 2, generator=torch.Generator().manual_seed(1))
    attributes = Attributes(photo_attributes, {"a": 2.0})
    kept = kept_by_draws(attributes, {"a": phi, "unknown": phi}, {"a": phi, "unknown": phi})
    known = jackknife(lambda i: 1 - float(variance(phi[i])) / 2, k, folds=k)
    assert list(kept) == ["a"] and kept["a"].n == k and kept["a"].null == kept["a"].value
    assert (kept["a"].value, kept["a"].low, kept["a"].high) == pytest.approx((known.value, known.low, known.high))
    assert set(kept_by_draws(attributes, {"a": phi})["a"].to_json()) == {"value", "n", "low", "high"}


def test_a_checkpoint_that_was_evaluated_knows_the_spread(pipe, tiny_checkpoint):
    metrics = tiny_checkpoint / "metrics.json"
    assert attributes_of(pipe).spread == {} and attributes_of(pipe).read is photo_attributes
    metrics.write_text(json.dumps({"n": 3}))
    try:
        assert attributes_of(pipe).spread == {}
        metrics.write_text(json.dumps({"spread": {"warmth": 0.5}}))
        assert attributes_of(pipe).spread == {"warmth": 0.5}
    finally:
        metrics.unlink()
