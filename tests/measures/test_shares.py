"""What decides how a draw looks, against an analysis of variance written out, and on draws whose answer is known."""

import pytest
import torch

from rcdm.measures.shares import drawn_and_not, seed_told, variance_shares


def test_main_effects_are_those_of_an_analysis_of_variance():
    values = torch.randn(5, 3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = values + torch.arange(5)[:, None, None, None] + 2 * torch.arange(4)[None, None, :, None]
    found = variance_shares(values)
    y = values.numpy()
    total = sum(((y[..., p] - y[..., p].mean()) ** 2).sum() for p in range(2))
    for axis, name, repeats in ((0, "image", 12), (1, "source", 20), (2, "seed", 15)):
        others = tuple(a for a in range(3) if a != axis)
        effect = sum(repeats * ((y[..., p].mean(others) - y[..., p].mean()) ** 2).sum() for p in range(2))
        assert found[name].value == pytest.approx(effect / total, rel=1e-9)
        assert found[name].low <= found[name].high and found[name].n == 5


@pytest.mark.parametrize(("axis", "name"), [(0, "image"), (1, "source"), (2, "seed")])
def test_what_alone_decides_has_all_of_the_variance(axis: int, name: str):
    shape = [1, 1, 1, 6]
    shape[axis] = 4
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).expand(4, 4, 4, 6)
    shares = variance_shares(values)
    assert shares[name].value == pytest.approx(1, abs=1e-5)
    assert sum(number.value for number in shares.values()) == pytest.approx(1, abs=1e-5)


def test_the_seed_is_told_where_it_decides_and_not_where_it_does_not():
    stream = torch.Generator().manual_seed(2)
    noise = torch.randn(1, 1, 4, 8, generator=stream).expand(20, 2, 4, 8)
    small = 0.01 * torch.randn(20, 2, 4, 8, generator=stream)
    assert seed_told(noise + small).value == 1 and seed_told(noise + small).null == 0.25
    free = seed_told(torch.randn(200, 2, 4, 8, generator=stream))
    assert free.low < 0.25 < free.high


def test_too_little_is_refused():
    for shape in ((1, 2, 4, 8), (4, 2, 1, 8), (4, 2, 8)):
        with pytest.raises(ValueError, match="at least 2 images and 2 seeds"):
            variance_shares(torch.zeros(shape))


def test_what_is_drawn_follows_from_retention_and_probe():
    def source(**kept: tuple[float, float]) -> dict:
        return {"retention": {name: {"value": v, "probe": p} for name, (v, p) in kept.items()}}

    sources = {"a": source(hue=(0.9, 0.95), shape=(0.2, 0.9), size=(0.0, 0.1)),
               "b": source(hue=(0.4, 0.45), shape=(0.5, 0.9), size=(0.0, 0.2))}  # fmt: skip
    assert drawn_and_not(sources) == (["hue"], {"shape": "2 of 2"})
    assert drawn_and_not({}) == ([], {})
