"""A run that is killed and resumed ends where an uninterrupted one does; damage and NaN lose nothing."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from conftest import make_tiny_sources
from PIL import Image
from safetensors.torch import load_file

import rcdm
from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.coarse import coarse_map
from rcdm.diffusion.official.convert import official_scheduler
from rcdm.diffusion.official.loss import VariationalLoss
from rcdm.diffusion.process import Process, VelocityError, velocity_scheduler
from rcdm.diffusion.regressor import learn_source
from rcdm.diffusion.unet import RepresentationUNet
from rcdm.networks.sources import read_sources, runs
from rcdm.training import leading, statistics
from rcdm.training.config import TrainingConfig
from rcdm.training.denoiser import _Run, train
from rcdm.training.loop import Diverged
from rcdm.training.representation_cache import in_memory
from rcdm.training.resume import saved_states
from rcdm.training.setup import optimizer_of


@pytest.fixture(scope="module")
def sources_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    make_tiny_sources().save_pretrained(folder)
    return folder


def tiny(sources_dir: Path, output_dir: Path, **changes) -> TrainingConfig:
    options = {
        "sources_dir": str(sources_dir), "output_dir": str(output_dir), "resolution": 16, "channels": (8, 16),
        "attention_resolutions": (4,), "train_batch_size": 4, "max_train_steps": 8, "checkpointing_steps": 2,
        "num_statistics_images": 16, "validation_steps": 4, "num_validation_images": 4, "num_inference_steps": 2,
        "regressor_images": 0,
    }  # fmt: skip
    return TrainingConfig(**(options | changes))


@pytest.fixture(scope="module")
def uninterrupted(sources_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny(sources_dir, tmp_path_factory.mktemp("whole")))


def train_until(last: int, config: TrainingConfig, monkeypatch) -> None:
    """Interrupt a run when it has done so many steps."""
    step = _Run.step

    def stop(self):
        if self.progress.step == last:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Run, "step", stop)
        train(config)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_training_writes_a_checkpoint_that_draws(uninterrupted: Path):
    pipe = rcdm.load(uninterrupted, device="cpu")
    assert pipe.sources.names == ("tiny/backbone", "tiny/projector") and pipe.config.default_steps == 2
    x = sprites.render(sprites.sample_factors(1, seed=0), 16)
    drawn = pipe(x, source="tiny/projector", seeds=[0, 1], output_type="pt").images
    assert drawn.shape == (2, 3, 16, 16) and torch.isfinite(drawn).all()
    assert (uninterrupted / "validation" / "step-0000004.png").is_file()
    assert all(tensor.dtype == torch.float16 for tensor in weights(uninterrupted).values())


def test_a_run_can_start_from_the_weights_of_a_checkpoint(sources_dir, uninterrupted, tmp_path):
    changes = {"pretrained_model_name_or_path": str(uninterrupted), "learning_rate": 0.0, "max_train_steps": 2}
    folder = train(tiny(sources_dir, tmp_path / "next", **changes))
    assert same(folder, uninterrupted)
    assert f"weights of `{uninterrupted.name}`" in " ".join((folder / "README.md").read_text().split())
    with pytest.raises(ValueError, match="another shape"):
        train(tiny(sources_dir, tmp_path / "wide", **changes, channels=(8, 24)))


def test_a_run_that_starts_from_a_checkpoint_on_other_images_begins_as_it_was(sources_dir, tmp_path):
    """Weights belong to the mean and the deviation, and to the coarse map, with which they were learnt."""
    begun = train(tiny(sources_dir, tmp_path / "begun", coarse_size=4))
    photographs(tmp_path / "images")
    changes = {
        "pretrained_model_name_or_path": str(begun),
        "learning_rate": 0.0,
        "max_train_steps": 2,
        "coarse_size": 4,
    }
    folder = train(tiny(sources_dir, tmp_path / "next", train_data_dir=str(tmp_path / "images"), **changes))
    assert same(folder, begun)


def test_what_would_never_be_learnt_is_refused(sources_dir, uninterrupted, tmp_path):
    begun = {"pretrained_model_name_or_path": str(uninterrupted), "only_projections": True}
    for changes in ({"coarse_size": 4}, {"layers_per_block": 2}):
        with pytest.raises(ValueError, match=f"leave --{next(iter(changes))} as"):
            train(tiny(sources_dir, tmp_path / "next", **begun, **changes))


def test_a_run_that_starts_from_a_checkpoint_may_have_more_blocks_which_change_nothing_at_first(
    sources_dir, uninterrupted, tmp_path, caplog
):
    changes = {"pretrained_model_name_or_path": str(uninterrupted), "learning_rate": 0.0, "max_train_steps": 2}
    folder = train(tiny(sources_dir, tmp_path / "deep", **changes, layers_per_block=2))
    assert "residual blocks per resolution: the further ones begin as identities" in caplog.text
    x = torch.zeros(2, 3, 16, 16)
    before, after = (
        rcdm.load(one, device="cpu")(x, source="tiny/backbone", num_inference_steps=3, output_type="pt").images
        for one in (uninterrupted, folder)
    )
    assert torch.allclose(before, after, atol=2e-3) and before.std() > 0.01
    assert len(weights(folder)) > len(weights(uninterrupted))
    changes["pretrained_model_name_or_path"] = str(
        train(tiny(sources_dir, tmp_path / "even", channels=(8, 8), layers_per_block=2))
    )
    with pytest.raises(ValueError, match="another shape"):  # where all channels are alike every weight would fit
        train(tiny(sources_dir, tmp_path / "shallow", **changes, channels=(8, 8)))


def test_a_run_that_starts_from_a_checkpoint_may_have_other_sources(sources_dir, uninterrupted, tmp_path, caplog):
    changes = {"pretrained_model_name_or_path": str(uninterrupted), "learning_rate": 0.0, "max_train_steps": 2}
    folder = train(tiny(sources_dir, tmp_path / "next", **changes, sources=("tiny/backbone", "tiny/layer1")))
    before, after = weights(uninterrupted), weights(folder)
    shared = before.keys() & after.keys()
    assert any(name.startswith("projections.tiny/backbone") for name in shared)
    assert {name.split(".")[1] for name in after.keys() - shared} == {"tiny/layer1"}
    assert all(torch.equal(before[name], after[name]) for name in shared)
    assert "tiny/layer1: learned anew" in caplog.text


def test_what_draws_can_be_led_by_is_learnt_of_the_finished_denoiser_and_leads_none_unasked(
    sources_dir, uninterrupted, tmp_path
):
    folder = train(tiny(sources_dir, tmp_path / "run", regressor_images=16))
    assert same(folder, uninterrupted)
    pipe, plain = rcdm.load(folder, device="cpu"), rcdm.load(uninterrupted, device="cpu")
    assert pipe.regressor.names == pipe.sources.names and plain.regressor is None
    images = load_dataset("sprites", 16).batch(0, 16).images
    source = "tiny/projector"
    own = learn_source(pipe.unet, pipe.sources, Process(pipe.scheduler), images, source)
    assert all(
        torch.equal(own.state_dict()[name], value) for name, value in pipe.regressor[source].state_dict().items()
    )
    h = pipe.encode(images[:2], source)
    draws = [of.draw(h, source, [0, 1]) for of in (pipe, plain)]
    assert torch.equal(*draws)
    assert not torch.allclose(pipe.draw(h, source, [0, 1], guidance_strength=1), draws[0], atol=0.01)


def test_a_checkpoint_is_complete_before_its_speed_is_measured(sources_dir, uninterrupted, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Run, "speed", interrupted)
        train(tiny(sources_dir, tmp_path / "run"))
    assert same(tmp_path / "run", uninterrupted)


def test_a_checkpoint_is_complete_before_what_leads_its_draws_is_learnt(
    sources_dir, uninterrupted, tmp_path, monkeypatch, caplog
):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(leading, "learn_source", interrupted)
        train(tiny(sources_dir, tmp_path / "run", regressor_images=16))
    assert "is complete" in caplog.text and same(tmp_path / "run", uninterrupted)
    assert rcdm.load(tmp_path / "run", device="cpu").regressor is None
    with pytest.raises(ValueError, match="regressor_images must be 0 or at least 10"):
        tiny(sources_dir, tmp_path, regressor_images=9)
    few = {"train_data_dir": str(photographs(tmp_path / "data", 8)), "max_train_steps": 1, "regressor_images": 16}
    assert rcdm.load(train(tiny(sources_dir, tmp_path / "few", **few)), device="cpu").regressor is None


@pytest.mark.parametrize("cached", [False, True])
def test_coarse_images_are_the_regression_on_training_images(sources_dir, tmp_path, monkeypatch, cached):
    data = {"train_data_dir": str(photographs(tmp_path / "data", 40)), "random_flip": True} if cached else {}
    monkeypatch.setattr(statistics, "CHUNK", 7)
    folder = train(tiny(sources_dir, tmp_path / "run", coarse_size=4, **data))
    unet = rcdm.load(folder, device="cpu").unet
    dataset, sources = load_dataset(data.get("train_data_dir", "sprites"), 16), read_sources(sources_dir)
    images = dataset.take(torch.arange(dataset.n_train)).images if cached else dataset.batch(0, 16).images
    if cached:
        images[1::2] = images[1::2].flip(3)
    h = unet.standardise(sources.encode(images, "tiny/backbone"), "tiny/backbone")
    expected = coarse_map(h, images, 4)
    torch.testing.assert_close(unet.projections["tiny/backbone"].coarse.float(), expected, rtol=0.05, atol=0.02)
    interrupted = tiny(sources_dir, tmp_path / "again", coarse_size=4, **data)
    train_until(5, interrupted, monkeypatch)
    again = train(tiny(sources_dir, tmp_path / "again", coarse_size=4, resume_from_checkpoint="latest", **data))
    assert same(folder, again)


@pytest.mark.parametrize("size", [-1, 17])
def test_a_coarse_image_is_no_larger_than_the_image(sources_dir, tmp_path, size):
    with pytest.raises(ValueError, match="coarse_size must be from 0 to 16"):
        tiny(sources_dir, tmp_path, coarse_size=size)


def test_a_denoiser_without_coarse_images_learns_to_use_them(sources_dir, uninterrupted, tmp_path, caplog):
    """It begins with the same predictions, and its way in moves; the other way round is refused."""
    begun = {"pretrained_model_name_or_path": str(uninterrupted), "coarse_size": 4}
    still = train(tiny(sources_dir, tmp_path / "still", **begun, learning_rate=0.0, max_train_steps=1))
    assert "no coarse images: their way in begins at zero" in caplog.text and "learned anew" not in caplog.text
    old, new = rcdm.load(uninterrupted, device="cpu"), rcdm.load(still, device="cpu")
    x, t = torch.randn(3, 3, 16, 16), torch.tensor([3.0, 500, 999])
    h = old.encode(sprites.render(sprites.sample_factors(3, seed=0), 16), "tiny/backbone")
    with torch.no_grad():
        torch.testing.assert_close(new.unet(x, t, h, "tiny/backbone").sample, old.unet(x, t, h, "tiny/backbone").sample)
    moved = train(tiny(sources_dir, tmp_path / "moved", **begun, lr_warmup_steps=1, ema_decay=0.5))
    assert weights(moved)["unet.conv_in.weight"][:, 12:].abs().max() > 1e-4
    with pytest.raises(ValueError, match="--coarse_size"):
        train(tiny(sources_dir, tmp_path / "back", pretrained_model_name_or_path=str(moved)))


def test_only_projections_leaves_the_denoiser_and_its_free_draws_alone(sources_dir, uninterrupted, tmp_path):
    begun = {"pretrained_model_name_or_path": str(uninterrupted), "only_projections": True}
    folder = train(tiny(sources_dir, tmp_path / "run", lr_warmup_steps=1, ema_decay=0.5, **begun))
    before, after = weights(uninterrupted), weights(folder)
    kept = [name for name in after if name.startswith("unet.")]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)
    learnt = [name for name in after if name.endswith("linear.weight") and name not in kept]
    assert learnt and not any(torch.equal(before[name], after[name]) for name in learnt)
    old, new = rcdm.load(uninterrupted), rcdm.load(folder)
    assert torch.equal(old.draw(None, None, [3]), new.draw(None, None, [3]))
    with pytest.raises(ValueError, match="pretrained_model_name_or_path"):
        tiny(sources_dir, tmp_path, only_projections=True)


def test_what_a_single_held_out_image_cannot_tell_is_left_out(sources_dir, tmp_path):
    folder = train(tiny(sources_dir, tmp_path, max_train_steps=2, validation_steps=1, num_validation_images=1))
    rcdm.load(folder)
    first, _ = json.loads((folder / "training.json").read_text())["history"]
    assert "held_out_error" in first and "tiny/backbone cycle_error" not in first


def test_statistics_are_those_of_the_training_images(uninterrupted: Path):
    pipe = rcdm.load(uninterrupted, device="cpu")
    images = load_dataset("sprites", 16).batch(0, 16).images
    h = pipe.unet.standardise(pipe.encode(images, "tiny/backbone"), "tiny/backbone")
    used = h.std(0) > 1e-3  # a dead unit stays at zero
    assert h.mean(0).abs().max() < 0.01 and torch.allclose(h.std(0)[used], torch.ones(used.sum()), atol=0.02)


def test_a_run_that_ends_in_its_warm_up_says_so(sources_dir, tmp_path, caplog):
    train(tiny(sources_dir, tmp_path, max_train_steps=1, lr_warmup_steps=5))
    assert "ends at step 1, within its warm-up" in caplog.text and "--lr_warmup_steps" in caplog.text


def test_a_run_that_is_at_its_end_says_so(sources_dir, uninterrupted, tmp_path, caplog):
    folder = tmp_path / "again"
    shutil.copytree(uninterrupted, folder)
    assert same(train(tiny(sources_dir, folder, resume_from_checkpoint="latest")), uninterrupted)
    assert "has run to its end" in caplog.text and "--max_train_steps" in caplog.text


def test_muon_moves_all_weights_and_resumes_alike(sources_dir, tmp_path, monkeypatch):
    muon = {"optimizer": "muon", "max_train_steps": 3, "lr_warmup_steps": 1, "validation_steps": 99}
    whole = train(tiny(sources_dir, tmp_path / "whole", **muon))
    begun = weights(train(tiny(sources_dir, tmp_path / "begun", **(muon | {"learning_rate": 0.0}))))
    assert all(not torch.equal(weight, begun[name]) for name, weight in weights(whole).items() if weight.ndim > 1)

    train_until(2, tiny(sources_dir, tmp_path / "half", **muon), monkeypatch)
    assert same(train(tiny(sources_dir, tmp_path / "half", **muon, resume_from_checkpoint="latest")), whole)


def test_a_whitened_run_ends_with_ordinary_layers_and_resumes_alike(sources_dir, tmp_path, monkeypatch):
    short = {"max_train_steps": 3, "lr_warmup_steps": 1, "validation_steps": 99, "num_statistics_images": 64}
    white = short | {"whiten_representations": True}
    begun = [train(tiny(sources_dir, tmp_path / f"b{len(c)}", **c, learning_rate=0.0)) for c in (short, white)]
    assert same(*begun)  # the same function of the same names

    plain = weights(train(tiny(sources_dir, tmp_path / "plain", **short)))
    whole = train(tiny(sources_dir, tmp_path / "whole", **white))
    others = [name for name, weight in weights(whole).items() if not torch.equal(weight, plain[name])]
    assert {name for name in plain if name.startswith("projections.") and name.endswith("weight")} <= set(others)

    train_until(2, tiny(sources_dir, tmp_path / "half", **white), monkeypatch)
    assert same(train(tiny(sources_dir, tmp_path / "half", **white, resume_from_checkpoint="latest")), whole)


def test_an_update_of_muon_has_no_preferred_direction():
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 16, bias=False)
    before = layer.weight.detach().clone()
    config = TrainingConfig(sources_dir="x", output_dir="y", max_train_steps=1, optimizer="muon", learning_rate=1.0)
    optimizer = optimizer_of(config, layer.parameters(), DistributedType.NO)
    layer.weight.grad = torch.randn(16, 24) * torch.logspace(0, -2, 24)
    optimizer.step()
    moved, given = (torch.linalg.svdvals(x) for x in (layer.weight.detach() - before, layer.weight.grad))
    assert given[0] / given[-1] > 20 and moved[0] / moved[-1] < 3


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_muon_refuses_parameters_in_shards(kind):
    config = TrainingConfig(sources_dir="x", output_dir="y", max_train_steps=1, optimizer="muon")
    with pytest.raises(ValueError, match="use adamw"):
        optimizer_of(config, [torch.nn.Parameter(torch.zeros(2, 2))], kind)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="adamw or muon"):
        TrainingConfig(sources_dir="x", output_dir="y", max_train_steps=1, optimizer="sgd")


def test_signal_to_noise_ratios_are_spread_as_by_the_cosine_schedule():
    scheduler = velocity_scheduler()
    t = VelocityError(scheduler, torch.device("cpu")).timesteps(torch.linspace(0, 1 - 1e-7, 20_001))
    signal = scheduler.alphas_cumprod.sqrt()[t]
    share = torch.linspace(0.05, 0.95, 19)
    expected = (torch.pi / 2 * share).cos()  # of the signal, by definition of the schedule
    assert torch.allclose(signal.quantile(1 - share), expected, atol=0.01)
    assert t.min() == 0 and t.max() == len(scheduler.alphas_cumprod) - 1


def test_released_networks_learn_at_uniform_timesteps():
    t = VariationalLoss(official_scheduler()).timesteps(torch.arange(1000) / 1000 + 1e-4)
    assert torch.equal(t, torch.arange(1000))


@pytest.fixture
def half_way(sources_dir: Path, tmp_path: Path, monkeypatch) -> Path:
    """A run of eight steps that stopped after six, with the states of steps 4 and 6."""
    train_until(6, tiny(sources_dir, tmp_path / "run"), monkeypatch)
    assert [state.name for state in saved_states(tmp_path / "run")] == ["checkpoint-4", "checkpoint-6"]
    return tmp_path / "run"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_checkpoint_is_passed_over(half_way, sources_dir, uninterrupted, caplog, damage):
    file = half_way / "checkpoint-6" / "model.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[-5] ^= 1
        file.write_bytes(data)
    else:
        file.unlink()
    resumed = train(tiny(sources_dir, half_way, resume_from_checkpoint="latest"))
    assert "checkpoint-6 is damaged" in caplog.text and "Resumed from" in caplog.text
    assert same(resumed, uninterrupted)


def test_when_every_checkpoint_is_damaged_nothing_is_overwritten(half_way, sources_dir):
    for state in saved_states(half_way):
        (state / "optimizer.bin").unlink()
    with pytest.raises(ValueError, match="damaged"):
        train(tiny(sources_dir, half_way, resume_from_checkpoint="latest"))


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(sources_dir, tmp_path, monkeypatch):
    loss = _Run._loss
    monkeypatch.setattr(_Run, "_loss", lambda self, place: loss(self, place) * (float("nan") if place >= 5 else 1.0))
    with pytest.raises(Diverged, match="last good checkpoint"):
        train(tiny(sources_dir, tmp_path))
    assert [state.name for state in saved_states(tmp_path)] == ["checkpoint-2", "checkpoint-4"]
    tensors = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_a_finished_run_is_not_overwritten(sources_dir, uninterrupted):
    with pytest.raises(ValueError, match="holds a run already"):
        train(tiny(sources_dir, uninterrupted))


def test_a_time_budget_ends_with_a_finished_schedule(sources_dir, tmp_path, monkeypatch):
    ticks = itertools.count(0.1, 0.1)  # a step takes a tenth of a second, however busy the machine is
    monkeypatch.setattr("rcdm.training.loop.Clock", lambda: lambda: next(ticks))
    config = tiny(
        sources_dir, tmp_path, max_train_steps=None, max_train_minutes=0.02, lr_warmup_steps=1, validation_steps=10**6
    )
    folder = train(config)
    run = json.loads((folder / "training.json").read_text())
    assert run["step"] == 12 and run["seconds"] == pytest.approx(1.2) and (folder / "model_index.json").is_file()
    optimizer = torch.load(saved_states(folder)[-1] / "optimizer.bin", weights_only=True)
    assert 0 < optimizer["param_groups"][0]["lr"] < config.learning_rate / 10


def test_accumulated_batches_are_counted(sources_dir, tmp_path):
    two = train(
        tiny(sources_dir, tmp_path / "two", gradient_accumulation_steps=2, max_train_steps=3, validation_steps=99)
    )
    assert '"images": 24' in (two / "training.json").read_text()


def test_training_needs_an_end_and_a_batch_for_all_sources(sources_dir, tmp_path):
    with pytest.raises(ValueError, match="how long"):
        tiny(sources_dir, tmp_path, max_train_steps=None)
    with pytest.raises(ValueError, match="covers all sources"):
        train(tiny(sources_dir, tmp_path, train_batch_size=1))


def test_a_source_gets_the_share_of_the_images_that_it_is_given(sources_dir, tmp_path, monkeypatch):
    seen: list[str] = []
    forward = RepresentationUNet.forward

    def counting(self, sample, timestep, representation, source, **others):
        seen.extend(source)
        return forward(self, sample, timestep, representation, source, **others)

    monkeypatch.setattr(RepresentationUNet, "forward", counting)
    name, *others = read_sources(sources_dir).names
    turns = len(others) + 3
    train(tiny(sources_dir, tmp_path, train_batch_size=turns, max_train_steps=1, more_of=(name, name)))
    assert [seen[:turns].count(source) for source in (name, *others)] == [3, *[1] * len(others)]


def photographs(folder: Path, n: int = 12) -> Path:
    for i, image in enumerate(im.to_pil(sprites.render(sprites.sample_factors(n, seed=1), 24))):
        target = folder / ("a" if i % 2 else "b") / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
    return folder


def test_a_folder_of_images_is_trained_on(sources_dir, tmp_path):
    data = photographs(tmp_path / "data")
    folder = train(tiny(sources_dir, tmp_path / "out", train_data_dir=str(data), max_train_steps=2))
    assert rcdm.load(folder, device="cpu").image_size == 16


def test_a_folder_gives_each_image_once_per_epoch_and_holds_some_out(tmp_path):
    data = load_dataset(str(photographs(tmp_path)), 16, seed=3)
    assert data.classes == 2
    seen = torch.cat([data.batch(step, 5).images for step in range(4)])[:11].flatten(1)
    assert len(seen.unique(dim=0)) == 11
    held_out = data.held_out(5).images.flatten(1)
    assert len(held_out) == 1 and (seen - held_out).abs().sum(1).min() > 0
    assert torch.equal(data.batch(7, 5).images, load_dataset(str(tmp_path), 16, seed=3).batch(7, 5).images)


def test_broken_images_are_left_out_and_listed_in_the_folder_of_the_run(sources_dir, tmp_path, caplog):
    folder = photographs(tmp_path / "data")
    whole = (folder / "a" / "1.png").read_bytes()
    (folder / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "b" / "page.jpg").write_text("<html>")
    data = load_dataset(str(folder), 16)
    assert len(data.left_out) == 2 and data.n_train + len(data.held_out(99).images) == 12 and data.classes == 2
    assert "2 of 14 images cannot be read and are left out" in caplog.text
    out = train(tiny(sources_dir, tmp_path / "out", train_data_dir=str(folder), max_train_steps=1))
    listed = (out / "left_out_images.txt").read_text().splitlines()
    assert [Path(line.partition(":")[0]).name for line in listed] == ["cut.png", "page.jpg"]
    for file in folder.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="None of 14 images can be read"):
        load_dataset(str(folder), 16)


def test_a_parquet_file_is_the_same_data(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(photographs(tmp_path / "data").rglob("*.png"))
    table = pa.table({"image": [f.read_bytes() for f in files], "label": list(range(len(files)))})
    pq.write_table(table, tmp_path / "train-0.parquet")
    batch = load_dataset(str(tmp_path / "train-0.parquet"), 24).batch(0, 11)
    for image, label in zip(batch.images, batch.labels, strict=True):
        assert torch.equal(image, im.to_tensor(Image.open(files[label]))[0])


def test_shards_that_are_named_so_are_held_out(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(photographs(tmp_path / "data").rglob("*.png"))
    for name, part in (("train-0", files[:5]), ("train-1", files[5:8]), ("val", files[8:])):
        table = pa.table({"image": [f.read_bytes() for f in part], "label": [files.index(f) for f in part]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    data = load_dataset(str(tmp_path), 16)
    assert data.n_train == 8 and sorted(data.batch(0, 8).labels.tolist()) == list(range(8))
    assert data.held_out(100).labels.tolist() == list(range(8, len(files))) and data.classes == len(files)
    (tmp_path / "train-1.parquet").unlink()
    assert data.name == load_dataset(str(tmp_path), 16).name == tmp_path.name  # not "train", whatever is in it


def test_folders_of_training_and_validation_images_keep_apart(tmp_path):
    for part in ("train", "val"):
        photographs(tmp_path / part)
    data = load_dataset(str(tmp_path), 16)
    assert data.n_train == len(data.held_out(100).labels) == 12 and data.classes == 2


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_data_that_is_not_there_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=name):
        load_dataset(str(tmp_path / name), 16)


def test_cached_representations_are_what_the_networks_give(sources_dir, tmp_path):
    data = load_dataset(str(photographs(tmp_path)), 16)
    sources = read_sources(sources_dir)
    cache = in_memory(sources, data, mirrored=True)
    batch = data.batch(3, 8)
    names = sorted(sources.names[i % len(sources)] for i in range(8))
    flipped = torch.arange(8) % 2 == 1
    images = torch.where(flipped.view(-1, 1, 1, 1), batch.images.flip(3), batch.images)
    cached = cache(names, batch.rows, flipped)
    assert torch.allclose(cached, sources.encode(images, names), atol=5e-3)  # half precision
    everything = data.take(torch.arange(data.n_train)).images
    h = sources.encode(torch.cat([everything, everything.flip(3)]), names[0])
    assert torch.allclose(cache.sample(names[0]), h, atol=5e-3)


def test_the_loss_from_the_cache_is_the_loss_with_the_networks(sources_dir, tmp_path):
    data = load_dataset(str(photographs(tmp_path / "data")), 16)
    options = {"random_flip": True, "representation_dropout": 0.0, "train_batch_size": 8}
    cached, live = (
        _Run(
            tiny(sources_dir, tmp_path / str(cache), cache_representations=cache, **options),
            Accelerator(),
            data,
            read_sources(sources_dir),
        )
        for cache in (True, False)
    )
    for projection in cached.unet.projections.values():
        torch.nn.init.normal_(projection.linear.weight)  # so that the representation matters
    live.unet.load_state_dict(cached.unet.state_dict())
    losses = [[float(run._loss(place)) for place in range(3)] for run in (cached, live)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    live.config = dataclasses.replace(live.config, random_flip=False)
    assert [float(live._loss(place)) for place in range(3)] != pytest.approx(losses[0], rel=1e-3)


def test_neighbours_of_one_name_are_one_run():
    assert list(runs(["a", "a", "b", "a"])) == [("a", slice(0, 2)), ("b", slice(2, 3)), ("a", slice(3, 4))]
