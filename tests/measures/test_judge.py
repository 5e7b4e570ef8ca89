"""The outside judge: numbers that are known for sets of images that are made to have them."""

import json
import math

import pytest
import torch

import rcdm
from rcdm import cli
from rcdm.data.datasets import load_dataset
from rcdm.data.in_memory import Photographs, Pixels
from rcdm.diffusion.model_card import markdown_tables
from rcdm.measures.judge import Evaluator, is_sister
from rcdm.measures.parts import Parts, keeping


@pytest.fixture(scope="module")
def judge(tiny_checkpoint):
    return Evaluator(rcdm.load_source(f"{tiny_checkpoint}/tiny/backbone"), load_dataset("sprites", 16), n=1000)


def held_out(n: int) -> torch.Tensor:
    return load_dataset("sprites", 16).held_out(n).images


def noise(n: int) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_training_images_are_looked_at_once_where_an_evaluation_goes_on(tiny_checkpoint, judge, tmp_path, monkeypatch):
    source, data = rcdm.load_source(f"{tiny_checkpoint}/tiny/backbone"), load_dataset("sprites", 16)
    with keeping(Parts(tmp_path / "parts")):
        Evaluator(source, data, n=1000)
        monkeypatch.setattr(Evaluator, "features", None)
        again = Evaluator(source, data, n=1000)
    monkeypatch.undo()
    assert torch.equal(again.classes(held_out(200)), judge.classes(held_out(200)))
    assert again.copying(noise(50), held_out(50)) == judge.copying(noise(50), held_out(50))


def test_kid_is_nothing_for_two_halves_of_the_data_and_large_for_noise(judge):
    images = held_out(400)
    same, other = (judge.kid(images[:200], real, subset_size=100) for real in (images[200:], noise(200)))
    assert abs(same["value"]) < 3 * same["deviation"] and other["value"] > 10 * abs(same["value"])
    assert same == judge.kid(images[:200], images[200:], subset_size=100) and same["n"] == 200


def test_fid_is_small_for_two_halves_of_the_data_and_large_for_noise(judge):
    images = held_out(400)
    same, other = (judge.fid(images[:200], real) for real in (images[200:], noise(200)))
    assert 0 <= same["value"] < other["value"] / 3 and same["n"] == same["n_real"] == 200
    assert judge.fid(images[:200], images[:200])["value"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("judge_name", "network", "config", "sister"),
    [
        ("efficientnet-lite1/backbone", "efficientnet-lite0", {}, True),
        ("efficientnet-lite1/backbone", "mine", {"arguments": {"name": "tf_efficientnet_lite0"}}, True),
        ("efficientnet-lite1/backbone", "simclr", {"arguments": {"width": 32}}, False),
        ("inception/backbone", "efficientnet-lite0", {}, False),
    ],
)
def test_sisters_are_of_one_family(judge_name, network, config, sister):
    assert is_sister(judge_name, network, config) is sister


def test_a_sister_is_marked_beside_its_number():
    number = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 8, "null": 0.1}
    judged = {"kid": {"value": 1.0, "deviation": 0.1}, "fid": {"value": 0.2, "n": 8}}
    judged |= {"copying": number, "spread_perceptual": number}
    source = judged | dict.fromkeys(("cycle_error", "cycle_error_shuffled", "cycle_error_shifted", "mrr"), number)
    source |= {"recall_at_1": number, "retention": {}, "sister": True}
    metrics = {"n": 8, "retention_images": 4, "retention_draws": 2, "num_inference_steps": 2, "probe_images": 40}
    metrics |= {"evaluator": "efficientnet-lite1/backbone", "unconditional": judged}
    table = markdown_tables(metrics | {"sources": {"efficientnet-lite0/backbone": source}})
    assert "| efficientnet-lite0/backbone † | 1.00 ± 0.10 | 0.200 (8) |" in table
    assert "† The judge is a sister" in table and "| *unconditional draws* |" in table


