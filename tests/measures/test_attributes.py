"""What is measured on any image: known for images that are made to show it."""

import json

import pytest
import torch

from rcdm.data.colour import hsv_to_rgb
from rcdm.measures.attributes import Attributes, kept_by_draws, photo_attributes
from rcdm.measures.readers import attributes_of


def plain(hue: float, saturation: float = 1.0, value: float = 1.0, side: int = 16) -> torch.Tensor:
    """One colour, [1,3,side,side] in [-1,1]."""
    hsv = torch.tensor([hue, saturation, value]).view(1, 3, 1, 1).expand(1, 3, side, side)
    return hsv_to_rgb(hsv) * 2 - 1


def stripes(side: int = 16) -> torch.Tensor:
    """Upright grey stripes: brightness changes along x alone."""
    wave = torch.sin(torch.arange(side) * 1.2)
    return wave.expand(1, 3, side, side).clone()


@pytest.mark.parametrize("hue", [0.0, 0.2, 0.55, 0.99])
def test_hue_is_a_direction_on_the_circle(hue):
    turn = torch.tensor(2 * torch.pi * hue)
    read = photo_attributes(plain(hue))["hue"][0]
    assert torch.allclose(read, torch.stack([turn.cos(), turn.sin()]), atol=1e-3)


def test_hue_ignores_what_has_no_colour():
    half = torch.cat([plain(0.3, side=16)[..., :8], plain(0.8, saturation=0.0, side=16)[..., 8:]], 3)
    assert torch.allclose(photo_attributes(half)["hue"], photo_attributes(plain(0.3))["hue"], atol=1e-3)


def test_means_are_those_of_the_image():
    read = photo_attributes(plain(0.0, saturation=0.5, value=0.8))
    assert float(read["saturation"]) == pytest.approx(0.5, abs=1e-3)
    assert float(read["brightness"]) == pytest.approx(0.8, abs=1e-3)
    assert float(read["warmth"]) == pytest.approx(0.8 - 0.4, abs=1e-3)
    assert float(read["contrast"]) == pytest.approx(0.0, abs=1e-4)


def test_edges_turn_to_the_opposite_with_a_quarter_turn():
    upright, lying = (photo_attributes(image)["edges"][0] for image in (stripes(), torch.rot90(stripes(), 1, (2, 3))))
    assert torch.allclose(upright, torch.tensor([1.0, 0.0]), atol=1e-3)
    assert torch.allclose(lying, -upright, atol=1e-3)


def test_blurring_lowers_sharpness_and_contrast():
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    soft = torch.nn.functional.avg_pool2d(noise, 3, 1, 1, count_include_pad=False)
    sharp, blurred = photo_attributes(noise), photo_attributes(soft)
    assert blurred["sharpness"] < sharp["sharpness"] and blurred["contrast"] < sharp["contrast"]


@pytest.mark.parametrize(("x", "y"), [(0, 0), (12, 4)])
def test_place_is_where_the_colour_is(x, y):
    image = plain(0.0, saturation=0.0)
    image[..., y : y + 4, x : x + 4] = plain(0.6, side=4)
    expected = torch.tensor([x + 1.5, y + 1.5]) / 7.5 - 1
    assert torch.allclose(photo_attributes(image)["place"][0], expected, atol=1e-4)


def test_a_grey_image_has_finite_attributes():
    assert all(phi.isfinite().all() for phi in photo_attributes(torch.zeros(2, 3, 16, 16)).values())


def test_a_checkpoint_without_a_reader_is_read_as_photographs(pipe, tiny_checkpoint):
    phi = photo_attributes(torch.rand(4, 3, 16, 16) * 2 - 1)
    assert kept_by_draws(attributes_of(pipe), phi) == {}
    metrics = tiny_checkpoint / "metrics.json"
    metrics.write_text(json.dumps({"spread": {"brightness": 0.5}}))
    try:
        kept = kept_by_draws(attributes_of(pipe), phi)
    finally:
        metrics.unlink()
    assert list(kept) == ["brightness"]
    assert kept["brightness"].value == pytest.approx(1 - float(phi["brightness"].var()) / 0.5)


def test_what_draws_keep_has_n_and_the_null_of_unconditional_draws():
    attributes = Attributes(photo_attributes, {"a": 2.0})
    phi, free = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    kept = kept_by_draws(attributes, {"a": phi}, {"a": free})["a"]
    assert kept.to_json() == {"value": 0.75, "n": 2, "null": 0.0}  # Var 0.5 and 2; no interval of 2 draws
    assert {"low", "high"} < set(kept_by_draws(attributes, {"a": torch.arange(3.0)[:, None]})["a"].to_json())
    with pytest.raises(ValueError, match="two draws"):
        kept_by_draws(attributes, {"a": phi[:1]})
