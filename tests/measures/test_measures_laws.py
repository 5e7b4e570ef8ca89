"""What numbers must be in cases whose answer is known without computing."""

import math

import pytest
import torch

from rcdm.measures.metrics import (
    accuracy,
    calibration,
    calibration_difference,
    cosines,
    effective_rank,
    holm,
    jackknife,
    participation_ratio,
    rankme,
    ranks,
    retrieval,
    sign_flip,
    similarity,
)


def test_a_second_place_is_not_recalled_and_counts_half():
    """Row i of the gallery is second for query i: another row lies nearer."""
    angle = torch.tensor([0.0, 0.3, 2.0, 2.3])
    gallery = torch.stack([angle.cos(), angle.sin()], 1)
    nearer = angle[[1, 0, 3, 2]] * 0.7 + angle * 0.3
    queries = torch.stack([nearer.cos(), nearer.sin()], 1)
    assert ranks(queries, gallery).tolist() == [2, 2, 2, 2]
    numbers = retrieval(queries, gallery)
    assert numbers["recall_at_1"].value == 0 and numbers["mrr"].value == pytest.approx(0.5)
    assert numbers["recall_at_1"].null == 0.25 and numbers["mrr"].null == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


@pytest.mark.parametrize(("bias", "noise"), [(0.0, 0.3), (0.5, 0.1), (1.0, 0.5)])
def test_calibration_of_biased_draws_is_what_their_bias_and_noise_make_it(bias, noise):
    stream = torch.Generator().manual_seed(0)
    given = torch.randn(4000, 1, generator=stream)
    drawn = given[:, None] + bias + noise * torch.randn(4000, 8, 1, generator=stream)
    error = bias**2 + noise**2  # E‖Δφ‖², with E Var = noise² and Var φ = 1
    assert calibration_difference(drawn, given).value == pytest.approx(abs(error - 2 * noise**2) / 2, abs=0.01)
    assert calibration(drawn, given).value == pytest.approx(error / (2 * noise**2), rel=0.05)
    assert calibration(drawn, given).null == pytest.approx((2 + error) / (2 * noise**2), rel=0.1)


def test_ranks_of_a_spectrum_that_is_known():
    """A representation with r equal directions has rank r by every measure; one direction that is all, rank 1."""
    basis, _ = torch.linalg.qr(torch.randn(400, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    basis = basis - basis.mean(0)
    equal, _ = torch.linalg.qr(basis)
    h = equal @ torch.eye(6, 10, dtype=torch.float64)
    for measure in (effective_rank, participation_ratio, rankme):
        assert measure(h) == pytest.approx(6, rel=1e-6)
    two = equal[:, :2] * torch.tensor([3.0, 1.0])  # σ² 9 : 1
    p = torch.tensor([0.9, 0.1])
    assert effective_rank(two) == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-6)
    assert participation_ratio(two) == pytest.approx(1 / float((p**2).sum()), rel=1e-6)
    q = torch.tensor([0.75, 0.25])  # RankMe takes σ, not σ²
    assert rankme(two) == pytest.approx(math.exp(-(q * q.log()).sum()), rel=1e-6)
    assert effective_rank(two + 5) == pytest.approx(effective_rank(two)) and rankme(two + 5) < rankme(two)


def test_holm_multiplies_by_what_is_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0]) and holm([]) == []


def test_sign_flips_find_a_shift_and_no_other():
    stream = torch.Generator().manual_seed(0)
    noise = torch.randn(60, generator=stream)
    assert sign_flip(noise + 2) < 0.001 and sign_flip(noise - noise.mean()) > 0.5
    small = torch.tensor([1.0, 2.0, 3.0])  # 2 of 8 sign patterns are as far out
    assert sign_flip(small) == pytest.approx(0.25, abs=0.02)


def test_the_interval_of_a_jackknife_is_that_of_a_mean():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    number = jackknife(lambda index: float(values[index].mean()), 1000)
    assert number.value == pytest.approx(float(values.mean()))
    assert (number.high - number.low) / 2 == pytest.approx(1.96 / 1000**0.5, rel=0.6)


def test_cosines_of_turned_pairs():
    a = torch.eye(4)
    assert similarity(a, -a).tolist() == [-1] * 4 and similarity(a, 3 * a).tolist() == [1] * 4
    numbers = cosines(a, a)
    assert (numbers["positive"].value, numbers["random"].value, numbers["margin"].value) == (1, 0, 1)


def test_accuracy_counts_what_is_right():
    number = accuracy(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2]), 5)
    assert number.value == 0.75 and number.null == 0.2 and number.n == 4
