"""Laws of the numbers: what changes none of them, and what they are where a pencil is enough."""

import json
import math

import pytest
import torch
from scipy.stats import spearmanr

from rcdm.measures.metrics import (
    Number,
    accuracy,
    bootstrap,
    calibration,
    calibration_difference,
    cosines,
    cycle_error,
    finite,
    holm,
    jackknife,
    mean,
    nearest,
    ranks,
    retention,
    retrieval,
    sign_flip,
    singular_values,
    spearman,
    squared_error,
    variance,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_a_number_without_a_null_has_none_in_its_file():
    assert set(Number(1.0, 0.0, 2.0, 3).to_json()) == {"value", "low", "high", "n"}
    assert Number(1.0, 0.0, 2.0, 3, 0.0).to_json()["null"] == 0.0


def test_the_interval_of_a_bootstrap_is_two_sided_and_repeats():
    values = torch.randn(200)
    number = mean(values, null=0.5)
    error = float(values.std()) / 200**0.5
    assert number.value == pytest.approx(float(values.mean())) and number.n == 200 and number.null == 0.5
    assert (number.high - number.value) / error == pytest.approx(1.96, rel=0.2)
    assert (number.value - number.low) / error == pytest.approx(1.96, rel=0.2)
    assert mean(values, null=0.5) == number
    other = bootstrap(lambda i: values[i].mean(), 200, seed=5)
    assert other.value == number.value and other.low != number.low
    skewed = mean(values.exp() ** 2)  # a long tail to the right
    assert skewed.high - skewed.value > skewed.value - skewed.low


def test_few_draws_of_a_bootstrap_are_few():
    seen = []
    bootstrap(lambda i: seen.append(i) or torch.tensor(0.0), 7, draws=5, vectorised=False)
    assert len(seen) == 6 and seen[0].tolist() == list(range(7))
    assert all(len(i) == 7 and set(i.tolist()) <= set(range(7)) for i in seen)
    assert all(len(i.unique()) < 7 for i in seen[1:])  # with replacement


@pytest.mark.parametrize("n", [5, 3000, 70_000])  # all samples at once, in pieces, one by one
def test_samples_that_are_taken_at_once_are_those_that_are_taken_one_by_one(n):
    values, phi = torch.rand(n), torch.randn(n, 2)
    for statistic in (lambda i: values[i].median(), lambda i: values[i].mean() / variance(phi[i])):
        stream = torch.Generator().manual_seed(0)
        samples = torch.stack([statistic(torch.randint(n, (n,), generator=stream)).double() for _ in range(40)])
        wanted = samples.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
        for vectorised in (True, False):
            number = bootstrap(statistic, n, draws=40, vectorised=vectorised)
            assert [number.low, number.high] == pytest.approx(wanted, rel=1e-6)


def test_the_correlation_of_ranks_is_that_of_scipy_with_ties():
    a, b = (torch.randint(0, 9, (2, 5, 40)) / 7).unbind()
    at_once = torch.vmap(spearman)(a, b)
    for x, y, own in zip(a, b, at_once, strict=True):
        assert float(spearman(x, y)) == pytest.approx(float(own)) == pytest.approx(spearmanr(x, y).statistic)


def test_cycle_error_has_no_unit_and_no_origin():
    h, drawn = torch.randn(60, 5), torch.randn(60, 5)
    number = cycle_error(drawn, h)
    moved = cycle_error(3 * drawn + 1, 3 * h + 1)
    assert (moved.value, moved.low, moved.null) == pytest.approx((number.value, number.low, number.null), rel=1e-4)
    assert cycle_error((h + drawn) / 2, h).value == pytest.approx(number.value / 4, rel=1e-4)
    assert cycle_error(h.roll(-1, 0), h).null == 0  # of the draws of the next image
    assert squared_error(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)).tolist() == [25]


