"""Transformations of images, and the study of what follows them."""

import pytest
import torch

from rcdm.data import sprites
from rcdm.data import transformations as tr
from rcdm.studies import STUDIES
from rcdm.studies.invariance import _path, _slope


def world(n: int = 3, size: int = 32) -> torch.Tensor:
    return sprites.render(sprites.sample_factors(n, seed=2), size)


NOTHING = {"shift": 0.0, "zoom": 1.0, "rotation": 0.0, "hue": 0.0, "saturation": 1.0, "brightness": 1.0}
NOTHING |= {"greyscale": 0.0, "blur": 0.0, "noise": 0.0, "mask": 0.0, "flip": 0, "vertical flip": 2}


@pytest.mark.parametrize("name", list(NOTHING))
def test_the_strength_of_nothing_changes_nothing(name):
    assert torch.allclose(tr.TRANSFORMATIONS[name].apply(world(), NOTHING[name]), world(), atol=1e-4)


@pytest.mark.parametrize("name", list(tr.TRANSFORMATIONS))
def test_stronger_is_further_away_and_stays_in_range(name):
    what = tr.TRANSFORMATIONS[name]
    changed = [what.apply(world(), strength) for strength in what.strengths]
    assert all(images.shape == world().shape and images.abs().max() <= 1 + 1e-5 for images in changed)
    far = [float((images - world()).square().mean()) for images in changed]
    assert far[0] > 0 and (name == "rotation" or far == sorted(far))
    assert torch.equal(changed[-1], what.apply(world(), what.strengths[-1]))


def test_a_quarter_turn_is_a_rotation_by_90_degrees():
    assert torch.allclose(tr.rotate(world(), 90), tr.rotate_quarters(world(), -1), atol=1e-4)


def test_a_shift_moves_the_sprite_by_its_share():
    factors = sprites.sample_factors(4, seed=1)
    moved = sprites.render(sprites.Factors(**{**vars(factors), "x": factors.x + 0.25}), 32)
    plain = sprites.render(factors, 32)
    shifted = tr.shift(plain, 0.125)
    assert (shifted - moved)[..., 8:].abs().mean() < 0.1 * (plain - moved)[..., 8:].abs().mean() + 0.02


def test_the_mask_covers_its_share():
    covered = tr.mask(torch.ones(1, 3, 32, 32), 0.25)
    assert float((covered == 0).float().mean()) == pytest.approx(0.25)


class Reader:
    spread: dict[str, float] = {}  # noqa: RUF012

    @staticmethod
    def read(images):
        """The hue of the mean colour as an angle, and the mean brightness."""
        mean = images.mean((2, 3))
        x, y = mean[:, 0] - mean[:, 1:].mean(1), 0.75**0.5 * (mean[:, 1] - mean[:, 2])
        return {
            "hue": torch.nn.functional.normalize(torch.stack([x, y], 1), dim=1),
            "brightness": mean.mean(1)[:, None],
        }


def test_an_angle_is_followed_past_half_a_turn():
    images = tr.shift_hue(world(8), 0.0)
    ladder = [tr.shift_hue(images, turns) for turns in (0.0, 0.2, 0.4, 0.6, 0.8)]
    path = _path(Reader, "hue", ladder)
    assert path.shape == (8, 4, 1)
    assert torch.allclose(path.mean(0)[:, 0].abs(), torch.tensor([0.2, 0.4, 0.6, 0.8]), atol=0.05)


def test_the_slope_is_one_for_what_follows_and_zero_for_what_stays():
    given = torch.randn(20, 4, 1)
    assert _slope(given, given).value == pytest.approx(1) and _slope(0 * given, given).value == 0


