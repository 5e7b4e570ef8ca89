"""Two independent answers to what is kept: where they are the same, and where the report says that they are not."""

import json

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_SOURCES

import rcdm
from rcdm import cli
from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.measures.readers import attributes_of
from rcdm.measures.retention import cross_check, draw_each, retention_numbers
from rcdm.studies.retention_study import study

BACKBONE = TINY_SOURCES[0]


def cell(value: float, half: float = 0.1, **more) -> dict:
    return {"value": value, "low": value - half, "high": value + half, "n": 9, "calibration": 1.0, **more}


@pytest.mark.parametrize(
    ("one", "two", "apart"), [(0.5, 0.5, False), (0.5, 0.65, False), (0.5, 0.75, True), (0.75, 0.5, True)]
)
def test_answers_are_apart_where_their_intervals_do_not_meet(one, two, apart):
    assert cross_check({"hue": cell(one)}, {"hue": cell(two)})["hue"]["apart"] is apart


def test_the_probe_says_which_answer_it_is_nearer_to():
    found = cross_check(
        {"hue": cell(0.2, probe=0.9), "size": cell(0.8, probe=0.9)}, {"hue": cell(0.8), "size": cell(0)}
    )
    assert found["hue"]["nearer"] == "guided" and found["size"]["nearer"] == "trained"
    assert "nearer" not in cross_check({"hue": cell(0.2)}, {"hue": cell(0.8)})["hue"]


def test_a_pipeline_beside_itself_says_the_same_twice(pipe):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1
    result = study(pipe, images, sources=[BACKBONE], seeds=[0, 1], guided=pipe, num_inference_steps=1)
    for found in result.numbers["cross_check"][BACKBONE].values():
        assert found["trained"] == found["guided"] and not found["apart"]
    assert "their intervals meet in 8 of 8 cells." in result.summary


def test_both_are_read_at_the_size_of_the_given_images(pipe, monkeypatch):
    """Sharpness and edges differ by resolution alone."""
    images, larger = sprites.render(sprites.sample_factors(6, seed=5), 16), rcdm.load(pipe.config._name_or_path)

    def doubled(which, *arguments):
        drawn = draw_each(pipe, *arguments)
        return drawn if which is pipe else F.interpolate(drawn, scale_factor=2)

    monkeypatch.setattr("rcdm.studies.retention_study.draw_each", doubled)
    result = study(pipe, images, sources=[BACKBONE], seeds=[0, 1, 2], guided=larger, num_inference_steps=2)
    attributes, drawn = attributes_of(pipe), doubled(larger, pipe.encode(images, BACKBONE), BACKBONE, [0, 1, 2], 2)
    alike = retention_numbers(attributes.read(im.resize(drawn, 16)), {}, attributes.read(images), 3)
    found = result.numbers["cross_check"][BACKBONE]
    assert len(found) == 8
    for name, cell in found.items():
        assert cell["guided"] == {key: alike[name][key] for key in cell["guided"]}


def test_the_command_asks_both_and_knows_what_it_has_asked(tiny_checkpoint, tmp_path, capsys):
    asked = ["study", "retention", "--checkpoint", str(tiny_checkpoint), "--prior", str(tiny_checkpoint), "--data"]
    asked += ["sprites", "--images", "2", "--samples", "2", "--reference", "20", "--steps", "1", "--source", BACKBONE]
    asked += ["--prior-images", "16", "--device", "cpu", "--out", str(tmp_path)]
    cli.main(asked)
    record = json.loads((tmp_path / "retention.json").read_text())
    assert set(record["cross_check"]) == {BACKBONE} and record["guidance"]["method"] == "regression"
    assert "their intervals meet in" in record["summary"] and "retention-cross-check.png" in record["figures"]
    assert "--prior" in record["command"] and record["settings"]["checkpoint"] == str(tiny_checkpoint)
    capsys.readouterr()
    cli.main(asked)
    assert "finished before" in capsys.readouterr().err