def test_photographs_have_a_judge_where_its_package_is_and_the_drawn_world_none(tiny_checkpoint, monkeypatch, capsys):
    from rcdm.cli import measuring

    pipe = rcdm.load(tiny_checkpoint, device="cpu")
    assert measuring._usual_judges({"tiny"}, pipe, "sprites") == []
    monkeypatch.setattr(measuring, "load_source", lambda name: None)
    assert measuring._usual_judges({"tiny"}, pipe, "photos") == ["efficientnet-lite1/backbone"]

    def missing(name):
        raise ValueError("not installed: `pip install it`")

    monkeypatch.setattr(measuring, "load_source", missing)
    assert measuring._usual_judges({"tiny"}, pipe, "photos") == [] and "pip install it" in capsys.readouterr().err


def test_copies_of_training_images_are_found(judge):
    copies, fresh = load_dataset("sprites", 16).batch(0, 500).images[:100], held_out(300)
    assert judge.copying(copies, fresh[100:])["copying"]["value"] < 0.01
    none = judge.copying(fresh[:100], fresh[100:])
    assert none["copying"]["value"] == pytest.approx(1, abs=0.2) and none["copied"]["value"] < 0.08
    assert none["copied"]["null"] == 0.01 and none["copying"]["among"] == 1000 and "of" not in none["copying"]
    few = judge.copying(torch.cat([copies[:30], fresh[:70]]), fresh[100:])  # a median does not see them
    assert few["copying"]["value"] > 0.7 and few["copied"]["value"] == pytest.approx(0.3, abs=0.08)


def test_copies_are_looked_for_among_images_that_the_probe_does_not_learn_from(tiny_checkpoint):
    pixels = Pixels((127.5 * (noise(900) + 1)).byte(), torch.arange(900) % 2)
    data = Photographs(pixels, Pixels(pixels.images[:4], pixels.labels[:4]), name="noise", classes=2, seed=0)
    source = rcdm.load_source(f"{tiny_checkpoint}/tiny/backbone")
    judge, short = (Evaluator(source, data, n=100, known=known) for known in (10_000, 300))
    training = data.batch(0, 900).images
    fresh = torch.rand(100, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert judge.copying(training, fresh)["copying"]["value"] == pytest.approx(0, abs=1e-3)
    assert (
        judge.copying(training[700:], fresh)["copied"] | {"among": 900, "of": 900, "value": 1.0}
        == judge.copying(training[700:], fresh)["copied"]
    )
    among = short.copying(training[700:], fresh)["copying"]
    assert among["value"] > 0.5 and among["among"] == 300 and among["of"] == 900


def test_copying_and_spread_are_ratios_of_lengths_on_the_circle():
    """A judge that sees angles: training images at 0 and a right angle; draws at a, held-out images at b."""

    def pictures(*degrees: float) -> torch.Tensor:
        angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
        return 3 * torch.stack([angles.cos(), angles.sin()], 1)  # a length that must not matter

    def chord(degrees: float) -> float:
        return 2 * math.sin(math.radians(degrees) / 2)

    judge = object.__new__(Evaluator)
    judge.features = lambda images: images
    judge._training, judge.training_images = pictures(0, 90) / 3, None
    copying = judge.copying(pictures(5, 10, 80, 40, 95), pictures(30, 20, 60))
    copying, copied = copying["copying"], copying["copied"]
    assert copying["value"] == pytest.approx(chord(10) / chord(30)) and copying["null"] == 1 and copying["n"] == 5
    assert copied["value"] == pytest.approx(4 / 5)  # all but the one at 40 degrees lie nearer than 20
    draws = torch.stack([pictures(0, 20), pictures(50, 90)])  # two draws of two images
    spread = judge.spread(draws, pictures(0, 60))
    assert spread.value == pytest.approx((chord(20) + chord(40)) / 2 / chord(60)) and spread.n == 2


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
    sizes += ["--guidance-images", "6", "--guidance-draws", "2"]
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
    assert set(metrics["unconditional"]) == {"kid", "fid", "copying", "copied", "spread_perceptual"}
    source = metrics["sources"]["tiny/projector"]
    assert source["fid"]["n"] == source["fid"]["n_real"] == 8 and "| FID (N) |" in printed
    assert source["sister"] is False and "†" not in printed
    assert source["kid"]["n"] == 8 and source["copying"]["null"] == 1
    assert {"class", "hue", "edges", "place"} <= set(source["retention"]) and set(metrics["spread"]) >= {"class"}