def test_ranks_see_directions_alone_and_pieces_do_not_matter():
    queries, gallery = torch.randn(23, 4), torch.randn(23, 4)
    lengths = torch.rand(23, 1) + 0.1
    assert torch.equal(ranks(queries, gallery), ranks(lengths * queries, lengths.flip(0) * gallery))
    assert torch.equal(ranks(queries, gallery), ranks(queries, gallery, chunk=5))
    order = torch.randperm(23)
    assert torch.equal(ranks(queries, gallery)[order], ranks(queries[order], gallery[order]))
    assert ranks(-torch.eye(3), torch.eye(3)).tolist() == [3, 3, 3] and ranks(queries, gallery).min() >= 1


def test_the_nearest_row_and_how_far_it_is():
    bank = torch.randn(31, 3)
    which = torch.randint(31, (17,))
    for chunk in (4, 500):
        distance, found = nearest(bank[which] + 1e-3, bank, chunk=chunk)
        assert torch.equal(found, which) and torch.allclose(distance, torch.full((17,), 3e-6**0.5), atol=5e-4)


def test_retrieval_of_the_second_half_of_a_draw_and_its_chance():
    h = torch.randn(40, 8)
    half = torch.cat([h[:20], -h[20:]])
    numbers = retrieval(half, h)
    assert numbers["recall_at_1"].value == 0.5 and 0.5 < numbers["mrr"].value < 0.55
    assert numbers["mrr"].n == 40 and numbers["recall_at_1"].null == 1 / 40


def test_a_tie_for_the_first_place_is_no_recall():
    gallery = torch.eye(3)[[0, 0, 1]]
    numbers = retrieval(gallery, gallery)
    assert ranks(gallery, gallery).tolist() == [1.5, 1.5, 1]
    assert numbers["recall_at_1"].value == pytest.approx(1 / 3)


def test_variance_is_the_trace_over_the_draws():
    phi = torch.randn(5, 9, 3)
    assert variance(phi, 1).shape == (5,)
    assert torch.allclose(variance(phi, 1)[2], torch.trace(torch.cov(phi[2].T)), atol=1e-5)


def test_retention_and_calibration_have_no_unit():
    given, drawn = torch.randn(50, 2), torch.randn(50, 4, 2)
    for measure in (retention, calibration, calibration_difference):
        first, second = measure(drawn, given), measure(7 * drawn - 3, 7 * given - 3)
        assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), rel=1e-3)
        assert first.n == 50
    assert retention(given[:, None].expand(-1, 3, -1), given).value == 1
    doubled = given.mean(0) + 2 * (drawn - drawn.mean(1, keepdim=True))
    assert 1 - retention(doubled, given).value == pytest.approx(4 * (1 - retention(drawn, given).value), rel=1e-4)


def test_calibration_falls_with_the_square_of_the_spread_about_the_image():
    """Draws that surround their image: the error is their variance, so half of what exact draws have."""
    stretch = torch.tensor([-1.0, 1.0]).view(1, 2, 1)
    given = torch.randn(30, 1)
    drawn = given[:, None] + stretch  # E‖Δ‖² = 1, Var = 2 with 1/(K-1)
    assert calibration(drawn, given).value == pytest.approx(1 / 4)
    spread = float(variance(given))
    assert calibration_difference(drawn, given).value == pytest.approx(3 / (2 * spread), rel=1e-5)
    other = given.roll(1, 0)
    assert calibration(drawn, given).null == pytest.approx(float(((given - other) ** 2).mean() + 1) / 4, rel=1e-4)


def test_singular_values_are_those_of_the_matrix_wide_or_tall():
    for shape in ((7, 4), (4, 7), (5, 5)):
        h = torch.randn(*shape) + 2
        assert torch.allclose(singular_values(h, centred=False), torch.linalg.svdvals(h.double()), atol=1e-6)
        centred = h.double() - h.double().mean(0)
        assert torch.allclose(singular_values(h), torch.linalg.svdvals(centred)[: min(shape)], atol=1e-6)


