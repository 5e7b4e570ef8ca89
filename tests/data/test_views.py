"""How often and how far views change an image: shares and ranges, as SimCLR's paper has them."""

import math

import pytest
import torch
import torch.nn.functional as F

from rcdm.data import views
from rcdm.data.colour import rgb_to_hsv
from rcdm.data.views import ViewStrengths, random_view

OFF = ViewStrengths(crop=0, flip=0, jitter=0, hue=0, grey=0)
N = 4000


def coloured(n: int = N) -> torch.Tensor:
    """Images [n,3,2,2] of one colour each, none of them grey, far from the ends of the range."""
    colours = torch.tensor([[0.6, 0.35, 0.4]]).expand(n, 3)
    return (colours * 2 - 1).view(n, 3, 1, 1).expand(n, 3, 2, 2).contiguous()


def strengths(**changes: float) -> ViewStrengths:
    return ViewStrengths(**{**vars(OFF), **changes})


def share_changed(**changes: float) -> float:
    x = coloured()
    view = random_view(x, strengths(**changes), torch.Generator().manual_seed(0))
    return float(((view - x).abs().amax((1, 2, 3)) > 1e-5).float().mean())


@pytest.mark.parametrize(("changes", "share"), [
    ({"jitter": 0.4}, 0.8), ({"hue": 0.2}, 0.8), ({"grey": 0.2}, 0.2), ({"grey": 0.7}, 0.7), ({"solarize": 0.3}, 0.3),
])  # fmt: skip
def test_a_share_of_the_images_is_changed(changes, share):
    assert abs(share_changed(**changes) - share) < 4 * math.sqrt(share * (1 - share) / N)


def test_half_of_the_images_are_mirrored_and_half_are_blurred():
    stream = torch.Generator().manual_seed(0)
    x = torch.rand(N, 3, 4, 4, generator=stream) - 0.5
    view = random_view(x, strengths(flip=0.5), torch.Generator().manual_seed(1))
    same = ((view - x).abs().amax((1, 2, 3)) < 1e-5).float().mean()
    mirrored = ((view - x.flip(3)).abs().amax((1, 2, 3)) < 1e-5).float().mean()
    assert float(same + mirrored) == 1 and abs(float(mirrored) - 0.5) < 0.04
    blurred = random_view(x, strengths(blur=1.0), torch.Generator().manual_seed(1))
    assert abs(float(((blurred - x).abs().amax((1, 2, 3)) < 1e-6).float().mean()) - 0.5) < 0.04


def test_the_hue_moves_to_both_sides_alike_and_no_further_than_its_strength():
    x = coloured()
    view = random_view(x, strengths(hue=0.2), torch.Generator().manual_seed(0))
    before, after = (rgb_to_hsv((images + 1) / 2)[:, 0, 0, 0] for images in (x, view))
    moved = (after - before + 0.5) % 1 - 0.5
    moved = moved[moved.abs() > 1e-5]
    assert float(moved.abs().max()) <= 0.2 + 1e-4 and float(moved.max()) > 0.19 and float(moved.min()) < -0.19
    assert abs(float(moved.mean())) < 0.01 and abs(float((moved > 0).float().mean()) - 0.5) < 0.04


def test_brightness_is_multiplied_evenly_about_one():
    x = coloured()
    view = random_view(x, strengths(jitter=0.3), torch.Generator().manual_seed(0))
    luma = ((view + 1) / 2 * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1)[:, 0, 0]
    factor = luma / luma.median()  # of one colour: contrast and saturation keep the luma
    changed = factor[(factor - 1).abs() > 1e-4]
    assert 0.69 < float(changed.min()) < 0.72 and 1.28 < float(changed.max()) < 1.31
    assert abs(float(changed.mean()) - 1) < 0.01


def test_crops_have_the_areas_and_ratios_of_the_paper(monkeypatch):
    matrices, grid = [], F.affine_grid
    monkeypatch.setattr(views.F, "affine_grid", lambda m, *a, **k: matrices.append(m) or grid(m, *a, **k))
    random_view(coloured(), strengths(crop=0.9), torch.Generator().manual_seed(0))
    width, height = matrices[0][:, 0, 0].abs(), matrices[0][:, 1, 1]
    whole = (width < 1) & (height < 1)  # others are cut off at the edge
    ratio, area = (width / height)[whole], (width * height)[whole]
    assert 0.75 - 1e-3 <= float(ratio.min()) < 0.77 and 1.3 < float(ratio.max()) <= 4 / 3 + 1e-3
    assert abs(float(ratio.log().mean())) < 0.01  # as often wide as tall
    assert 0.1 - 1e-3 <= float(area.min()) < 0.12 and float(area.max()) > 0.9
    small = area < 0.5  # evenly spread over areas: none of these is cut off
    assert abs(float(area[small].mean()) - 0.3) < 0.01
    x, y = matrices[0][:, 0, 2], matrices[0][:, 1, 2]
    assert ((x.abs() + width) <= 1 + 1e-5).all() and ((y.abs() + height) <= 1 + 1e-5).all()
    assert float(x.min()) < -0.5 and float(x.max()) > 0.5 and abs(float(y.mean())) < 0.02


def test_a_smaller_view_shows_the_same_crop():
    x = F.interpolate(torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(0)), 32, mode="bicubic") * 2 - 1
    whole, small = (random_view(x, ViewStrengths(), torch.Generator().manual_seed(1), size) for size in (None, 16))
    assert whole.shape == (64, 3, 32, 32) and small.shape == (64, 3, 16, 16)
    assert (F.avg_pool2d(whole, 2) - small).abs().mean() < 0.02 < (whole - whole.flip(0)).abs().mean()
    assert torch.equal(whole, random_view(x, ViewStrengths(), torch.Generator().manual_seed(1), 32))
    assert random_view(x, OFF, size=16).shape == (64, 3, 16, 16)