def test_the_study_of_no_transformation_finds_no_change(pipe, monkeypatch):
    nothing = tr.Transformation(lambda images, _: images, (1.0, 2.0), "times", True, ("brightness",))
    monkeypatch.setitem(tr.TRANSFORMATIONS, "nothing", nothing)
    monkeypatch.setattr("rcdm.studies.invariance.attributes_of", lambda pipe: Reader)
    result = STUDIES["invariance"](pipe, world(size=16), sources=["tiny/layer2"], seeds=[0, 1], only="nothing")
    found = result.numbers["transformations"]["nothing"]["sources"]["tiny/layer2"]
    assert [n["value"] for n in found["alignment"] + found["seen"]] == [0, 0, 0, 0]


def test_the_study_has_the_shape_it_promises(pipe, monkeypatch):
    monkeypatch.setattr("rcdm.studies.invariance.attributes_of", lambda pipe: Reader)
    sources = ["tiny/backbone", "tiny/projector"]
    result = STUDIES["invariance"](pipe, world(size=16), sources=sources, only="hue, jpeg")
    assert len(result.images) == len(result.rows) * len(result.columns) == 2 * (3 * 3) * 6
    assert result.rows[:2] == ("hue, image 0", "hue, image 0, tiny/backbone")
    hue, jpeg = (result.numbers["transformations"][name] for name in ("hue", "jpeg"))
    assert len(hue["sources"]["tiny/backbone"]["alignment"]) == 5 and hue["in_views"] and not jpeg["in_views"]
    assert hue["sources"]["tiny/projector"]["transport"]["attribute"] == "hue"
    assert "transport" not in jpeg["sources"]["tiny/projector"]
    number = jpeg["sources"]["tiny/backbone"]["seen"][0]
    assert number["n"] == 3 and number["null"] == 1


@pytest.mark.parametrize(("changes", "words"), [({"only": "magic"}, "choose of flip"), ({"n": 1}, "at least 2 images")])
def test_invariance_refuses_what_it_cannot_do(pipe, changes, words):
    images = world(changes.pop("n", 2), 16)
    with pytest.raises(ValueError, match=words):
        STUDIES["invariance"](pipe, images, sources=["tiny/layer2"], **changes)


def test_another_background_leaves_the_shape_alone():
    factors = sprites.sample_factors(6, seed=3)
    moved = sprites.exchange_grounds(factors)
    assert torch.equal(moved.shape, factors.shape) and torch.equal(moved.ground_hue, factors.ground_hue.roll(1))
    plain, other = sprites.render(factors, 32), sprites.render(moved, 32)
    covered = sprites._coverage(factors, *torch.meshgrid(*[(torch.arange(32) + 0.5) / 16 - 1] * 2, indexing="xy")) == 1
    change = (plain - other).abs().sum(1)
    assert change[covered].max() < 1e-5 and change[~covered].mean() > 0.1


def test_the_study_moves_towards_other_backgrounds_and_tells_transformations(pipe, monkeypatch):
    monkeypatch.setattr("rcdm.studies.invariance.attributes_of", lambda pipe: Reader)
    more = {"backgrounds": world(size=16).roll(1, 0), "probe_images": world(20, 16)}
    sources = ["tiny/backbone", "tiny/projector"]
    result = STUDIES["invariance"](pipe, world(size=16), sources=sources, only="background,flip", **more)
    found = result.numbers["transformations"]["background"]
    assert found["strengths"] == [0.25, 0.5, 1.0] and not found["in_views"]
    for source in sources:  # all the way, every image has become another one
        h = pipe.unet.standardise(pipe.encode(world(size=16), source), source)
        apart = float((h - h.roll(1, 0)).square().sum(1).mean())
        others = sum(float((h[i] - h[j]).square().sum()) for i in range(3) for j in range(3) if i != j) / 6
        assert found["sources"][source]["alignment"][-1]["value"] == pytest.approx(apart / others, rel=1e-3)
    told = result.numbers["transformation_probe"]
    assert list(told) == ["flip"] and told["flip"]["tiny/backbone"]["null"] == 0.5
    assert "telling flip" in result.summary


def test_backgrounds_are_refused_where_they_are_not_known(pipe):
    with pytest.raises(ValueError, match="no transformation 'background' here"):
        STUDIES["invariance"](pipe, world(size=16), sources=["tiny/layer2"], only="background")
