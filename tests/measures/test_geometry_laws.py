"""Directions, their order and number, and shares of variance that are known."""

import pytest
import torch

from rcdm.measures.geometry import (
    Views,
    against_projector,
    main_directions,
    principal_angles,
    removed_share,
    row_space,
    view_variance,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def views(n: int = 200, d: int = 6, step: float = 0.5) -> Views:
    given = torch.randn(n, d)
    return Views(given, given + step * torch.randn(n, d), given + step * torch.randn(n, d))


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0])
def test_views_that_come_closer_by_a_factor_lose_its_square(factor):
    h = views()
    middle = (h.first + h.second) / 2
    closer = Views(h.given, middle + factor * h.change / 2, middle - factor * h.change / 2)
    number = removed_share(h, closer)
    assert number.value == pytest.approx(1 - factor**2, abs=1e-5) and number.null == 0 and number.n == 200
    assert view_variance(closer).value == pytest.approx(factor**2 * view_variance(h).value, rel=1e-5)


def test_views_that_are_other_images_vary_as_images_do():
    h, other = torch.randn(1000, 20), torch.randn(2, 1000, 20)
    number = view_variance(Views(h, *other))
    assert number.null == 1 and number.low < number.value < number.high and number.value == pytest.approx(1, abs=0.05)
    wide = view_variance(Views(h, 3 * other[0], 3 * other[1]))
    assert wide.value == pytest.approx(9 * number.value, rel=1e-4)


def test_a_projector_hears_what_it_weighs_most_first():
    weights = torch.tensor([1.0, 3.0, 0.0, 3.0, 0.0])
    found = row_space(lambda x: x * weights, torch.randn(40, 5), draws=200)
    assert found.shape == (5, 2)  # energies 9, 9, 1: exp(H) = 2.3
    assert torch.allclose(found.square().sum(1), torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]), atol=1e-2)
    one = row_space(lambda x: x[:, :1] ** 2, torch.randn(40, 5))
    assert one.shape == (5, 1) and abs(float(one[0, 0])) == pytest.approx(1, abs=1e-5)
    loud = row_space(lambda x: x[:, :4], torch.randn(40, 5))
    assert loud.shape == (5, 4) and float(loud[4].abs().max()) < 1e-3 and loud.dtype == torch.float32


def test_a_projector_is_asked_with_signs_that_repeat_and_with_gradients_off_outside():
    h, turn = torch.randn(30, 5), torch.randn(5, 3)
    with torch.no_grad():
        first, second = (row_space(lambda x: (x @ turn).tanh(), h) for _ in range(2))
    assert torch.equal(first, second) and not h.requires_grad
    assert not torch.equal(first, row_space(lambda x: (x @ turn).tanh(), h, seed=3))
    assert torch.allclose(first.T @ first, torch.eye(first.shape[1]), atol=1e-5)


@pytest.mark.parametrize("n", [6, 300])
def test_main_directions_come_by_their_size_and_as_many_as_there_are(n):
    axes = torch.linalg.qr(torch.randn(9, 3))[0]
    coordinates = torch.linalg.qr(torch.randn(n, 3))[0]  # of equal size in each direction
    for sizes, count in (((1.0, 1.0, 1.0), 3), ((5.0, 5.0, 0.1), 2), ((9.0, 0.1, 0.1), 1)):
        change = coordinates * torch.tensor(sizes) @ axes.T
        found = main_directions(change)
        assert found.shape == (9, count)
        assert torch.allclose(principal_angles(found, axes[:, :count]), torch.zeros(count).double(), atol=0.5)
    ordered = main_directions(coordinates * torch.tensor([1.0, 5.0, 3.0]) @ axes.T, 2)
    assert abs(float(ordered[:, 0] @ axes[:, 1])) > 0.99 and abs(float(ordered[:, 1] @ axes[:, 2])) > 0.99
    assert main_directions(coordinates @ axes.T + 100 * axes[:, 0]).shape == (9, 1)  # not centred


def test_angles_between_planes_rise_and_do_not_depend_on_their_bases():
    a, b = torch.randn(7, 3), torch.randn(7, 2)
    angles = principal_angles(a, b)
    assert angles.shape == (2,) and angles[0] <= angles[1] <= 90
    assert torch.allclose(angles, principal_angles(b @ torch.randn(2, 2), a @ torch.randn(3, 3)), atol=1e-3)
    assert principal_angles(a, a[:, :1]).tolist() == pytest.approx([0], abs=1e-3)


def test_random_lines_of_a_plane_are_half_a_right_angle_apart():
    """The null of the angle: 45 degrees for two random lines of a plane, 90 less of them the more room there is."""
    h = views(60, 2)
    line = torch.tensor([[1.0], [0.0]])
    still = Views(h.given, h.given, h.given + torch.tensor([0.0, 1.0]))
    found = against_projector(line, still)
    assert found["dimensions"] == [1, 1] and found["angle"]["null"] == pytest.approx(45, abs=15)
    assert found["angles"] == pytest.approx([90]) and found["heard"]["value"] == pytest.approx(0)
    assert found["angle"]["low"] == pytest.approx(90) and found["angle"]["high"] == pytest.approx(90)
    wide = views(60, 50)
    assert against_projector(torch.eye(50)[:, :1], wide)["angle"]["null"] > 20


def test_what_is_heard_is_the_share_of_the_squared_length():
    h = views(50, 4)
    moved = Views(h.given, h.given + torch.tensor([3.0, 4.0, 0.0, 0.0]), h.given)
    found = against_projector(torch.eye(4)[:, :1], moved)["heard"]
    assert found["value"] == pytest.approx(9 / 25) and found["low"] == pytest.approx(9 / 25)
    variances = h.given.var(0)
    assert found["null"] == pytest.approx(float(variances[0] / variances.sum()), rel=1e-4)
