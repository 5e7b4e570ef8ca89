"""Retention, its paired differences and what probes say, in cases that are known."""

import pytest
import torch

from rcdm.data import sprites
from rcdm.measures.attributes import Attributes
from rcdm.measures.metrics import effective_rank, holm, jackknife, participation_ratio, rankme, sign_flip
from rcdm.measures.retention import agreement, below_zero, gaps
from rcdm.studies import STUDIES


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def world(n: int, seed: int = 2) -> torch.Tensor:
    return sprites.render(sprites.sample_factors(n, seed), 16)


COLOUR = Attributes(lambda images: {"colour": images.mean((2, 3))}, {})


def retain(pipe, n: int = 60):
    options = {"sources": ["tiny/backbone", "tiny/projector"], "seeds": range(4), "attributes": COLOUR}
    return STUDIES["retention"](pipe, world(n), probe_images=world(80, seed=5), **options).numbers


def test_a_pipeline_that_always_draws_the_same_image_keeps_everything(pipe, monkeypatch):
    def draw(h, source, seeds, **_):
        if h is None:
            return torch.rand(len(seeds), 3, 16, 16)
        return h[:, :3, None, None].tanh().expand(-1, -1, 16, 16)

    monkeypatch.setattr(pipe, "draw", draw)
    numbers = retain(pipe)
    for source in numbers["sources"].values():
        assert source["colour"]["value"] == pytest.approx(1, abs=1e-6)
    gap = numbers["differences"]["tiny"]["colour"]
    assert gap["value"] == pytest.approx(0, abs=1e-6) and gap["p"] == 1.0


def test_a_pipeline_that_draws_random_data_images_keeps_nothing(pipe, monkeypatch):
    pool = world(400, seed=9)
    monkeypatch.setattr(pipe, "draw", lambda h, source, seeds, **_: pool[torch.randint(400, (len(seeds),))])
    for source in retain(pipe)["sources"].values():
        assert source["colour"]["low"] <= 0 <= source["colour"]["high"]
        assert source["colour"]["null"] == pytest.approx(0, abs=0.25)


def test_draws_that_vary_more_than_the_images_are_said_to(pipe, monkeypatch):
    def draw(h, source, seeds, **_):
        return (2.0 * torch.randint(2, (len(seeds), 1, 1, 1)) - 1).expand(-1, 3, 16, 16)

    options = {"sources": ["tiny/backbone"], "seeds": range(4), "attributes": COLOUR}
    assert "below 0" not in STUDIES["retention"](pipe, world(20), **options).summary
    monkeypatch.setattr(pipe, "draw", draw)
    found = STUDIES["retention"](pipe, world(20), **options)
    assert found.numbers["sources"]["tiny/backbone"]["colour"]["high"] < 0
    assert "wholly below 0 (tiny/backbone colour)" in found.summary and "more steps" in found.summary
    assert below_zero({"a": {"b": {"value": -1.0, "low": -2.0, "high": 0.1}}}) == ""
    assert "and 2 more" in below_zero({"a": {name: {"high": -1} for name in "bcdef"}})


def test_the_difference_is_that_of_the_two_retentions(pipe):
    numbers = retain(pipe, n=12)
    gap, sources = numbers["differences"]["tiny"]["colour"], numbers["sources"]
    values = [sources[f"tiny/{level}"]["colour"]["value"] for level in ("backbone", "projector")]
    assert gap["value"] == pytest.approx(values[0] - values[1], abs=1e-4)
    assert gap["low"] <= gap["value"] <= gap["high"] and gap["n"] == 12 and gap["p"] <= gap["p_holm"]
    assert {"ridge", "probe"} <= set(sources["tiny/backbone"]["colour"]) and "agreement" not in numbers


def test_levels_that_are_guided_differently_are_not_compared(pipe):
    """What led draws keep beyond others is no difference of the two representations."""
    pipe.use_guidance({"tiny/backbone": 2.0})
    numbers = retain(pipe, n=12)
    assert "differences" not in numbers
    assert numbers["not_compared"] == {"tiny": "guided: guidance 2, and not"}
    options = {"sources": ["tiny/backbone", "tiny/projector"], "seeds": range(2), "attributes": COLOUR}
    summary = STUDIES["retention"](pipe, world(4), **options).summary
    assert "tiny, backbone − projector: left out" in summary and "--guidance-scale 1" in summary
    pipe.use_guidance(2.0)
    numbers = retain(pipe, n=12)
    assert list(numbers["differences"]) == ["tiny"] and "not_compared" not in numbers