@pytest.mark.parametrize("n", [3, 10, 40])
def test_leaving_out_one_at_a_time_gives_the_error_of_a_mean(n):
    """The jackknife of a mean is its standard error, exactly."""
    values = torch.randn(n, dtype=torch.float64)
    number = jackknife(lambda i: float(values[i].mean()), n, folds=n)
    assert number.high - number.value == pytest.approx(1.96 * float(values.std()) / n**0.5)
    assert number.value - number.low == pytest.approx(1.96 * float(values.std()) / n**0.5)
    assert jackknife(lambda i: float(values[i].mean()), n, folds=99) == number  # no more parts than images
    parts = []
    jackknife(lambda i: parts.append(i.tolist()) or 0.0, n)
    assert len(parts) == min(10, n) + 1 and parts[-1] == list(range(n))
    left_out = [set(range(n)) - set(part) for part in parts[:-1]]
    assert set().union(*left_out) == set(range(n)) and sum(map(len, left_out)) == n


def test_signs_are_flipped_on_both_sides_and_by_chance_where_they_are_many():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert sign_flip(values) == sign_flip(-values) == 2 / 16
    many = torch.ones(40)
    assert sign_flip(many, flips=99) == pytest.approx(0.01, abs=0.011)
    middling = torch.randn(40) + 0.3
    assert sign_flip(middling, flips=500) == sign_flip(middling, flips=500) != sign_flip(middling, flips=500, seed=1)


def test_the_margin_of_cosines_is_their_difference_image_by_image():
    a, b = torch.randn(30, 6), torch.randn(30, 6)
    found = cosines(a, b)
    assert found["margin"].value == pytest.approx(found["positive"].value - found["random"].value, abs=1e-6)
    assert found["margin"].null == 0 and found["positive"].null is None
    assert cosines(a, a.roll(-1, 0))["random"].value == pytest.approx(1)


def test_accuracy_of_a_share():
    labels = torch.arange(12) % 3
    predicted = torch.where(torch.arange(12) < 8, labels, (labels + 1) % 3)
    number = accuracy(predicted, labels, 3)
    assert number.value == pytest.approx(8 / 12) and number.null == pytest.approx(1 / 3) and number.low < number.high
    assert math.isclose(accuracy(labels, labels, 3).low, 1)


def test_corrected_p_values_are_p_values_in_the_same_order():
    p = torch.rand(9).tolist()
    corrected = holm(p)
    assert all(own <= new <= 1 for own, new in zip(p, corrected, strict=True)) and holm([0.7, 0.9]) == [1, 1]
    assert sorted(corrected) == [corrected[i] for i in sorted(range(9), key=p.__getitem__)]
    assert holm([0.3]) == [0.3]


def test_what_is_no_number_is_found_by_nobody():
    gallery = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    drawn = gallery.clone()
    drawn[:3] = torch.nan
    assert ranks(drawn, gallery)[:3].isnan().all() and torch.equal(ranks(drawn, gallery)[3:], torch.ones(17))
    found = retrieval(drawn, gallery)
    assert math.isnan(found["mrr"].value) and found["recall_at_1"].value == pytest.approx(17 / 20)


def test_cases_of_one_image_count_once():
    right = torch.rand(40, generator=torch.Generator().manual_seed(0)) < 0.7
    labels = torch.zeros(40, dtype=torch.long)
    once = accuracy((~right).long(), labels, 2)
    often = accuracy((~right).long().repeat(4), labels.repeat(4), 2, cases=4)
    assert often == once and often.n == 40


def test_a_record_is_json_whatever_its_numbers():
    record = {"a": {"value": math.inf, "n": 3}, "b": [1.0, math.nan], "c": (1, 2), "d": [{"e": math.nan, "f": 1.5}]}
    assert json.loads(json.dumps(finite(record), allow_nan=False)) == {"a": {"n": 3}, "c": [1, 2], "d": [{"f": 1.5}]}
