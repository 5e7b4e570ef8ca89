"""Guidance against a posterior that is known, and the laws that a guided pipeline shares with a trained one."""

import json
import shutil

import gaussian_world as gw
import pytest
import torch
from conftest import TINY_SOURCES
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

import rcdm
from rcdm.diffusion import guided
from rcdm.diffusion.methods import METHODS
from rcdm.diffusion.prior import load_prior
from rcdm.measures.parts import weights_digest

BACKBONE, PROJECTOR, LAYER = TINY_SOURCES


def chance(n: int) -> tuple[float, float]:
    """What sampling alone makes of the errors of n exact draws."""
    return (gw.D / n) ** 0.5, (gw.D * (gw.D + 1) / n) ** 0.5


def test_without_h_the_sampler_draws_what_the_recursion_says():
    mean, spread = gw.compare("prior", 4000)
    assert mean < 1.6 * chance(4000)[0] and spread < 1.4 * chance(4000)[1]


def test_through_the_denoiser_the_mean_given_one_number_is_exact_and_the_draws_are_too_certain():
    mean, spread = gw.compare("dps", 4000, numbers=1, steps=60)
    assert mean < 1.8 * chance(4000)[0]
    assert spread < 1.9 * chance(4000)[1] < gw.compare("dps", 4000, numbers=1)[1]  # the fewer steps, the more


def test_of_several_numbers_both_gradients_are_biased_and_that_without_the_denoiser_more():
    through, _ = gw.compare("dps", 4000)
    alone, _ = gw.compare("mpgd", 4000)
    assert alone > 1.5 * through > 4 * chance(4000)[0]


def test_particles_come_to_the_exact_posterior():
    one, many = gw.compare("tds", 2000, particles=1), gw.compare("tds", 2000, particles=24)
    assert many[0] < 1.6 * chance(2000)[0] and many[1] < 1.4 * chance(2000)[1]
    assert one[0] > 2 * many[0]


@pytest.fixture(scope="module")
def pipes(tiny_checkpoint):
    sources = rcdm.load(tiny_checkpoint).sources
    return {
        method: rcdm.guided(tiny_checkpoint, sources, method=method, particles=3, prior_images=64) for method in METHODS
    }


