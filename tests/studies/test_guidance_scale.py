"""The scale of guidance that is chosen, where the right one is known."""

import json
import math

import pytest
import torch
from conftest import TINY_SOURCES
from torch import Tensor

from rcdm.data.sprites import Sprites
from rcdm.diffusion.guidance_settings import Guidance
from rcdm.diffusion.model_card import markdown_tables
from rcdm.measures.attributes import Attributes
from rcdm.studies import STUDIES
from rcdm.studies.evaluation import EvaluationSize, evaluate, write_metrics

BACKBONE, PROJECTOR, LAYER = TINY_SOURCES
MEAN = Attributes(lambda images: {"mean": images.mean((1, 2, 3))[:, None]}, {})
NOISE = 0.6
"""Deviation, beside the 0.8 of what h says, of what it does not: of a variance of 1, h keeps 0.64."""


def world(n: int, seed: int) -> Tensor:
    """Images of one number, its sum of what h will say and what it will not."""
    stream = torch.Generator().manual_seed(seed)
    told, rest = 0.8 * torch.randn(n, generator=stream), NOISE * torch.randn(n, generator=stream)
    images = (told + rest)[:, None, None, None].expand(-1, 3, 16, 16).clone()
    images[:, 0, 0, 0] = told  # where the source looks
    return images


