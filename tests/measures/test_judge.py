"""The outside judge: numbers that are known for sets of images that are made to have them."""

import json

import pytest
import torch

import rcdm
from rcdm import cli
from rcdm.data.datasets import load_dataset
from rcdm.measures.judge import Evaluator


@pytest.fixture(scope="module")
def judge(tiny_checkpoint):
    return Evaluator(rcdm.load_source(f"{tiny_checkpoint}/tiny/backbone"), load_dataset("sprites", 16), n=1000)


def held_out(n: int) -> torch.Tensor:
    return load_dataset("sprites", 16).held_out(n).images


def noise(n: int) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_kid_is_nothing_for_two_halves_of_the_data_and_large_for_noise(judge):
    images = held_out(400)
    same, other = (judge.kid(images[:200], real, subset_size=100) for real in (images[200:], noise(200)))
    assert abs(same["value"]) < 3 * same["deviation"] and other["value"] > 10 * abs(same["value"])
    assert same == judge.kid(images[:200], images[200:], subset_size=100) and same["n"] == 200


def test_copies_of_training_images_are_found(judge):
    copies, fresh = load_dataset("sprites", 16).batch(0, 500).images[:100], held_out(300)
    assert judge.copying(copies, fresh[100:]).value < 0.01
    assert judge.copying(fresh[:100], fresh[100:]).value == pytest.approx(1, abs=0.2)


def test_spread_runs_from_nothing_to_that_of_the_data(judge):
    images = held_out(320)
    assert judge.spread(images[:8, None].expand(-1, 4, -1, -1, -1), images).value == pytest.approx(0, abs=1e-3)
    assert judge.spread(images.unflatten(0, (80, 4)), images).value == pytest.approx(1, abs=0.1)


def test_classes_are_one_hot_and_better_than_chance(judge):
    data = load_dataset("sprites", 16)
    batch = data.batch(0, 500)
    read = judge.classes(batch.images)
    assert read.shape == (500, data.classes) and torch.equal(read.sum(1), torch.ones(500))
    assert float((read.argmax(1) == batch.labels).float().mean()) > 1.3 / data.classes


def test_evaluate_reports_the_judge_and_refuses_a_source(judge, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rcdm.cli.measuring.Evaluator", lambda source, dataset: judge)
    sizes = ["--gallery", "8", "--retention-images", "4", "--retention-draws", "2", "--probe-images", "40"]
    arguments = ["evaluate", str(tiny_checkpoint), "--device", "cpu", "--out", str(tmp_path), *sizes, "--evaluator"]
    with pytest.raises(SystemExit):
        cli.main([*arguments, f"{tiny_checkpoint}/tiny/backbone"])
    assert "another network" in capsys.readouterr().err
    (tmp_path / "judges" / "sources").mkdir(parents=True)
    (tmp_path / "judges" / "sources" / "judge").symlink_to(tiny_checkpoint / "sources" / "tiny")
    cli.main([*arguments, f"{tmp_path}/judges/judge/backbone"])
    printed = capsys.readouterr().out
    assert "| *unconditional draws* |" in printed and f"Judged by {judge.name}" in printed
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["evaluator"] == judge.name
    assert set(metrics["unconditional"]) == {"kid", "copying", "spread_perceptual"}
    source = metrics["sources"]["tiny/projector"]
    assert source["kid"]["n"] == 8 and source["copying"]["null"] == 1
    assert {"class", "hue", "edges", "place"} <= set(source["retention"]) and set(metrics["spread"]) >= {"class"}