def photos(n: int) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.mark.parametrize("method", METHODS)
def test_a_guided_draw_depends_on_its_seed_and_its_h_alone(pipes, method):
    pipe = pipes[method]
    h = pipe.encode(photos(3), BACKBONE)
    together = pipe.draw(h, BACKBONE, [4, 5, 6], num_inference_steps=3)
    alone = pipe.draw(h[1:2], BACKBONE, [5], num_inference_steps=3)
    assert torch.allclose(together[1:2], alone, atol=0.01)
    assert not torch.allclose(together[1:2], pipe.draw(h[:1], BACKBONE, [5], num_inference_steps=3), atol=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_sources_side_by_side_are_drawn_as_each_alone(pipes, method):
    pipe = pipes[method]
    names = [BACKBONE, PROJECTOR, LAYER]
    h = pipe.encode(photos(3), names)
    together = pipe.draw(h, names, [1, 2, 3], num_inference_steps=2)
    for i, name in enumerate(names):
        own = pipe.draw(pipe.encode(photos(3)[i : i + 1], name), name, [i + 1], num_inference_steps=2)
        assert torch.allclose(together[i : i + 1], own, atol=0.01)


def test_without_h_a_guided_pipeline_is_its_prior(pipes, tiny_checkpoint):
    prior = rcdm.load(tiny_checkpoint, scheduler="ddpm")
    free = prior.draw(None, None, [0, 1], num_inference_steps=4)
    for pipe in pipes.values():
        assert torch.equal(pipe.draw(None, None, [0, 1], num_inference_steps=4), free)


@pytest.mark.parametrize("scheduler", [None, "euler"])
def test_images_to_learn_from_are_those_of_the_sharper_sampler_whatever_draws(tiny_checkpoint, monkeypatch, scheduler):
    own, seen = guided._hold, []
    monkeypatch.setattr(guided, "_hold", lambda pipe, images, source: seen.append(images) or own(pipe, images, source))
    prior = rcdm.load(tiny_checkpoint, scheduler="spaced-dpmsolver")
    few = {"scheduler": scheduler, "prior_images": 16}
    pipe = rcdm.guided(tiny_checkpoint, prior.sources.only([BACKBONE]), **few)
    seeds = range(guided._FIRST_SEED, guided._FIRST_SEED + 4)
    wanted = prior.draw(None, None, seeds, num_inference_steps=guided.PRIOR_STEPS)
    assert torch.allclose(seen[0][:4], wanted, atol=1e-5)
    half = rcdm.guided(tiny_checkpoint, prior.sources.only([BACKBONE]), mixed_precision="bf16", **few)
    assert half.unet.mixed_precision == "bf16" and not torch.equal(seen[1], seen[0])
    assert type(pipe.scheduler).__name__ == ("EulerDiscreteScheduler" if scheduler else "DDPMScheduler")


@pytest.mark.parametrize("method", METHODS)
def test_guided_draws_come_nearer_to_h(pipes, method):
    pipe, n = pipes[method], 8
    h = pipe.encode(pipe.draw(None, None, range(100, 100 + n)), BACKBONE)
    led = pipe.draw(h, BACKBONE, range(n))
    free = pipe.draw(None, None, range(n))
    given = pipe.unet.standardise(h, BACKBONE)
    far = [
        (pipe.unet.standardise(pipe.encode(x, BACKBONE), BACKBONE) - given).square().sum(1).mean() for x in (led, free)
    ]
    assert far[0] < 0.8 * far[1]


def test_what_was_reached_is_that_of_the_strength_that_came_nearest(pipes):
    for pipe in pipes.values():
        assert set(pipe.guidance) == set(TINY_SOURCES)
        for name, reached in pipe.guidance.items():
            own = pipe.unet.projections[name.replace(".", ":")]
            assert float(own.strength) == reached.strength and float(own.tolerance) == pytest.approx(reached.tolerance)
            assert "strength" in reached.in_words() and reached.target > 0


def test_what_draws_depend_on_tells_methods_apart(pipes):
    assert len({weights_digest(pipe.unet, pipe.sources) for pipe in pipes.values()}) == len(METHODS)


def test_the_callback_sees_one_image_per_draw_at_every_step(pipes):
    for pipe in pipes.values():
        seen = []
        pipe(
            photos(2),
            source=BACKBONE,
            num_inference_steps=3,
            callback_on_step_end=lambda _p, step, _t, kept, seen=seen: seen.append((step, len(kept["denoised"]))),
        )
        assert seen == [(0, 2), (1, 2), (2, 2)]


def test_gradients_in_pieces_are_those_of_the_whole(pipes, monkeypatch):
    pipe = pipes["dps"]
    h = pipe.encode(photos(3), BACKBONE)
    whole = pipe.draw(h, BACKBONE, [1, 2, 3], num_inference_steps=2)
    monkeypatch.setattr("rcdm.diffusion.guidance.MOST_PIXELS", 1)
    assert torch.allclose(whole, pipe.draw(h, BACKBONE, [1, 2, 3], num_inference_steps=2), atol=0.01)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    torch.manual_seed(1)
    network = UNet2DModel(
        sample_size=16, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("priors") / "ddpm"
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(folder)
    return folder, network.eval()


def test_a_pipeline_of_diffusers_is_a_prior(foreign, tiny_checkpoint):
    folder, network = foreign
    pipe = rcdm.guided(folder, rcdm.load(tiny_checkpoint).sources, method="mpgd")
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(pipe.unet(x, 500).sample, network(x, 500).sample, atol=1e-5)
    assert pipe(photos(1), source=BACKBONE, num_inference_steps=2).images[0].size == (16, 16)
    assert pipe.config.trained_on == f"the data of {folder}"  # so that studies ask where images are


def test_a_pipeline_of_the_first_days_of_diffusers_is_a_prior(foreign, tiny_checkpoint, tmp_path):
    folder, network = foreign
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        for now, before in old.items():
            name = name.replace(f".{now}.", f".{before}.")
        tensors[name] = tensor
    assert any("proj_attn" in name for name in tensors)
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    shutil.copy(folder / "unet" / "config.json", tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_module": "modeling_ddpm.py"}))
    noise = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    (tmp_path / "scheduler_config.json").write_text(json.dumps({**noise, "timestep_values": None}))
    unet = load_prior(tmp_path).unet
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(unet(x, 500).sample, network(x, 500).sample, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("unet/config.json", {"num_class_embeds": 10}, "draws classes"),
        ("unet/config.json", {"in_channels": 4}, "does not draw RGB"),
        ("unet/config.json", {"sample_size": None}, "sample_size"),
        ("unet/config.json", {"block_out_channels": [8, 12]}, "needs"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderKL"]}, "is no prior"),
        ("scheduler/scheduler_config.json", {"beta_end": 2.0}, "beta_end"),
    ],
)
def test_what_is_no_prior_is_refused_in_a_sentence(foreign, tmp_path, file, change, words):
    folder = shutil.copytree(foreign[0], tmp_path / "prior")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match=words):
        rcdm.guided(folder, "unread")


def test_other_refusals(tiny_checkpoint, pipes, tmp_path, foreign):
    sources = rcdm.load(tiny_checkpoint).sources
    with pytest.raises(ValueError, match="no method"):
        rcdm.guided(tiny_checkpoint, sources, method="ddrm")
    with pytest.raises(ValueError, match="at least 1"):
        rcdm.guided(tiny_checkpoint, sources, particles=0)
    with pytest.raises(ValueError, match="prior_images must be at least 16"):
        rcdm.guided(tiny_checkpoint, sources, prior_images=15)
    with pytest.raises(ValueError, match="no sampler"):
        rcdm.guided(tiny_checkpoint, sources, scheduler="ddrm")
    with pytest.raises(ValueError, match="no prior"):
        rcdm.guided("official/simclr-backbone", sources)
    with pytest.raises(ValueError, match="learnt"):
        pipes["dps"].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="guidance_scale"):
        pipes["tds"](photos(1), source=BACKBONE, guidance_scale=2.0)
    folder = shutil.copytree(foreign[0], tmp_path / "prior")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="safe_serialization"):
        rcdm.guided(folder, sources)