def knows_a_part(pipe, monkeypatch, strengths: dict[float, tuple[float, float]]) -> None:
    """h is `told`; draws at a scale follow it by the first number, with noise of the second deviation.

    Those by regression have the strength with a minus in place of a scale.
    """

    def encode(images, source):
        return images[:, 0, 0, 0][:, None].expand(-1, pipe.unet.config.sources[source]).clone()

    def draw(h, source, seeds, *, guidance_scale=None, guidance_strength=None, **_):
        follow, deviation = strengths[-guidance_strength or guidance_scale]
        noise = torch.stack([torch.randn((), generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        images = (follow * h[:, 0] + deviation * noise)[:, None, None, None].expand(-1, 3, 16, 16).clone()
        images[:, 0, 0, 0] = follow * h[:, 0]
        return images

    monkeypatch.setattr(pipe, "encode", encode)
    monkeypatch.setattr(pipe, "draw", draw)


def chosen(pipe, n: int = 200, **options):
    images, training = world(n, 1), world(600, 2)
    settings = {"sources": [BACKBONE], "seeds": range(6), "reference": training, "attributes": MEAN}
    return STUDIES["guidance"](pipe, images, **{**settings, "strengths": "", **options})


WEAK, EXACT, STRONG = (0.4, math.sqrt(1 - 0.16 * 0.64)), (1.0, NOISE), (1.3, 0.1)


def test_the_scale_whose_draws_keep_what_the_probe_reads_is_chosen(pipe, monkeypatch):
    knows_a_part(pipe, monkeypatch, {1.0: WEAK, 2.0: EXACT, 3.0: STRONG})
    found = chosen(pipe, scales="2 3")
    own = found.numbers["sources"][BACKBONE]
    assert (own["guidance_scale"], own["guidance_strength"]) == (2, 0) and "guidance 2" in found.summary
    off, two, three = own["tried"].values()
    assert list(own["tried"]) == ["off", "guidance 2", "guidance 3"]
    assert two["off"]["value"] < 0.1 < min(off["off"]["value"], three["off"]["value"])
    assert two["gain"]["low"] > 0 and off["gain"]["value"] == 0
    assert two["retention"]["mean"]["value"] == pytest.approx(0.64, abs=0.08)
    assert two["uncalibrated"] == [0, 1]


@pytest.mark.parametrize(("by_scale", "by_regression"), [(EXACT, STRONG), (STRONG, EXACT)])
def test_between_a_scale_and_regression_the_probe_decides(pipe, monkeypatch, by_scale, by_regression):
    knows_a_part(pipe, monkeypatch, {1.0: WEAK, 2.0: by_scale, -2.0: by_regression})
    learnt = []
    monkeypatch.setattr("rcdm.studies.guidance_scale._learn", lambda *given: learnt.append(given))
    own = chosen(pipe, scales="2", strengths="2").numbers["sources"][BACKBONE]
    assert list(own["tried"]) == ["off", "guidance 2", "regression 2"] and len(learnt) == 1
    taken = (2, 0) if by_scale is EXACT else (1, 2)
    assert (own["guidance_scale"], own["guidance_strength"]) == taken


def test_nothing_is_changed_where_nothing_is_gained(pipe, monkeypatch):
    knows_a_part(pipe, monkeypatch, {1.0: EXACT, 2.0: EXACT, 3.0: STRONG})
    assert chosen(pipe, scales="1 2 3").numbers["sources"][BACKBONE]["guidance_scale"] == 1


def test_a_gain_in_retention_that_costs_calibration_is_not_taken(pipe, monkeypatch):
    """At 2 the draws are as wide as they should be, about the wrong place: retention is right, calibration is not."""
    away = (-1.0, NOISE)
    knows_a_part(pipe, monkeypatch, {1.0: WEAK, 2.0: away})
    own = chosen(pipe, scales="2").numbers["sources"][BACKBONE]
    off, two = own["tried"].values()
    assert two["gain"]["low"] > 0 and two["uncalibrated"][0] == 1
    assert off["uncalibrated"] == [0, 1] and own["guidance_scale"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reference": torch.zeros(3, 3, 16, 16)}, "20 reference"), ({"scales": "much"}, "scales are numbers"),
        ({"scales": "-1"}, "scales are numbers"), ({"strengths": "1 x"}, "strengths are numbers"),
        ({"seeds": [0]}, "2 seeds"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_from_is_refused(pipe, options, words):
    with pytest.raises(ValueError, match=words):
        chosen(pipe, n=4, **options)


def test_evaluate_chooses_on_other_images_and_reports_both(pipe, monkeypatch, tmp_path):
    size = EvaluationSize(4, 4, 2, 0, 30, 5, 2)
    seen = []
    study = STUDIES["guidance"].run

    def choose(pipe, images, **options):
        seen.append(images)
        found = study(pipe, images, **options)
        found.numbers["sources"][BACKBONE] |= {"guidance_scale": 1.0, "guidance_strength": 2.0}
        found.numbers["sources"][LAYER] |= {"guidance_scale": 2.0, "guidance_strength": 0.0}
        return found

    monkeypatch.setattr("rcdm.studies.guidance_scale.study", choose)
    dataset = Sprites(16)
    metrics = evaluate(pipe, dataset, size)
    (others,) = seen
    assert torch.equal(others, dataset.held_out(9).images[4:])
    own = metrics["sources"]
    assert own[BACKBONE]["guidance_strength"] == 2 and own[LAYER]["guidance_scale"] == 2
    assert own[PROJECTOR]["guidance_scale"] == 1 and own[PROJECTOR]["guidance_strength"] == 0
    assert "unguided" not in own[PROJECTOR] and set(own[BACKBONE]["unguided"]) >= {"cycle_error", "mrr", "retention"}
    assert own[BACKBONE]["unguided"]["cycle_error"] != own[BACKBONE]["cycle_error"]
    assert pipe.guidance_of(BACKBONE) == Guidance(1, 2), "it stays with the pipeline"
    tables = markdown_tables(metrics)
    assert (
        tables.count(f"| {BACKBONE}, regression 2 |")
        == tables.count(f"| {LAYER}, guidance 2 |")
        == tables.count(f"| {BACKBONE}, not guided |")
        == 2
    )
    assert tables.count(f"| {PROJECTOR} |") == 2
    pipe.use_guidance()
    whole = evaluate(pipe, dataset, EvaluationSize(4, 4, 2, 0, 30, 0))
    assert metrics["differences"] == whole["differences"], "its projector is not led, so that these are without"
    plain = whole["sources"][BACKBONE]
    for name in ("cycle_error", "mrr"):
        assert own[BACKBONE]["unguided"][name] == plain[name]
    for name, number in plain["retention"].items():
        assert own[BACKBONE]["unguided"]["retention"][name]["value"] == number["value"]
    written = json.loads(write_metrics({**metrics, "none": math.nan, "two": [1, math.inf]}, tmp_path).read_text())
    assert "none" not in written and "two" not in written and set(written["sources"]) == set(own)
