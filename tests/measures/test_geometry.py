"""Ranks, view variance and principal angles, where they are known."""

import json

import pytest
import torch

from rcdm.data import sprites
from rcdm.data.views import ViewStrengths
from rcdm.measures.geometry import (
    Views,
    against_projector,
    main_directions,
    principal_angles,
    removed_share,
    row_space,
    view_variance,
)
from rcdm.networks.sources import Sources
from rcdm.studies import STUDIES
from rcdm.studies.spectrum import STRENGTHS, strongest


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def world(n: int) -> torch.Tensor:
    return sprites.render(sprites.sample_factors(n, seed=2), 16)


def content_and_style(n: int = 300, kept: int = 4, moved: int = 3) -> Views:
    """Views of one image share `kept` coordinates and differ in `moved` others."""
    content, styles = torch.randn(n, kept), [torch.randn(n, moved) for _ in range(3)]
    return Views(*(torch.cat([content, style], 1) for style in styles))


def test_a_projector_onto_what_views_share_removes_all_of_their_variance():
    h = content_and_style()
    z = Views(h.given[:, :4], h.first[:, :4], h.second[:, :4])
    assert removed_share(h, z).value == 1
    assert view_variance(h).value == pytest.approx(3 / 7, rel=0.1) and view_variance(z).value == 0
    hears = row_space(torch.nn.Linear(7, 4, bias=False).requires_grad_(False), h.given)
    assert hears.shape[0] == 7 and torch.allclose(hears.T @ hears, torch.eye(hears.shape[1]), atol=1e-4)


def test_a_projector_that_only_turns_and_scales_removes_nothing():
    h = content_and_style()
    turn = 5 * torch.linalg.qr(torch.randn(7, 7))[0]
    z = Views(*(part @ turn for part in (h.given, h.first, h.second)))
    number = removed_share(h, z)
    assert number.value == pytest.approx(0, abs=1e-5) and number.null == 0


def test_the_row_space_of_a_linear_projector_and_its_angles_to_the_views():
    h = content_and_style()
    found = against_projector(row_space(lambda x: x[:, :4], h.given), h)
    assert found["dimensions"] == [4, 3]
    assert found["heard"]["value"] == pytest.approx(0, abs=1e-6) and found["heard"]["null"] == pytest.approx(4 / 7, 0.1)
    assert found["angles"] == pytest.approx([90.0] * 3, abs=0.1)
    assert found["angle"]["null"] < found["angle"]["low"]
    listens = against_projector(row_space(lambda x: x[:, 4:], h.given), h)
    assert listens["heard"]["value"] == pytest.approx(1) and listens["angle"]["value"] == pytest.approx(0, abs=0.1)


def test_principal_angles_of_two_planes():
    tilt = torch.tensor(0.3)
    a = torch.eye(4)[:, :2]
    b = torch.stack([torch.eye(4)[0], tilt.cos() * torch.eye(4)[1] + tilt.sin() * torch.eye(4)[2]], 1)
    assert torch.allclose(
        principal_angles(a, b), torch.tensor([0.0, float(tilt.rad2deg())], dtype=torch.float64), atol=1e-3
    )


@pytest.mark.parametrize("n", [5, 200])
def test_main_directions_are_where_the_changes_point(n):
    change = torch.randn(n, 2) * torch.tensor([3.0, 2.0]) @ torch.linalg.qr(torch.randn(10, 2))[0].T
    found = main_directions(change, 2)
    assert found.shape == (10, 2) and torch.allclose(found.T @ found, torch.eye(2), atol=1e-5)
    assert torch.allclose(change @ found @ found.T, change, atol=1e-4)
    assert main_directions(change).shape[1] in (1, 2)


def test_the_spectrum_study_has_the_shape_it_promises(pipe):
    result = STUDIES["spectrum"](pipe, world(12), sources=["tiny/backbone", "tiny/projector", "tiny/layer2"])
    assert len(result.images) == len(result.rows) * len(result.columns) == 4 * len(STRENGTHS)
    source = result.numbers["sources"]["tiny/projector"]
    values = source["singular_values"]
    assert len(values) == source["width"] == 8 and values == sorted(values, reverse=True)
    assert source["effective_rank"]["n"] == 12 and {"participation_ratio", "rankme"} <= set(source)
    steps = result.numbers["networks"]["tiny"]["strengths"]
    assert [step["strength"] for step in steps] == list(STRENGTHS)
    variance = [step["backbone"]["value"] for step in steps]
    assert variance[0] == 0 and variance[-1] > variance[1] > 0
    assert {"removed", "heard", "angle"} <= set(steps[-1]) and steps[-1]["removed"]["n"] == 12
    json.dumps(result.numbers)


def test_views_of_strength_zero_do_not_differ(pipe):
    result = STUDIES["spectrum"](pipe, world(8), sources=["tiny/backbone", "tiny/projector"])
    still = result.numbers["networks"]["tiny"]["strengths"][0]
    assert still["backbone"]["value"] == still["projector"]["value"] == 0 and "removed" not in still
    assert result.images[0].tobytes() != result.images[len(STRENGTHS) - 1].tobytes()


def test_other_networks_stand_beside_those_of_the_checkpoint(pipe):
    network = pipe.sources.network("tiny")
    config = {"training": {"views": {"crop": 0.5}}}
    other = Sources({"weak": network}, ["weak/backbone", "weak/projector"], {"weak": config})
    result = STUDIES["spectrum"](pipe, world(8), sources=["tiny/layer2"], networks=other)
    assert list(result.numbers["networks"]) == ["weak"] and result.numbers["views"]["crop"] == 0.5
    assert result.numbers["networks"]["weak"]["trained_with"]["crop"] == 0.5


def test_two_networks_of_one_name_are_refused(pipe):
    other = Sources({"tiny": pipe.sources.network("tiny")}, ["tiny/projector"], {"tiny": {}})
    with pytest.raises(ValueError, match="both have a tiny"):
        STUDIES["spectrum"](pipe, world(8), sources=["tiny/backbone"], networks=other)


def test_the_strongest_views_are_the_largest_of_each_kind():
    off = ViewStrengths().scaled(0)
    a, b = (ViewStrengths(**{**vars(off), **kind}) for kind in ({"crop": 0.5, "hue": 0.1}, {"crop": 0.2, "hue": 0.3}))
    assert (strongest([a, b]).crop, strongest([a, b]).hue, strongest([a, b]).flip) == (0.5, 0.3, 0)
    assert strongest([off]) == strongest([]) == ViewStrengths()


def test_the_spectrum_refuses_too_few_images(pipe):
    with pytest.raises(ValueError, match="at least 8 images"):
        STUDIES["spectrum"](pipe, world(7), sources=["tiny/layer2"])
