"""The attack stays within its bound and finds more than chance; without strength it is plain drawing."""

import pytest
import torch

from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.studies import STUDIES
from rcdm.studies.adversarial import attack


def world(n: int = 3) -> torch.Tensor:
    return sprites.render(sprites.sample_factors(n, seed=2), 16)


def test_the_attack_stays_within_its_bound_and_beats_a_random_change(pipe):
    x, epsilon = world(), 4 / 255

    def encode(images):
        return pipe.sources["tiny/projector"](images)

    hostile = attack(encode, x, epsilon)
    assert (hostile - x).abs().max() <= epsilon + 1e-6 and hostile.abs().max() <= 1
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    random = (x + epsilon * signs).clamp(-1, 1)
    assert (encode(hostile) - encode(x)).norm() > 2 * (encode(random) - encode(x)).norm()
    assert all(parameter.grad is None for parameter in pipe.sources.parameters())
    assert torch.equal(attack(encode, x, 0.0), x)


def test_without_strength_the_study_draws_plainly(pipe):
    result = STUDIES["adversarial"](pipe, world(), sources=["tiny/layer2"], seeds=[7], steps=2)
    assert len(result.images) == len(result.rows) * len(result.columns) == 2 * len(world()[:4]) * 6
    assert result.rows[:2] == ("tiny/layer2, image 0, attacked", "tiny/layer2, image 0, drawn")
    plain = pipe(world()[:1], source="tiny/layer2", seeds=[7], output_type="pt").images
    assert (im.to_tensor(result.images[6], 16) - plain).abs().max() <= 2 / 127.5
    found = result.numbers["sources"]["tiny/layer2"]
    assert found["distance"][0]["value"] == found["random"][0]["value"] == 0
    values = [number["value"] for number in found["distance"]]
    assert values == sorted(values) and values[-1] > found["random"][-1]["value"]


def test_class_flips_are_counted_where_a_class_can_be_read(pipe, monkeypatch):
    class Reader:
        spread: dict[str, float] = {}  # noqa: RUF012

        @staticmethod
        def read(images):
            bright = (images.mean((1, 2, 3)) > images.mean()).long()
            return {"shape": torch.nn.functional.one_hot(bright, 2).float()}

    monkeypatch.setattr("rcdm.studies.adversarial.attributes_of", lambda pipe: Reader)
    found = STUDIES["adversarial"](pipe, world(), sources=["tiny/layer2"], steps=2).numbers["sources"]["tiny/layer2"]
    assert found["flips"][0]["value"] == 0 and all(0 <= number["value"] <= 1 for number in found["flips"])


def test_one_image_is_too_few(pipe):
    with pytest.raises(ValueError, match="at least 2 images"):
        STUDIES["adversarial"](pipe, world(1), sources=["tiny/layer2"])
