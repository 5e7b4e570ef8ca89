"""Laws of a call: how many steps, which arguments fit together, and what is said on the way."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY_SOURCES
from diffusers import DDPMScheduler
from PIL import Image

import rcdm
from rcdm.diffusion.process import set_steps
from rcdm.studies.study_files import identity_of

BACKBONE = TINY_SOURCES[0]


def photos(n: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1


def steps_of(pipe, **options) -> list[int]:
    """Timesteps that the denoiser saw."""
    seen = []
    pipe(callback_on_step_end=lambda _p, _i, t, _k: seen.append(t), output_type="pt", **options)
    return seen


def test_a_call_takes_the_steps_that_it_names_or_those_of_the_checkpoint(pipe):
    assert len(steps_of(pipe)) == 4 and len(steps_of(pipe, num_inference_steps=1)) == 1
    pipe.register_to_config(default_steps=7)
    seen = steps_of(pipe)
    assert len(seen) == 7 and seen[0] == 999 and seen == sorted(seen, reverse=True)


def test_samplers_that_look_twice_say_how_often_they_call(pipe):
    pipe.use_scheduler("heun")
    assert pipe.calls_of(5) == len(steps_of(pipe, num_inference_steps=5)) == 9
    pipe.use_scheduler("ddim")
    assert pipe.calls_of(5) == len(steps_of(pipe, num_inference_steps=5)) == 5


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmsolver", "euler", "uni-pc", "spaced-dpmsolver"])
def test_no_number_of_steps_has_one_that_takes_the_image_for_noise(tiny_checkpoint, name):
    scheduler = rcdm.load(tiny_checkpoint, scheduler=name).scheduler
    for n in range(1, 251):  # of diffusers' own spacing 61, 103 and ten others would
        set_steps(scheduler, n)
        times = scheduler.timesteps.double()
        assert len(times) == n and float(times.min()) >= 0 and bool((times.diff() < 0).all())


def test_draws_in_61_steps_are_like_those_in_60(tiny_checkpoint):
    pipe = rcdm.load(tiny_checkpoint, scheduler="ddpm", device="cpu")
    options = {"source": BACKBONE, "seeds": range(8), "output_type": "pt"}
    roughness = [pipe(photos(1), num_inference_steps=n, **options).images.diff(dim=2).std() for n in (60, 61)]
    assert abs(roughness[0] - roughness[1]) < 0.1 * roughness[0]


def test_one_image_is_drawn_per_seed_and_row_and_zero_is_a_seed(pipe):
    free = pipe(output_type="pt").images
    assert free.shape == (1, 3, 16, 16) and torch.equal(free, pipe(seeds=[0], output_type="pt").images)
    pictures = pipe(photos(2), source=BACKBONE, seeds=[1, 2], num_inference_steps=1).images
    assert len(pictures) == 4 and all(isinstance(p, Image.Image) and p.size == (16, 16) for p in pictures)
    assert pipe.image_size == 16


def test_a_batch_size_changes_nothing_but_the_order_of_work(pipe):
    whole, parts, single = (
        pipe(seeds=range(5), num_inference_steps=2, batch_size=size, output_type="pt").images for size in (64, 2, 1)
    )
    assert torch.allclose(whole, parts, atol=0.01) and torch.allclose(whole, single, atol=0.01)


@pytest.mark.parametrize(("seeds", "size", "batches"), [(5, 2, 3), (4, 2, 2), (1, 64, 1)])
def test_the_bar_ends_when_the_drawing_does(pipe, monkeypatch, seeds, size, batches):
    bars = []

    @contextmanager
    def watched(iterable=None, total=None):
        bars.append(SimpleNamespace(total=total, n=0, refresh=lambda: None))
        bars[-1].update = lambda by=1: setattr(bars[-1], "n", bars[-1].n + by)
        yield bars[-1]

    monkeypatch.setattr(pipe, "progress_bar", watched)
    pipe(seeds=range(seeds), num_inference_steps=3, batch_size=size, output_type="pt")
    (bar,) = bars
    assert bar.n == bar.total == 3 * batches


@pytest.mark.parametrize(("options", "words"), [
    ({"guidance_scale": 2.0}, "guidance_strength need"), ({"num_inference_steps": 0}, "at least 1"),
    ({"seeds": []}, "at least one seed"), ({"output_type": "np"}, "'pil' or 'pt'"),
    ({"representation": torch.zeros(1, 32)}, "which source"),
])  # fmt: skip
def test_what_does_not_fit_together_is_refused(pipe, options, words):
    with pytest.raises(ValueError, match=words):
        pipe(**options)


def test_one_representation_per_seed_is_needed_to_draw(pipe):
    with pytest.raises(ValueError, match="as many of one as of the other"):
        pipe.draw(torch.zeros(2, 32), BACKBONE, [1, 2, 3])
    with pytest.raises(ValueError, match="at least one"):
        pipe.draw(None, None, [])
    with pytest.raises(ValueError, match="it is another source's"):
        pipe.draw(torch.zeros(2, 32), "tiny/projector", [1, 2])
    assert len(pipe.draw(torch.zeros(2, 32), BACKBONE, [1, 2], num_inference_steps=1)) == 2


def test_a_denoiser_without_free_draws_draws_from_representations_alone(pipe):
    pipe.unet.register_to_config(has_unconditional=False)
    drawn = pipe(photos(1), source=BACKBONE, num_inference_steps=1, output_type="pt").images
    assert torch.isfinite(drawn).all()
    for options in ({}, {"images": photos(1), "source": BACKBONE, "guidance_scale": 2.0}):
        with pytest.raises(ValueError, match="never learned"):
            pipe(**options, num_inference_steps=1)


def test_a_representation_of_double_precision_draws_the_same(pipe):
    h = pipe.encode(photos(1), BACKBONE)
    single, double = (pipe(representation=x, source=BACKBONE, output_type="pt").images for x in (h, h.double()))
    assert torch.equal(single, double)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h[0], r"shape \[B,D\], not \[\d+\]: `h\[None\]` makes a row"),
        (lambda h: h[None], r"shape \[B,D\], not \[1, 1, \d+\]"),
        (lambda h: h.numpy(), "a torch tensor .*, not ndarray: `torch.as_tensor"),
        (lambda h: h * float("nan"), "NaN or infinite"),
        (lambda h: h[:, :-1], r"has \d+ numbers a row, and tiny/backbone has \d+"),
    ],
)
def test_a_representation_that_does_not_fit_gets_a_sentence(change, words, pipe):
    h = pipe.encode(photos(1), BACKBONE)
    with pytest.raises(ValueError, match=words):
        pipe(representation=change(h), source=BACKBONE, num_inference_steps=1)
    with pytest.raises(ValueError, match="1 rows and came with 2 names"):
        pipe(representation=h, source=[BACKBONE, BACKBONE], num_inference_steps=1)


def test_the_last_preview_is_the_drawing_and_everything_is_in_range(pipe):
    kept = []
    drawn = pipe(photos(1), source=BACKBONE, seeds=[3], output_type="pt",
                 callback_on_step_end=lambda p, i, t, tensors: kept.append((p, tensors))).images  # fmt: skip
    assert all(p is pipe and set(tensors) == {"sample", "denoised", "index"} for p, tensors in kept)
    assert all(tensors["denoised"].abs().max() <= 1 for _, tensors in kept) and drawn.abs().max() <= 1
    assert torch.allclose(kept[-1][1]["denoised"], drawn, atol=0.05)
    assert torch.equal(kept[-1][1]["sample"].clamp(-1, 1), drawn)


def test_drawing_leaves_the_scheduler_as_it_was(pipe):
    before = pipe.scheduler.timesteps.clone()
    pipe(seeds=[0], num_inference_steps=2)
    assert torch.equal(pipe.scheduler.timesteps, before)


def test_channels_of_a_variance_are_given_to_those_who_read_them_alone(pipe, monkeypatch):
    """A network that puts out twice the channels draws as one that puts out the first half."""
    forward = pipe.unet.forward
    plain = pipe(seeds=[1], num_inference_steps=3, output_type="pt").images

    def doubled(*arguments, **options):
        out = forward(*arguments, **options)
        return type(out)(sample=torch.cat([out.sample, torch.full_like(out.sample, 0.3)], 1))

    monkeypatch.setattr(pipe.unet, "forward", doubled)
    assert torch.allclose(pipe(seeds=[1], num_inference_steps=3, output_type="pt").images, plain, atol=1e-5)
    drawn = []
    for kind in ("learned_range", "fixed_small"):
        pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, variance_type=kind)
        drawn.append(pipe(seeds=[1], num_inference_steps=3, output_type="pt").images)
    assert drawn[0].shape == drawn[1].shape and not torch.allclose(*drawn, atol=0.01)


def test_in_bfloat16_the_network_alone_is_and_draws_stay_near(tiny_checkpoint, pipe):
    half, kinds = rcdm.load(tiny_checkpoint, device="cpu", mixed_precision="bf16"), set()
    half.unet.unet.conv_in.register_forward_hook(lambda *seen: kinds.add(seen[-1].dtype))
    options = {"source": BACKBONE, "seeds": [1, 2, 3, 4], "num_inference_steps": 4, "output_type": "pt"}
    own, near = (one(photos(2), **options).images for one in (pipe, half))
    other = pipe(photos(2), **{**options, "seeds": [5, 6, 7, 8]}).images
    assert kinds == {torch.bfloat16} and near.dtype == torch.float32
    assert 0 < (near - own).square().mean() < 1e-3 * (other - own).square().mean()
    assert torch.equal(half.encode(photos(2), BACKBONE), pipe.encode(photos(2), BACKBONE))
    assert identity_of(half) != identity_of(pipe)
    with pytest.raises(ValueError, match="choose one of no, bf16"):
        rcdm.load(tiny_checkpoint, mixed_precision="fp8")


def test_without_a_precision_of_its_own_a_denoiser_has_that_of_its_training(pipe):
    x, t = torch.zeros(1, *pipe.unet.space.shape(16)), torch.tensor([5])
    with torch.autocast("cpu", torch.bfloat16):
        assert pipe.unet(x, t).sample.dtype == torch.bfloat16
    assert pipe.unet(x, t).sample.dtype == torch.float32


def test_nothing_that_a_pipeline_gives_holds_a_graph(pipe):
    x = photos(1).requires_grad_()
    pipe.unet.requires_grad_(True)
    h = pipe.encode(x, BACKBONE)
    assert not h.requires_grad and not pipe.draw(h, BACKBONE, [0], num_inference_steps=1).requires_grad
    assert not pipe(x, source=BACKBONE, num_inference_steps=1, output_type="pt").images.requires_grad
