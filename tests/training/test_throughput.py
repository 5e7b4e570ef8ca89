"""The rate of matrix products of a device: measured in many runs, or in one where each takes long."""

import pytest
import torch

from rcdm.training.throughput import count_flops, matrix_rate

PRODUCT = 2 * 1024**3


def test_one_product_is_enough_where_it_takes_longer_than_the_time_for_all():
    assert count_flops(lambda: matrix_rate("cpu", torch.float32, seconds=0)) == PRODUCT
    assert count_flops(lambda: matrix_rate("cpu", torch.float32, seconds=0.5)) >= 8 * PRODUCT


@pytest.mark.parametrize(
    ("clock", "products", "took"),
    [([0, 0.1] * 3 + [1, 1, 3, 4, 5.5, 9], 5, 1.5), ([2, 9], 1, 7)],  # three to begin with, then runs of 2 and 1.5 s
)
def test_the_rate_is_that_of_the_fastest_run(monkeypatch, clock, products, took):
    ticks = iter(clock)
    monkeypatch.setattr("rcdm.training.throughput._now", lambda _: next(ticks))
    assert matrix_rate("cpu", torch.float32, seconds=5) == pytest.approx(products * PRODUCT / took)
