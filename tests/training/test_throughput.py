"""The rate of matrix products of a device: measured in many runs, or in one where each takes long."""

import pytest
import torch

from rcdm.training.throughput import count_flops, matrix_rate

PRODUCT = 2 * 1024**3


@pytest.mark.parametrize(
    ("clock", "fastest", "products"),
    [
        ([0, 0.1] * 3 + [1, 1, 3, 4, 5.5, 9], 5 / 1.5, 13),  # three to begin with, then runs of five, in 2 and in 1.5 s
        ([2, 9], 1 / 7, 1),  # longer than the time for all
    ],
)
def test_the_rate_is_that_of_the_fastest_run_or_of_the_only_product(monkeypatch, clock, fastest, products):
    ticks, rates = iter(clock), []
    monkeypatch.setattr("rcdm.training.throughput._now", lambda _: next(ticks))
    asked = count_flops(lambda: rates.append(matrix_rate("cpu", torch.float32, seconds=5)))
    assert rates == [pytest.approx(fastest * PRODUCT)] and asked == products * PRODUCT
