"""The plan of a run says what the run then has: parameters, operations and memory, without computing anything."""

from dataclasses import replace

import pytest
import torch
from conftest import make_tiny_sources
from test_training import tiny
from torch import nn

from rcdm import cli
from rcdm.diffusion.process import random_numbers
from rcdm.training.plan import COPIES, Plan, plan
from rcdm.training.setup import network_arguments, new_unet, objective_of, scheduler_of
from rcdm.training.throughput import count_flops


@pytest.fixture(scope="module")
def sources():
    return make_tiny_sources()


@pytest.mark.parametrize("changes", [{}, {"learn_sigma": True, "representation_dropout": 0.0}, {"channels": (8, 8)}])
def test_operations_and_parameters_are_those_of_a_real_step(sources, tmp_path, changes):
    config = tiny(tmp_path, tmp_path, cache_representations=False, **changes)
    unet = new_unet(config, sources)
    objective = objective_of(config, scheduler_of(config), torch.device("cpu"))
    noise, uniform = random_numbers(0, range(3), unet.space.shape(16), torch.device("cpu"))
    images, names = torch.zeros(3, 3, 16, 16), list(sources.names)

    def step() -> None:
        x0, t = unet.space.encode(images), objective.timesteps(uniform[:, 0])
        out = unet(objective.noisy(x0, t, noise), t, sources.encode(images, names), names).sample
        objective.error(out.float(), x0, t, noise).mean().backward()

    found = plan(config, sources)
    assert found.parameters == sum(p.numel() for p in unet.parameters())
    assert found.frozen == sum(p.numel() for p in sources.parameters())
    assert found.flops == pytest.approx(count_flops(step) / 3, rel=0.02)  # the first layer's input needs no gradient


def test_representations_that_are_there_cost_no_operations(sources, tmp_path):
    computed, kept = (
        plan(tiny(tmp_path, tmp_path, representations_dir=folder), sources) for folder in (None, str(tmp_path))
    )
    images = torch.zeros(1, 3, 16, 16)
    reading = sum(count_flops(lambda n=name: sources.encode(images, n)) for name in sources.names) // 3
    assert computed.flops - kept.flops == reading > 0
    mirrored = plan(tiny(tmp_path, tmp_path, representations_dir=str(tmp_path), random_flip=True), sources)
    once = count_flops(lambda: sources.encode_all(images))
    assert (computed.beforehand, kept.beforehand, mirrored.beforehand) == (0, once, 2 * once) and once > 0


def test_what_is_kept_for_the_backward_pass_is_what_autograd_holds(sources, tmp_path):
    """Against a count of our own: what the saved tensors of a real forward pass occupy, each storage once."""
    config = tiny(tmp_path, tmp_path)
    unet = new_unet(config, sources)
    held: dict[int, int] = {}
    keep: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter) and tensor.untyped_storage().data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            keep.append(tensor)
        return tensor

    own = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    sizes = []
    for times in (1, 3):
        held.clear()
        names = [name for name in sources.names for _ in range(times)]
        x, h = torch.randn(len(names), *unet.space.shape(16)), torch.randn(len(names), 32)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = unet(x, torch.zeros(len(names)), h, names).sample.square().mean()
        sizes.append(sum(held.values()))
        del loss
    assert plan(config, sources).kept == pytest.approx((sizes[1] - sizes[0]) / 6, rel=0.02)


def test_bf16_keeps_less(sources, tmp_path):
    plain, mixed = (plan(tiny(tmp_path, tmp_path, mixed_precision=kind), sources) for kind in ("no", "bf16"))
    assert 0.4 * plain.kept < mixed.kept < 0.95 * plain.kept and mixed.flops == plain.flops


def test_where_projections_alone_learn_less_is_computed_and_kept(sources, tmp_path):
    whole, few = (
        plan(tiny(tmp_path, tmp_path, only_projections=few, pretrained_model_name_or_path="x"), sources)
        for few in (False, True)
    )
    assert few.parameters == whole.parameters == whole.trained > 10 * few.trained
    assert few.flops < 0.9 * whole.flops and few.bytes_per_process() < whole.bytes_per_process()


def test_the_formulas():
    found = Plan(parameters=1000, trained=1000, frozen=10, flops=2_000_000, kept=300, batch=4, copies=COPIES["adamw"])
    assert found.bytes_per_process() == 5 * 4 * 1000 + 4 * 10 + 4 * 300
    assert replace(found, trained=100).bytes_per_process() == 4 * (2 * 1000 + 3 * 100) + 4 * 10 + 4 * 300
    assert found.bytes_per_process(shards=4) == 5 * 1000 + 4 * 10 + 4 * 300
    assert found.images_per_second(rate=1e9, share=0.4) == pytest.approx(200)
    assert found.hours(720_000, devices=2, rate=1e9, share=0.4) == pytest.approx(0.5)


def test_a_preset_is_planned_without_its_memory(sources, tmp_path):
    from rcdm.training.config import PRESETS, TrainingConfig

    config = TrainingConfig(sources_dir="s", output_dir="o", max_train_steps=1, **PRESETS["small-128"])
    found = plan(config, sources)
    with torch.device("meta"):
        from rcdm.diffusion.unet import RepresentationUNet

        unet = RepresentationUNet(sources.widths(), **network_arguments(config))
    assert found.parameters == sum(p.numel() for p in unet.parameters()) > 1e7


def test_the_command_trains_nothing_and_needs_no_budget(sources, tmp_path, capsys):
    sources.save_pretrained(tmp_path / "sources")
    size = ["--resolution", "16", "--channels", "8", "16", "--attention_resolutions", "4", "--plan_tflops", "1"]
    given = ["train", "--plan", "--sources_dir", str(tmp_path / "sources"), *size, "--plan_devices", "2"]
    cli.main([*given, "--max_train_steps", "1000"])
    printed = capsys.readouterr().out
    assert "h for 128,000 images" in printed and "with FSDP" in printed and "40% are assumed" in printed
    cli.main([*given, "--output_dir", str(tmp_path / "run"), "--plan_images", "5000"])
    assert "h for 5,000 images" in capsys.readouterr().out and not (tmp_path / "run").exists()
    assert "beforehand" not in printed
    cli.main([*given, "--representations_dir", str(tmp_path / "kept"), "--plan-images", "5000"])  # hyphens, too
    assert "networks read every image once" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([*given, "--plan_share", "2"])
    assert "--plan_share lies above 0" in capsys.readouterr().err
