"""The numbers against cases whose answer is known."""

import pytest
import torch

from rcdm.measures.metrics import (
    bootstrap,
    calibration,
    calibration_difference,
    cycle_error,
    ranks,
    retention,
    retrieval,
    squared_distance_to_others,
)
from rcdm.measures.probes import mlp_probe, ridge_probe


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_cycle_error_is_zero_for_the_same_and_one_for_another_image():
    h = torch.randn(200, 16)
    assert cycle_error(h, h).value == 0
    number = cycle_error(torch.randn(200, 16), h)
    assert number.low < 1.0 < number.high and number.n == 200
    assert number.null == pytest.approx(1.0, abs=0.1)


def test_distance_to_others_is_the_mean_over_pairs():
    h = torch.randn(7, 3)
    plain = torch.stack([sum((h[i] - h[j]).square().sum() for j in range(7) if j != i) / 6 for i in range(7)])
    assert torch.allclose(squared_distance_to_others(h), plain, atol=1e-5)


def test_ranks_against_a_plain_loop_and_with_ties():
    queries, gallery = torch.randn(20, 4), torch.randn(20, 4)
    gallery[3] = gallery[4]
    plain = []
    for i in range(20):
        distance = 1 - torch.cosine_similarity(queries[i : i + 1].double(), gallery.double())
        closer = sum(1 for j in range(20) if j != i and distance[j] < distance[i] - 1e-9)
        ties = sum(1 for j in range(20) if j != i and abs(distance[j] - distance[i]) <= 1e-9)
        plain.append(1 + closer + ties / 2)
    assert ranks(queries, gallery, chunk=6).tolist() == plain
    assert ranks(torch.ones(5, 2), torch.ones(5, 2)).tolist() == [3.0] * 5


def test_retrieval_is_perfect_for_the_same_and_chance_for_noise():
    h = torch.randn(300, 32)
    perfect = retrieval(h, h)
    assert perfect["mrr"].value == 1 and perfect["recall_at_1"].value == 1
    chance = retrieval(torch.randn(300, 32), h)["mrr"]
    assert chance.low < chance.null < chance.high
    assert chance.null == pytest.approx((torch.log(torch.tensor(300.0)) + 0.577).item() / 300, rel=0.01)


def draws_of_a_gaussian(kept: float, n: int = 10000, k: int = 8):
    """x = m + e with Var m = kept, Var e = 1 - kept, where h fixes m: (exact draws [n,k,1], x [n,1])."""
    m = torch.randn(n, 1) * kept**0.5
    x = m + torch.randn(n, 1) * (1 - kept) ** 0.5
    return m[:, None] + torch.randn(n, k, 1) * (1 - kept) ** 0.5, x


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.8])
def test_exact_draws_have_the_retention_of_their_truth_and_are_calibrated(kept):
    drawn, x = draws_of_a_gaussian(kept)
    assert retention(drawn, x).value == pytest.approx(kept, abs=0.05)
    ratio = calibration(drawn, x)
    assert ratio.value == pytest.approx(1, abs=0.06)
    assert calibration_difference(drawn, x).value < 0.05
    if kept > 0:
        assert ratio.null > ratio.high


def test_a_pipeline_that_returns_data_images_keeps_nothing():
    angle = torch.rand(400, 17) * 2 * torch.pi
    phi = torch.stack([angle.cos(), angle.sin()], -1)
    number = retention(phi[:, 1:], phi[:, 0])
    assert number.low <= 0 <= number.high


def test_overconfident_draws_are_found_out():
    drawn, x = draws_of_a_gaussian(0.3)
    narrow = drawn.mean(1, keepdim=True) + 0.5 * (drawn - drawn.mean(1, keepdim=True))
    assert calibration(narrow, x).low > 1.25


def test_the_interval_of_a_mean_is_its_standard_error():
    values = torch.randn(400)
    number = bootstrap(lambda i: values[i].mean(), 400, draws=2000)
    assert (number.high - number.low) / 2 == pytest.approx(1.96 * float(values.std()) / 20, rel=0.1)


def test_probes_find_what_is_there_and_nothing_else():
    h = torch.randn(1500, 8)
    phi = h[:, :2] @ torch.randn(2, 2)
    split = (h[:1000], phi[:1000], h[1000:], phi[1000:])
    assert ridge_probe(*split).value > 0.99 and mlp_probe(*split).value > 0.9
    bent = h[:, :1].abs()
    assert ridge_probe(h[:1000], bent[:1000], h[1000:], bent[1000:]).value < 0.1
    assert mlp_probe(h[:1000], bent[:1000], h[1000:], bent[1000:]).value > 0.8
    noise = torch.randn(1500, 1)
    assert ridge_probe(h[:1000], noise[:1000], h[1000:], noise[1000:]).value < 0.05
