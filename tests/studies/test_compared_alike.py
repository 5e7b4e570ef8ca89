"""What is compared differs in one thing alone: same noise, same guidance, whatever the angle begins with."""

import math

import pytest
import torch
from torch import Tensor

from rcdm.data import sprites
from rcdm.data.transformations import Transformation
from rcdm.measures.attributes import Attributes
from rcdm.studies import STUDIES, invariance
from rcdm.studies.manipulation import moves

BOTH = ("tiny/backbone", "tiny/projector")


def world(n: int, seed: int = 2) -> Tensor:
    return sprites.render(sprites.sample_factors(n, seed), 16)


@pytest.mark.parametrize("seeds", [(0,), (3, 4)])
def test_an_image_that_becomes_another_one_is_seen_to_change_by_one(pipe, seeds, monkeypatch):
    made = {"roll": lambda images, _: images.roll(1, 0), "nothing": lambda images, _: images}
    known = {name: Transformation(apply, (1.0,), "images", False) for name, apply in made.items()}
    monkeypatch.setattr(invariance, "TRANSFORMATIONS", known)
    result = STUDIES["invariance"](pipe, world(5), sources=BOTH, seeds=seeds, num_inference_steps=3)
    for source in BOTH:
        one = result.numbers["transformations"]["roll"]["sources"][source]["seen"][0]
        assert one["value"] == pytest.approx(1, abs=1e-3) and one["low"] == pytest.approx(1, abs=1e-3)
        nothing = result.numbers["transformations"]["nothing"]["sources"][source]["seen"][0]
        assert nothing["value"] == pytest.approx(0, abs=1e-3)


def test_levels_that_are_guided_differently_are_reduced_without_guidance(pipe, monkeypatch):
    read = Attributes(lambda images: {"colour": images.mean((2, 3))}, {})
    monkeypatch.setattr("rcdm.studies.width.attributes_of", lambda pipe: read)
    options = {"sources": BOTH, "seeds": [0, 1], "reference": world(40, 3), "drawn_images": 4, "num_inference_steps": 2}

    def found(**guidance: dict[str, float]):
        pipe.use_guidance(**guidance)
        return STUDIES["width"](pipe, world(12), **options)

    plain, apart, alike = (
        found(), found(scales={BOTH[0]: 2.0}), found(scales=dict.fromkeys(BOTH, 2.0)),
    )  # fmt: skip
    assert "unguided" not in plain.numbers and "unguided" not in alike.numbers
    assert apart.numbers["unguided"] == {"tiny": "guided: guidance 2, and not"}
    assert "drawn without guidance" in apart.summary and apart.numbers["networks"] == plain.numbers["networks"]
    assert alike.numbers["networks"] != plain.numbers["networks"]


def test_an_angle_moves_alike_wherever_it_begins():
    """Every step turns the hue by 1/20; images begin all round the circle."""
    starts, steps = torch.linspace(0, 1, 9)[:-1], torch.tensor([-2.0, -1, 0, 1, 2])
    turns = starts[:, None, None, None] + 0.05 * steps[None, None, :, None]  # [N,W,E,K]
    pictures = turns[..., None, None, None].expand(-1, -1, -1, -1, 1, 1, 2)

    def read(flat: Tensor) -> dict[str, Tensor]:
        angle = 2 * math.pi * flat[:, 0, 0, 0]
        return {"hue": torch.stack([angle.cos(), angle.sin()], 1), "level": flat[:, 0, 0, :1]}

    for n in (1, 8):
        found = moves(pictures[:n], ["way"], steps, Attributes(read, {"hue": 1.0, "level": 1.0}))["way"]
        step = 2 * math.pi * 0.05
        assert found["hue"] == pytest.approx((math.sin(step) + 2 * math.sin(2 * step)) / 5, rel=1e-4)  # of sines: 0.3
        assert found["level"] == pytest.approx(0.05, rel=1e-4)
