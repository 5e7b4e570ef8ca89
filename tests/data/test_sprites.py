"""The drawn world: what is drawn is what the factors say, and the reader reads it."""

import dataclasses
import json

import pytest
import torch

from rcdm.data import sprites
from rcdm.data.colour import hsv_to_rgb, rgb_to_hsv
from rcdm.diffusion.places import SHIPPED
from rcdm.measures.readers import Reader, evaluate_reader, load_reader, save_reader


def one(**changes):
    factors = {
        "shape": "arrow", "hue": 0.1, "size": 0.6, "rotation": 0.2, "x": 0.1, "y": -0.2,
        "ground_hue": 0.6, "ground_brightness": 0.5,
    }  # fmt: skip
    return sprites.make_factors(**{**factors, **changes})


def test_the_same_seed_draws_the_same_world():
    first, again = (sprites.render(sprites.sample_factors(8, seed=3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, sprites.render(sprites.sample_factors(8, seed=4)))


def test_an_image_does_not_depend_on_its_batch():
    factors = sprites.sample_factors(16, seed=0)
    assert torch.allclose(sprites.render(factors)[5:7], sprites.render(factors[5:7]), atol=1e-6)


@pytest.mark.parametrize("size", [16, 32, 100])
def test_images_are_in_range_at_any_resolution(size):
    x = sprites.render(sprites.sample_factors(12, seed=1), size)
    assert x.shape == (12, 3, size, size) and x.min() >= -1 and x.max() <= 1


def test_a_small_image_is_a_large_one_seen_from_afar():
    factors = sprites.sample_factors(24, seed=2)
    small, large = sprites.render(factors, 32), sprites.render(factors, 256)
    averaged = torch.nn.functional.avg_pool2d(large, 8)
    assert (small - averaged).abs().mean() < 0.01


@pytest.mark.parametrize("shape", sprites.SHAPES)
def test_no_shape_has_a_rotational_symmetry(shape):
    turned = [sprites.render(one(shape=shape, x=0.0, y=0.0, rotation=k / 12), 64) for k in range(12)]
    for other in turned[1:]:
        assert (turned[0] - other).abs().mean() > 0.02


@pytest.mark.parametrize("shape", sprites.SHAPES)
def test_hardly_anything_of_a_shape_is_ever_outside_the_image(shape):
    size, (low, high) = sprites.RANGES["size"][1], sprites.RANGES["x"]
    for rotation in torch.linspace(0, 1, 9)[:-1].tolist():
        whole = sprites._coverage(one(shape=shape, size=size, x=0.0, y=0.0, rotation=rotation), *_axes(64)).sum()
        for x, y in ((low, low), (high, low), (high, high)):
            factors = one(shape=shape, size=size, x=x, y=y, rotation=rotation)
            assert sprites._coverage(factors, *_axes(64)).sum() > 0.98 * whole


def _axes(size):
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def test_the_centre_and_the_corner_have_the_hues_they_should():
    factors = one(shape="arrow", x=0.0, y=0.0, hue=0.3, ground_hue=0.8)
    hue, saturation, value = rgb_to_hsv((sprites.render(factors, 64) + 1) / 2)[0]
    cover = sprites._coverage(factors, *_axes(64))[0]
    plain = (cover == 0) | (cover == 1)  # the soft edge mixes two hues
    assert hue[32, 32] == pytest.approx(0.3, abs=0.01) and hue[1, 1] == pytest.approx(0.8, abs=0.01)
    assert saturation[plain].min() > 0.3 and value[plain].min() > 0.3


def test_a_quarter_turn_is_a_rotated_picture():
    still = dataclasses.replace(one(x=0.0, y=0.0, rotation=0.0))
    turned = dataclasses.replace(one(x=0.0, y=0.0, rotation=0.25))
    a, b = (sprites._coverage(f, *_axes(64)) for f in (still, turned))
    assert torch.allclose(a.rot90(-1, (1, 2)), b, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"), [({"shape": "square"}, "arrow"), ({"size": 3.0}, "between"), ({"hat": 1.0}, "exactly")]
)
def test_factors_that_cannot_be_drawn_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        one(**change)


def test_hsv_goes_there_and_back():
    rgb = torch.rand(4, 3, 8, 8)
    assert torch.allclose(hsv_to_rgb(rgb_to_hsv(rgb)), rgb, atol=1e-5)


def test_a_reader_returns_valid_phi_and_survives_saving(tmp_path, monkeypatch):
    monkeypatch.setattr("rcdm.measures.readers.evaluate_reader", lambda reader: {})
    reader = Reader().eval()
    images = sprites.render(sprites.sample_factors(6, seed=0))
    save_reader(reader, tmp_path)
    read, again = reader.read(images), load_reader(tmp_path).read(images)
    for name, kind in sprites.KINDS.items():
        norm = read[name].square().sum(1)
        if kind != "number":
            assert torch.allclose(norm, torch.ones(6), atol=1e-5)
        assert torch.allclose(read[name], again[name], atol=0.05) or kind != "number"


def test_the_shipped_reader_reads_what_its_figures_say():
    folder = SHIPPED / "sprites-32" / "reader"
    recorded = json.loads((folder / "metrics.json").read_text())
    measured = evaluate_reader(load_reader(folder), n=1024)
    for name in sprites.KINDS:
        key = "accuracy" if name == "shape" else "value"
        assert measured["clean"][name][key] >= 0.97
        for case in ("clean", "blur 0.7 px, noise 0.05"):
            assert measured[case][name][key] == pytest.approx(recorded[case][name][key], abs=0.02)
