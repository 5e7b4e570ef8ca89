"""Laws of what draws keep: which draw has which noise, and what the tables hold."""

import pytest
import torch

from rcdm.measures.attributes import Attributes
from rcdm.measures.metrics import calibration, calibration_difference, retention, sign_flip, variance
from rcdm.measures.retention import (
    agreement,
    backbones_and_projectors,
    below_zero,
    draw_each,
    gaps,
    noises,
    read_unconditional,
    retention_numbers,
)

COLOUR = Attributes(lambda images: {"colour": images.mean((2, 3))}, {})


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_every_draw_has_a_noise_of_its_own():
    assert noises(3, [5, 6]) == [5, 6, 7, 8, 9, 10] and noises(2, range(3)) == list(range(6))


def test_draws_are_image_by_image(pipe):
    h = pipe.encode(torch.rand(2, 3, 16, 16) * 2 - 1, "tiny/backbone")
    drawn = draw_each(pipe, h, "tiny/backbone", [4, 5, 6], 2)
    assert drawn.shape == (6, 3, 16, 16)
    for image, draw in ((0, 1), (1, 0), (1, 2)):
        alone = pipe.draw(h[image : image + 1], "tiny/backbone", [4 + 3 * image + draw], num_inference_steps=2)
        assert torch.allclose(drawn[3 * image + draw], alone[0], atol=0.01)


def test_free_draws_have_the_same_noises_and_are_none_where_they_were_never_learnt(pipe):
    free = read_unconditional(pipe, COLOUR, 2, [3, 4], 2)
    known = pipe(seeds=[3, 4, 5, 6], num_inference_steps=2, output_type="pt").images
    assert torch.allclose(free["colour"], known.mean((2, 3)), atol=0.01)
    pipe.unet.register_to_config(has_unconditional=False)
    assert read_unconditional(pipe, COLOUR, 2, [3, 4]) == {}


def test_a_table_holds_the_numbers_of_the_measures():
    given, drawn, free = torch.randn(9, 2), torch.randn(36, 2), torch.randn(36, 2)
    found = retention_numbers({"a": drawn, "b": drawn}, {"a": free}, {"a": given, "b": given}, 4)
    assert set(found) == {"a", "b"} and "null" not in found["b"]
    draws = drawn.view(9, 4, 2)
    ratio, difference = calibration(draws, given), calibration_difference(draws, given)
    number = found["a"]
    assert number["value"] == retention(draws, given).value and number["n"] == 9
    assert number["null"] == retention(free.view(9, 4, 2), given).value
    assert (number["calibration"], number["calibration_null"]) == (ratio.value, ratio.null)
    assert number["calibration_interval"] == [ratio.low, ratio.high]
    assert number["calibration_difference"] == difference.value
    assert number["calibration_difference_interval"] == [difference.low, difference.high]


@pytest.mark.parametrize(("n", "words"), [(1, "(s a0)"), (3, "(s a0, s a1, s a2)"), (4, "s a2 and 1 more)")])
def test_at_most_three_that_fall_short_are_named(n, words):
    cells = {f"a{k}": {"value": -1.0, "low": -2.0, "high": -0.5} for k in range(n)}
    assert words in below_zero({"s": {**cells, "fine": {"value": 0.1, "low": -0.1, "high": 0.2}}})
    assert ("more)" in below_zero({"s": cells})) == (n > 3)
    assert below_zero({"s": {"a": {"value": -0.1, "low": -0.2, "high": 0.0}}}) == ""


def test_a_gap_is_the_difference_of_retentions_and_its_sign_is_that_of_the_backbone():
    given = {"a": torch.randn(40, 1)}
    within = {"n/backbone": {"a": torch.rand(40) * 0.1}, "n/projector": {"a": torch.rand(40)}}
    within |= {"m/backbone": {"a": torch.rand(40)}}
    found = gaps(within, given)
    assert list(found) == ["n"]
    kept = {name: 1 - float(of["a"].mean() / variance(given["a"])) for name, of in within.items()}
    gap = found["n"]["a"]
    assert gap["value"] == pytest.approx(kept["n/backbone"] - kept["n/projector"], rel=1e-4) and gap["value"] > 0
    assert gap["null"] == 0 and gap["n"] == 40 and gap["low"] > 0
    assert gap["p"] == gap["p_holm"] == sign_flip(within["n/projector"]["a"] - within["n/backbone"]["a"])


def test_p_values_are_corrected_over_all_networks_and_attributes():
    given = {"a": torch.randn(30, 1), "b": torch.randn(30, 1)}
    sources = [f"{network}/{level}" for network in "xy" for level in ("backbone", "projector")]
    within = {source: {name: torch.rand(30) for name in given} for source in sources}
    cells = [cell for of in gaps(within, given).values() for cell in of.values()]
    assert len(cells) == 4
    least = min(cells, key=lambda cell: cell["p"])
    assert least["p_holm"] == pytest.approx(min(1, 4 * least["p"]))


def test_networks_of_which_a_level_is_missing_are_no_pair():
    sources = ["a/backbone", "a/projector", "b/backbone", "c/projector", "d/layer2", "e.1/projector", "e.1/backbone"]
    pairs = {name: (f"{name}/backbone", f"{name}/projector") for name in ("a", "e.1")}
    assert backbones_and_projectors(sources) == pairs


def test_agreement_is_of_ranks_over_sources_and_attributes():
    """Spearman's: any rising change of the probe's errors leaves it as it is."""
    given = {name: torch.randn(50, 1) for name in "abc"}
    within = {s: {name: torch.rand(50) * torch.rand(()) for name in given} for s in ("n/backbone", "n/projector")}
    cubed = {s: {name: (values.mean() / variance(given[name])) ** 3 * variance(given[name]) + 0 * values
                 for name, values in of.items()} for s, of in within.items()}  # fmt: skip
    number = agreement(within, cubed, given)
    assert number.value == pytest.approx(1) and number.null == 0 and number.n == 50
