"""The width control: what is lost by fewer dimensions, apart from what is lost by invariance."""

import json

import pytest
import torch

from rcdm.data import sprites
from rcdm.measures.attributes import Attributes
from rcdm.studies import STUDIES
from rcdm.studies.width import Principal, _steps

PAIR = ("tiny/backbone", "tiny/projector")


def world(n: int, seed: int = 2) -> torch.Tensor:
    return sprites.render(sprites.sample_factors(n, seed), 16)


@pytest.fixture(autouse=True)
def _colour(monkeypatch):
    read = Attributes(lambda images: {"colour": images.mean((2, 3))}, {})
    monkeypatch.setattr("rcdm.studies.width.attributes_of", lambda pipe: read)


def test_all_components_are_the_representation_itself():
    h = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 3
    assert torch.allclose(Principal.fit(h, 6).restore(h), h, atol=1e-4)
    two = Principal.fit(h, 2)
    assert two.coordinates(h).shape == (50, 2)
    assert torch.linalg.matrix_rank(two.restore(h) - h.mean(0), atol=1e-3) == 2
    left = [float((Principal.fit(h, k).restore(h) - h).square().sum()) for k in range(1, 7)]
    assert left == sorted(left, reverse=True)


def test_the_parts_add_up_to_the_whole_difference(pipe):
    options = {"reference": world(60, seed=3), "drawn_images": 4, "num_inference_steps": 2}
    result = STUDIES["width"](pipe, world(12), sources=PAIR, seeds=[0, 1], **options)
    assert len(result.images) == len(result.rows) * len(result.columns)
    assert result.rows[0] == PAIR[0] and result.rows[-1] == PAIR[1] and "tiny/backbone, 8 components" in result.rows
    widths = [found["width"] for found in result.numbers["sources"].values()]
    assert widths[:2] == [32, 8] and widths[2] < 8 and widths[3] == 8
    for measures in result.numbers["networks"]["tiny"].values():
        for measure in ("ridge", "retention"):
            values = [result.numbers["sources"][name][measure]["colour"]["value"] for name in PAIR]
            steps = measures[measure]["colour"]
            total = steps["by_width"]["value"] + steps["by_invariance"]["value"]
            assert total == pytest.approx(values[0] - values[1], abs=1e-4)
        bits = [result.numbers["sources"][name]["bits"]["value"] for name in PAIR]
        steps = measures["bits"]["all"]
        total = steps["by_width"]["value"] + steps["by_invariance"]["value"]
        assert total == pytest.approx(bits[0] - bits[1], abs=1e-3) and steps["by_width"]["n"] == 4
    json.dumps(result.numbers)


def test_what_no_dimension_carries_is_not_lost_by_width():
    loss, phi = torch.rand(40), torch.randn(40, 1)
    found = _steps([loss, loss, loss + 0.5], phi)
    assert found["by_width"]["value"] == 0
    assert found["by_invariance"]["value"] == pytest.approx(0.5 / float(phi.var()), rel=1e-4)
    assert _steps([loss, loss + 2, loss + 2], None)["by_width"]["value"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 7}, "8 images"),
        ({"m": 10}, "20 reference"),
        ({"seeds": [0]}, "two seeds"),
        ({"sources": PAIR[:1]}, "name both"),
    ],
)
def test_the_width_control_refuses_what_it_cannot_do(pipe, changes, words):
    images, reference = world(changes.pop("n", 8)), world(changes.pop("m", 20))
    options = {"sources": PAIR, "seeds": [0, 1], **changes}
    with pytest.raises(ValueError, match=words):
        STUDIES["width"](pipe, images, reference=reference, **options)
