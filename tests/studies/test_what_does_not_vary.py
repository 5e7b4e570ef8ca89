"""Grey images have no colours to keep: nothing is said of what is the same in all images, and that is said."""

import json
import math

import pytest
import torch
from torch import Tensor

import rcdm
from rcdm import cli
from rcdm.data import sprites
from rcdm.data.colour import luma
from rcdm.data.in_memory import Photographs, Pixels
from rcdm.measures.attributes import Attributes, kept_by_draws, photo_attributes, varying_in
from rcdm.studies import STUDIES
from rcdm.studies.evaluation import EvaluationSize, enough_images, evaluate, write_metrics

COLOURS = {"hue", "saturation", "warmth", "place"}
BOTH = ("tiny/backbone", "tiny/projector")


def grey(n: int, seed: int = 2) -> Tensor:
    images = sprites.render(sprites.sample_factors(n, seed), 16)
    return luma((images + 1) / 2).expand(-1, 3, -1, -1).mul(255).round() / 127.5 - 1


def photographs(n: int, held_out: int) -> Photographs:
    def pixels(k: int, seed: int) -> Pixels:
        return Pixels((127.5 * (grey(k, seed) + 1)).round().byte(), torch.zeros(k, dtype=torch.long))

    return Photographs(pixels(n, 3), pixels(held_out, 4), name="grey", classes=1, seed=0)


def test_attributes_that_vary_are_left_and_one_image_leaves_none():
    own = Attributes(photo_attributes, {})
    left, constant = varying_in(own, grey(8))
    assert set(constant) == COLOURS and not set(left.read(grey(2))) & COLOURS
    assert varying_in(own, sprites.render(sprites.sample_factors(8, 1), 16))[1] == []
    with pytest.raises(ValueError, match="alike in everything"):
        varying_in(own, grey(1).expand(4, -1, -1, -1))


@pytest.mark.parametrize("study", ["retention", "guidance", "levels", "width"])
def test_a_study_of_grey_images_says_what_it_leaves_out(pipe, study, monkeypatch):
    for module in ("retention_study", "guidance_scale", "levels_study", "width"):
        monkeypatch.setattr(f"rcdm.studies.{module}.attributes_of", lambda pipe: Attributes(photo_attributes, {}))
    options = {"guidance": {"reference": grey(40, 3), "strengths": ""}, "retention": {"probe_images": grey(40, 3)}}
    usual = {"reference": grey(40, 3), "drawn_images": 4, "noise_levels": 2}
    result = STUDIES[study](
        pipe, grey(12), sources=BOTH, seeds=[0, 1], num_inference_steps=2, **options.get(study, usual)
    )
    assert set(result.numbers["constant"]) == COLOURS and "Left out, as the same in all images" in result.summary
    json.dumps(result.numbers, allow_nan=False)


def test_guidance_is_chosen_by_what_varies(pipe, monkeypatch):
    """A number that is the same everywhere changes nothing of the choice."""
    images = 2 * torch.rand(30, 1, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 3, 16, 16) - 1

    def read(pictures: Tensor) -> dict[str, Tensor]:
        return {"mean": pictures.mean((1, 2, 3))[:, None]}

    def more(pictures: Tensor) -> dict[str, Tensor]:
        return {**read(pictures), "none": torch.zeros(len(pictures), 1)}

    options = {"sources": BOTH[:1], "seeds": [0, 1], "reference": images.flip(0), "strengths": ""}
    one, two = (
        STUDIES["guidance"](pipe, images, attributes=Attributes(own, {}), num_inference_steps=2, **options)
        for own in (read, more)
    )
    assert one.numbers["sources"] == two.numbers["sources"] and two.numbers["constant"] == ["none"]
    assert math.isfinite(one.numbers["sources"][BOTH[0]]["tried"]["off"]["off"]["value"])


def test_a_checkpoint_of_grey_images_is_evaluated_and_drawn_from(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("rcdm.studies.evaluation.attributes_of", lambda pipe: Attributes(photo_attributes, {}))
    size = EvaluationSize(
        gallery=6, retention_images=4, retention_draws=2, probe_images=30, guidance_images=0, guidance_draws=2
    )
    metrics = evaluate(pipe, photographs(40, 8), size, num_inference_steps=2)
    assert not set(metrics["sources"][BOTH[0]]["retention"]) & COLOURS and metrics["spread"]["saturation"] == 0
    pipe.save_pretrained(tmp_path / "mine")
    write_metrics(metrics, tmp_path / "mine")
    assert rcdm.load(tmp_path / "mine").sources
    phi = {name: torch.rand(4, 1) for name in ("saturation", "brightness")}
    assert set(kept_by_draws(Attributes(photo_attributes, metrics["spread"]), phi)) == {"brightness"}
    file = tmp_path / "grey.png"
    from rcdm.data import images as im

    im.to_pil(grey(1))[0].save(file)
    cli.main(["sample", str(file), "--checkpoint", str(tmp_path / "mine"), "--samples", "2", "--steps", "2",
              "--out", str(tmp_path / "out.png")])  # fmt: skip
    assert (tmp_path / "out.png").is_file()


def test_probes_learn_from_no_image_twice():
    size = EvaluationSize(probe_images=4096)
    held_out, probe_images = enough_images(photographs(50, 8), size)
    assert len(probe_images) == 50 == len(probe_images.unique(dim=0)) and len(held_out) == 8
    with pytest.raises(ValueError, match="at least 20"):
        enough_images(photographs(9, 4), size)


@pytest.mark.parametrize("study", ["levels", "width"])
def test_one_drawn_image_has_no_retention(pipe, study):
    with pytest.raises(ValueError, match="two drawn_images"):
        STUDIES[study](pipe, grey(12), sources=BOTH, seeds=[0, 1], reference=grey(40, 3), drawn_images=1)