def test_a_difference_that_is_there_is_found_and_one_that_is_not_is_not():
    n = 100
    given = {"kept": torch.randn(n, 1), "same": torch.randn(n, 1)}
    noise = torch.rand(n)
    within = {
        "a/backbone": {"kept": 0.1 * noise, "same": torch.rand(n)},
        "a/projector": {"kept": 0.1 * noise + 0.5 * torch.rand(n), "same": torch.rand(n)},
        "b/backbone": {"kept": noise, "same": noise},
    }
    found = gaps(within, given)
    assert list(found) == ["a"]
    assert found["a"]["kept"]["p_holm"] < 0.01 and found["a"]["kept"]["low"] > 0
    assert found["a"]["same"]["p_holm"] > 0.01


def test_sign_flips_and_holm_against_what_is_known():
    assert sign_flip(torch.zeros(10)) == 1.0
    assert sign_flip(torch.ones(8)) == 2 / 2**8  # all signs are tried
    assert sign_flip(torch.ones(8), flips=200) == pytest.approx(2 / 2**8, abs=0.02)
    p = [float(sign_flip(torch.randn(30, generator=torch.Generator().manual_seed(k)), flips=500)) for k in range(200)]
    assert sum(value < 0.1 for value in p) / 200 == pytest.approx(0.1, abs=0.06)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_retention_that_goes_with_the_probe_agrees_with_it():
    n, cells = 80, 6
    given = dict.fromkeys((f"factor {k}" for k in range(cells)), torch.randn(n, 1))
    share = {name: k / cells for k, name in enumerate(given)}
    within = {"net/backbone": {name: share[name] * (0.5 + torch.rand(n)) for name in given}}
    errors = {"net/backbone": {name: share[name] * (0.5 + torch.rand(n)) for name in given}}
    against = {"net/backbone": {name: 1 - errors["net/backbone"][name] for name in given}}
    assert agreement(within, errors, given).value == pytest.approx(1)
    assert agreement(within, against, given).value == pytest.approx(-1)


@pytest.mark.parametrize("rank", [effective_rank, participation_ratio])
def test_ranks_of_equal_and_of_single_directions(rank):
    basis = torch.linalg.qr(torch.randn(64, 8))[0]
    basis = torch.linalg.qr(basis - basis.mean(0))[0]
    assert rank(basis) == pytest.approx(8, rel=1e-4)
    assert rank(torch.randn(64, 1) @ torch.randn(1, 8) + 5) == pytest.approx(1, rel=1e-4)
    wide = torch.randn(5, 40)
    assert (
        rank(wide) == pytest.approx(rank(wide @ torch.linalg.qr(torch.randn(40, 40))[0]), rel=1e-4) and rank(wide) < 5
    )


def test_rankme_counts_equal_singular_values_and_does_not_centre():
    assert rankme(torch.linalg.qr(torch.randn(64, 8))[0]) == pytest.approx(8, rel=1e-4)
    assert rankme(torch.ones(20, 4)) == pytest.approx(1, rel=1e-3)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(500)
    number = jackknife(lambda i: float(values[i].mean()), 500, folds=50)
    assert (number.high - number.low) / 2 == pytest.approx(1.96 * float(values.std()) / 500**0.5, rel=0.3)
    assert number.value == pytest.approx(float(values.mean())) and number.n == 500


@pytest.mark.parametrize(("n", "seeds", "words"), [(1, 4, "at least 2 images"), (4, 1, "two seeds")])
def test_retention_refuses_too_few(pipe, n, seeds, words):
    with pytest.raises(ValueError, match=words):
        STUDIES["retention"](pipe, world(n), sources=["tiny/layer2"], seeds=range(seeds), attributes=COLOUR)
    with pytest.raises(ValueError, match="Probes need at least 20 training images"):
        STUDIES["retention"](pipe, world(4), sources=["tiny/layer2"], seeds=range(2), probe_images=world(19))
