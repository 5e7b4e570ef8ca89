"""Pretraining: the loop, its states, the source folders and the numbers that it leaves."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

import rcdm
from rcdm import cli
from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.data.datasets import load_dataset
from rcdm.data.transformations import TELLING
from rcdm.measures.metrics import effective_rank
from rcdm.networks import source_folder
from rcdm.networks.backbones import build_backbone
from rcdm.networks.representation import SSLNetwork
from rcdm.networks.source_folder import load_network, read_config
from rcdm.networks.sources import read_sources
from rcdm.ssl import pretraining
from rcdm.ssl.objectives import OBJECTIVES
from rcdm.ssl.pretraining import PretrainConfig, pretrain, save_source
from rcdm.ssl.source_metrics import SourceEvaluationSize, knn, measure_source, pieces
from rcdm.training import denoiser
from rcdm.training.budget import Budget, Progress
from rcdm.training.config import TrainingConfig
from rcdm.training.loop import Diverged
from rcdm.training.resume import saved_states

TINY = {"width": 4, "blocks": (1, 1, 1, 1), "stem_stride": 1, "projector_dim": 8, "projector_hidden_dim": None}
TINY |= {"batch_size": 16, "max_steps": 3, "warmup_steps": 1, "mixed_precision": "no"}


def tiny(**changes) -> PretrainConfig:
    return PretrainConfig(**{"objective": "simclr", **TINY, **changes})


def data():
    return load_dataset("sprites", 16)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_network(folder)[0].state_dict()


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_trains_and_leaves_a_source(name, tmp_path):
    before = pretraining._Learner(data(), tiny(objective=name)).network().state_dict()
    pretrain(data(), tiny(objective=name), tmp_path / name)
    after = weights(tmp_path / name)
    assert set(after) == set(before) and not torch.equal(
        after["backbone.conv1.weight"], before["backbone.conv1.weight"]
    )
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert read_sources(tmp_path).names == (f"{name}/backbone", f"{name}/projector")


@pytest.fixture
def photographs(tmp_path):
    """54 images without labels."""
    torch.manual_seed(0)
    (tmp_path / "photos").mkdir()
    for k in range(60):
        im.to_pil(torch.rand(1, 3, 16, 16) * 2 - 1)[0].save(tmp_path / "photos" / f"{k}.png")
    return load_dataset(str(tmp_path / "photos"), 16)


@pytest.mark.parametrize("name", ["supervised", "simclr-supervised"])
def test_labels_that_are_not_there_are_asked_for(name, photographs, tmp_path):
    with pytest.raises(ValueError, match=f"{name} needs labels"):
        pretrain(photographs, tiny(objective=name), tmp_path / name)


def test_no_image_is_its_own_negative(photographs, tmp_path):
    with pytest.raises(ValueError, match=f"at most {photographs.n_train}"):
        pretrain(photographs, tiny(batch_size=64), tmp_path / "simclr")
    pretrain(photographs, tiny(batch_size=photographs.n_train, max_steps=1), tmp_path / "simclr")


@pytest.mark.parametrize("n", [7, 16, 32, 54, 99])
def test_the_first_images_in_pieces_are_each_there_once(n, photographs):
    own = torch.cat([batch.images for batch in pieces(photographs, n, chunk=16)])
    known = photographs.n_train
    assert len(own) == min(n, known) == len(own.flatten(1).unique(dim=0))
    if n < known:
        assert torch.equal(own, photographs.batch(0, n).images)
    drawn = torch.cat([batch.images for batch in pieces(data(), 20, chunk=16)])
    assert torch.equal(drawn, data().batch(0, 16).images)  # they have no end


def test_what_cannot_be_pretrained_is_refused():
    for changes in ({"max_steps": 0}, {"max_minutes": 0.0}, {"batch_size": 0}, {"blocks": (1, 0, 1, 1)}):
        with pytest.raises(ValueError, match=f"{next(iter(changes))} must be"):
            tiny(**changes)
    with pytest.raises(ValueError, match="give a weight_decay, or take sgd"):
        tiny(optimizer="lars", weight_decay=0.0)


def test_the_rate_is_for_the_images_of_all_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining.Accelerator, "num_processes", property(lambda _: 2))
    run = pretraining._Run(data(), tiny(learning_rate=1e-3), tmp_path)
    assert run.peak == pytest.approx(1e-3 * 32 / 256) and run._images_per_step == 32


def test_batches_are_counted_whatever_the_number_of_processes_was(tmp_path, monkeypatch):
    run, taken = pretraining._Run(data(), tiny(), tmp_path), []
    batch = run.dataset.batch
    monkeypatch.setattr(run.dataset, "batch", lambda place, n: (taken.append(place), batch(place, n))[1])
    for images in (0, 16, 96):  # 96: after steps of several processes
        run.progress.images = images
        run.step()
    assert taken == [0, 1, 6]


def test_processes_wait_for_the_first_as_long_as_it_measures(tmp_path, monkeypatch):
    seen = []

    def stop(**given):
        seen.extend(given["kwargs_handlers"])
        raise KeyboardInterrupt

    for module in (pretraining, denoiser):
        monkeypatch.setattr(module, "Accelerator", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(data(), tiny(), tmp_path / "simclr")
    with pytest.raises(KeyboardInterrupt):
        denoiser.train(TrainingConfig(sources_dir="s", output_dir=str(tmp_path / "run"), max_train_steps=1))
    assert [handler.timeout.total_seconds() for handler in seen] == [86_400, 86_400]


def test_a_network_that_was_not_written_to_its_end_is_written_again(tmp_path, monkeypatch):
    """Killed while it is written, a run goes on from its state, and an older network is still whole."""

    def stop(_, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(source_folder, "save_file", stop)
        pretrain(data(), tiny(checkpointing_minutes=0.0), tmp_path / "simclr")
    assert saved_states(tmp_path / "simclr") and not (tmp_path / "simclr" / "model.safetensors").exists()
    pretrain(data(), tiny(checkpointing_minutes=0.0), tmp_path / "simclr", resume=True)
    assert weights(tmp_path / "simclr") and not list((tmp_path / "simclr").glob("*.partial"))


def test_a_run_remembers_how_many_directions_are_in_use(tmp_path):
    pretrain(data(), tiny(), tmp_path / "simclr")
    network = load_network(tmp_path / "simclr")[0]
    with torch.no_grad():
        h = network.backbone(data().held_out(2000).images)
        z = torch.nn.functional.normalize(network.projector(h), dim=1)
    last = json.loads((tmp_path / "simclr" / "config.json").read_text())["training"]["history"][-1]
    assert last["effective_rank"] == pytest.approx(effective_rank(h), rel=1e-3)
    assert last["projector_effective_rank"] == pytest.approx(effective_rank(z), rel=1e-3)
    ordered = torch.linalg.eigvalsh(torch.cov(z.T.double())).flip(0)
    assert [last["eigenvalue_1"], last["eigenvalue_4"]] == pytest.approx(
        [ordered[0].item(), ordered[3].item()], rel=1e-3
    )
    assert "eigenvalue_16" not in last  # z has 8 numbers


def test_pretraining_depends_on_its_seed_alone(tmp_path):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        torch.manual_seed(len(name))
        pretrain(load_dataset("sprites", 16, seed=seed), tiny(seed=seed), tmp_path / name)
    first, again, other = (weights(tmp_path / name) for name in ("first", "again", "other"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])


@pytest.mark.parametrize("objective", ["byol", "isoloss"])
def test_a_resumed_run_ends_with_the_same_weights(objective, tmp_path, monkeypatch):
    config = tiny(objective=objective, max_steps=6, checkpointing_minutes=0.0)
    pretrain(data(), config, tmp_path / "whole")

    steps = iter(range(4))

    def interrupted(self):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step(self)

    step = pretraining._Run.step
    monkeypatch.setattr(pretraining._Run, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(data(), config, tmp_path / "halves")
    monkeypatch.setattr(pretraining._Run, "step", step)
    assert [state.name for state in saved_states(tmp_path / "halves")] == ["checkpoint-4"]
    with pytest.raises(ValueError, match="--resume"):
        pretrain(data(), config, tmp_path / "halves")
    pretrain(data(), config, tmp_path / "halves", resume=True)
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    assert not saved_states(tmp_path / "halves")  # a finished run leaves the source alone


def test_what_is_saved_is_what_is_returned(tmp_path):
    network = pretrain(data(), tiny(), tmp_path / "simclr")
    loaded, preprocessing = load_network(tmp_path / "simclr")
    x = preprocessing(data().held_out(3).images)
    assert torch.allclose(loaded(x), network(x), atol=1e-5)  # they differ in memory format
    assert (tmp_path / "simclr" / "model.safetensors").stat().st_size < 2.5 * sum(
        p.numel() for p in network.parameters()
    ) + 20_000  # two bytes for each weight


def test_a_network_that_has_collapsed_can_be_read(tmp_path):
    network = SSLNetwork(build_backbone("small_resnet", **tiny().architecture()))
    progress = Progress(history=[{"step": 1.0, "effective_rank": math.nan}])
    save_source(tmp_path, network, data(), tiny(), progress)
    load_network(tmp_path)
    assert read_config(tmp_path)["training"]["history"] == [{"step": 1.0}]


@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_a_run_begins_with_the_weights_it_is_given(objective, tmp_path):
    pretrain(data(), tiny(objective=objective), tmp_path / "first")
    again = tiny(objective=objective, start_from=str(tmp_path / "first"), learning_rate=0.0, max_steps=1, seed=7)
    pretrain(data(), again, tmp_path / "again")
    first, after = weights(tmp_path / "first"), weights(tmp_path / "again")
    assert all(torch.equal(first[name], after[name]) for name in first if name.endswith("weight"))
    record = json.loads((tmp_path / "again" / "config.json").read_text())["training"]
    assert (record["steps"], record["before"]["steps"]) == (1, 3)
    target = pretraining._Run(data(), again, tmp_path / "run").learner.target
    assert target is None or torch.equal(target.backbone.conv1.weight, first["backbone.conv1.weight"])


def test_a_run_begins_with_no_network_of_another_shape(tmp_path):
    pretrain(data(), tiny(), tmp_path / "first")
    with pytest.raises(ValueError, match="another shape"):
        pretrain(data(), tiny(width=8, start_from=str(tmp_path / "first")), tmp_path / "wider")
    with pytest.raises(ValueError, match="not a source folder"):
        pretrain(data(), tiny(start_from=str(tmp_path)), tmp_path / "nowhere")


def test_views_are_small_in_the_first_half_and_whole_in_the_second(tmp_path):
    run = pretraining._Run(data(), tiny(early_size=8, max_steps=4), tmp_path)
    sides = []
    for run.progress.step in range(4):
        sides.append(run._views(run.progress.step)[0].shape[2])
    assert sides == [8, 8, 16, 16]


def test_a_time_budget_ends_with_a_finished_schedule():
    budget, progress = Budget(None, 2.0, 10), Progress()
    assert budget.rate(progress) == pytest.approx(0.1)
    progress.step, progress.seconds = 50, 60.0
    assert budget.share(progress) == 0.5 and budget.rate(progress) == pytest.approx(0.5)
    progress.seconds = 120.0
    assert budget.finished(progress) and budget.rate(progress) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="how long"):
        Budget(None, None, 10)


def test_a_diverged_run_says_so_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rcdm.ssl.source_metrics.measure_folder", lambda *_, **__: "")
    arguments = ["pretrain", "--objective", "vicreg", "simclr", "--resolution", "16", "--out", str(tmp_path)]
    arguments += ["--width", "4", "--batch-size", "8", "--max-steps", "2", "--mixed-precision", "no"]
    monkeypatch.setitem(pretraining.OBJECTIVES, "vicreg", Exploding)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2 and "vicreg is nan at step" in capsys.readouterr().err
    assert not (tmp_path / "vicreg" / "model.safetensors").exists()
    assert (tmp_path / "simclr" / "model.safetensors").exists()


class Exploding(OBJECTIVES["vicreg"]):
    def forward(self, z_a, z_b, labels, targets=None):
        return (z_a * float("nan")).sum()


def test_a_run_without_a_finite_loss_raises(tmp_path, monkeypatch):
    monkeypatch.setitem(pretraining.OBJECTIVES, "simclr", Exploding)
    with pytest.raises(Diverged, match="lower the learning rate"):
        pretrain(data(), tiny(), tmp_path / "simclr")


def test_partners_share_the_label_and_come_from_outside_the_batch():
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 1, 3, 0])
    seen = set()
    for seed in range(20):
        partners = pretraining._partners(labels, 4, torch.Generator().manual_seed(seed))
        assert torch.equal(labels[partners], labels[:4])
        assert torch.equal(partners < 4, torch.tensor([False, False, True, False])) and partners[2] == 2
        seen |= set(partners.tolist())
    assert seen == {2, 4, 5, 6, 8}


def test_one_pass_gives_what_each_source_gives(pipe):
    images = data().held_out(5).images
    network = pipe.sources["tiny/backbone"].network
    levels = network.all_levels(pipe.sources["tiny/backbone"].preprocessing(images))
    assert tuple(levels) == network.levels()
    for name in pipe.sources:
        assert torch.equal(levels[name.partition("/")[2]], pipe.encode(images, name))


def test_nearest_neighbours_find_classes_that_are_apart():
    stream = torch.Generator().manual_seed(0)
    centres = torch.eye(3, 8) * 10
    labels = torch.arange(300) % 3
    h = centres[labels] + torch.randn(300, 8, generator=stream)
    number = knn(h[:200], labels[:200], h[200:], labels[200:], 3)
    assert number.value == 1.0 and number.null == pytest.approx(1 / 3) and number.n == 100
    shuffled = knn(h[:200], labels[:200][torch.randperm(200, generator=stream)], h[200:], labels[200:], 3)
    assert shuffled.value < 0.6


def test_a_measured_source_has_every_number_with_its_n(tmp_path):
    pretrain(data(), tiny(), tmp_path / "simclr")
    network, preprocessing = load_network(tmp_path / "simclr")
    size = SourceEvaluationSize(train_images=60, test_images=40, transformation_images=20, probe_images=64)
    metrics = measure_source(network, preprocessing, data(), tiny().views, size)
    assert tuple(metrics["levels"]) == network.levels() and metrics["n"] == 40
    for level in metrics["levels"].values():
        assert {level[name]["n"] for name in ("knn20", "linear_top1", "margin", "effective_rank")} == {40}
        assert 1 <= level["effective_rank"]["value"] <= level["width"]
        chance = {name: number["null"] for name, number in level["transformation_probe"].items()}
        assert chance == {"rotation": 0.25, "flip": 0.5, "hue": 0.25, "grey": 0.5}
    assert metrics["levels"]["layer4"]["knn20"] == metrics["levels"]["backbone"]["knn20"]


def test_the_command_trains_several_and_evaluate_measures_them_again(tmp_path, monkeypatch, capsys):
    out = tmp_path / "checkpoint" / "sources"
    small = SourceEvaluationSize(train_images=60, test_images=40, transformation_images=20, probe_images=64)
    monkeypatch.setattr("rcdm.ssl.source_metrics.SourceEvaluationSize", lambda: small)
    monkeypatch.setattr("rcdm.ssl.source_metrics.TELLING", {"flip": TELLING["flip"]})
    arguments = ["pretrain", "--objective", "simclr", "supervised", "--name", "simclr-nojitter", "supervised"]
    arguments += ["--resolution", "16", "--width", "4", "--max-steps", "2", "--batch-size", "8", "--out", str(out)]
    cli.main([*arguments, "--jitter", "0", "--hue", "0", "--mixed-precision", "no"])
    printed = capsys.readouterr().out
    metrics = json.loads((out / "simclr-nojitter" / "metrics.json").read_text())
    assert f"{metrics['levels']['backbone']['linear_top1']['value']:.3f}" in printed
    assert set(metrics["ridge_r2"]["projector"]) == set(sprites.KINDS)
    training = json.loads((out / "simclr-nojitter" / "config.json").read_text())["training"]
    assert training["views"]["jitter"] == 0 and training["views"]["crop"] == 0.5 and training["steps"] == 2
    published = json.loads((out / "supervised" / "config.json").read_text())
    del published["training"]  # as for a network of others, which is measured on the data of the rest
    (out / "supervised" / "config.json").write_text(json.dumps(published))
    (out / "supervised" / "metrics.json").unlink()
    cli.main(["evaluate", str(out.parent)])
    again = json.loads((out / "simclr-nojitter" / "metrics.json").read_text())
    assert again == metrics and (out / "supervised" / "metrics.json").exists()
    assert rcdm.load_source(f"{out.parent}/simclr-nojitter/layer2").dim == 8
    cli.main(["report", "--checkpoint", str(out.parent), "--out", str(tmp_path / "report")])
    table = (tmp_path / "report" / "networks.md").read_text()
    gap = [100 * again["levels"][level]["linear_top1"]["value"] for level in ("projector", "backbone")]
    assert f"| {gap[0] - gap[1]:+.1f} |" in table and "N 40" in table
    assert (tmp_path / "report" / "networks.pdf").read_bytes().startswith(b"%PDF")
    shutil.rmtree(out / "supervised")
    cli.main([*arguments, "--resume", "--jitter", "0", "--hue", "0", "--mixed-precision", "no"])
    assert "finished already" in capsys.readouterr().out and (out / "supervised" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--objective", "magic"], "simclr-supervised"),
        (["--objective", "simclr", "--early-size", "0"], "at least 4 pixels"),
        (["--objective", "simclr", "--optimizer", "magic"], "lars"),
        (["--objective", "simclr", "vicreg", "--name", "one"], "one --name per"),
        (["--objective", "simclr", "--crop", "2"], "between 0 and 0.99"),
        (["--objective", "simclr", "--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_one_sentence(arguments, words, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        cli.main(["pretrain", "--out", str(tmp_path), *arguments])
    assert stop.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("optimizer", list(pretraining.OPTIMIZERS))
def test_every_optimizer_lowers_the_loss_of_a_batch(optimizer, tmp_path):
    rates = {"adamw": 0.03, "sgd": 1.0, "lars": 30.0}
    config = tiny(objective="supervised", optimizer=optimizer, learning_rate=rates[optimizer], max_steps=60)
    run = pretraining._Run(data(), config, tmp_path)
    run.progress.step = 1  # the same batch again and again
    losses = [float(run.step()) for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]


def test_the_target_network_follows_slowly_and_stands_still_at_the_end(tmp_path):
    config = tiny(objective="byol", max_steps=4, learning_rate=0.05)
    run = pretraining._Run(data(), config, tmp_path)
    learner = run.accelerator.unwrap_model(run.learner)
    for step, kept in ((0, 0.99), (2, 1 - 0.01 * 0.5), (4, 1.0)):  # 1 - 0.01 (1 + cos(π step / 4)) / 2
        run.progress.step = step
        before = learner.target.backbone.conv1.weight.detach().clone()
        run.step()
        online, after = learner.backbone.conv1.weight.detach(), learner.target.backbone.conv1.weight.detach()
        assert torch.allclose(after, kept * before + (1 - kept) * online, atol=1e-7)
        assert step == 4 or (online - before).abs().max() > 1e-4


def test_nothing_flows_back_into_the_target(tmp_path):
    run = pretraining._Run(data(), tiny(objective="byol", max_steps=2), tmp_path)
    run.step()
    assert all(
        not p.requires_grad and p.grad is None for p in run.accelerator.unwrap_model(run.learner).target.parameters()
    )
