"""Laws of drawing, on a network with random weights."""

from pathlib import Path

import pytest
import torch
from conftest import TINY_SOURCES
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from torch import Tensor

import rcdm
from rcdm.data import images as im
from rcdm.diffusion.checkpoints import save_guidance
from rcdm.diffusion.guidance_settings import Guidance, unguided
from rcdm.measures.faithfulness import faithfulness_of

BACKBONE, PROJECTOR, _ = TINY_SOURCES
LEVEL = 1.01 / 127.5  # a draw alone and one in a batch may differ by one step of 8 bits


def photos(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1


def draw(pipe: rcdm.RCDMPipeline, x: Tensor, **options) -> Tensor:
    return pipe(x, output_type="pt", **{"source": BACKBONE, "seeds": [0], **options}).images


def test_images_are_row_major_over_representations_and_seeds(pipe):
    all_six = draw(pipe, photos(2), seeds=[3, 4, 5])
    assert all_six.shape == (6, 3, 16, 16)
    for row, x in enumerate(photos(2)):
        for column, seed in enumerate([3, 4, 5]):
            assert torch.allclose(all_six[3 * row + column], draw(pipe, x[None], seeds=[seed])[0], atol=LEVEL)


def test_an_image_depends_on_its_seed_alone(pipe):
    in_company = draw(pipe, photos(1), seeds=[9, 8, 7], batch_size=2)
    alone = draw(pipe, photos(1), seeds=[8])
    assert torch.allclose(in_company[1], alone[0], atol=LEVEL)
    assert not torch.allclose(in_company[0], in_company[1], atol=0.05)


def test_columns_share_their_noise(pipe):
    seen: list[Tensor] = []
    pipe.unet.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    for name in (BACKBONE, PROJECTOR):
        draw(pipe, photos(1), source=name, num_inference_steps=1)
    assert len(seen) == 2 and torch.equal(seen[0], seen[1])


def test_pipeline_equals_a_plain_loop(pipe):
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=True)
    pipe.scheduler = scheduler
    h = pipe.sources[BACKBONE](photos(1))
    scheduler = DDIMScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(5)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(pipe.unet(x, t, h, BACKBONE).sample, t, x).prev_sample
    drawn = draw(pipe, photos(1), seeds=[11], num_inference_steps=5)
    assert torch.allclose(drawn, x.clamp(-1, 1), atol=1e-5)


def test_a_representation_is_standardised_exactly_once(pipe):
    h = pipe.encode(photos(2), BACKBONE)
    projection = pipe.unet.projections[BACKBONE]
    seen = []
    projection.linear.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    draw(pipe, photos(2), num_inference_steps=1)
    assert torch.allclose(seen[0], (h - projection.mean) / projection.std, atol=1e-6)
    assert torch.allclose(seen[0], pipe.unet.standardise(h, BACKBONE), atol=1e-6)


def test_drawing_from_images_is_drawing_from_their_representation(pipe):
    h = pipe.encode(photos(2), PROJECTOR)
    from_h = pipe(representation=h, source=PROJECTOR, seeds=[1, 2], output_type="pt").images
    assert torch.equal(from_h, draw(pipe, photos(2), source=PROJECTOR, seeds=[1, 2]))


def test_one_source_per_image_equals_one_call_per_source(pipe):
    together = draw(pipe, photos(3), source=list(TINY_SOURCES), seeds=[4, 5])
    for row, name in enumerate(TINY_SOURCES):
        alone = draw(pipe, photos(3)[row : row + 1], source=name, seeds=[4, 5])
        assert torch.allclose(together[2 * row : 2 * row + 2], alone, atol=LEVEL)


def test_guidance_costs_twice_the_images_in_one_call_and_nothing_outside_its_interval(pipe):
    calls = []
    pipe.unet.register_forward_pre_hook(lambda _m, args: calls.append(len(args[0])))
    draw(pipe, photos(3), num_inference_steps=3)
    assert calls == [3, 3, 3]
    calls.clear()
    draw(pipe, photos(3), num_inference_steps=3, guidance_scale=2.0)
    assert calls == [6, 6, 6]
    calls.clear()
    pipe.use_guidance({BACKBONE: 2.0}, (-5.0, 5.0))
    draw(pipe, photos(3), num_inference_steps=3)
    assert calls == [3, 6, 6]  # the first step is at no signal at all


def test_a_guided_step_is_the_unconditional_one_plus_scale_times_the_difference(pipe):
    x, t = torch.randn(2, 3, 16, 16), torch.tensor(500)
    h = pipe.encode(photos(2), BACKBONE)
    out, free = pipe.unet.with_and_without(x, t, h, BACKBONE)
    assert torch.allclose(out, pipe.unet(x, t, h, BACKBONE).sample, atol=1e-5)
    assert torch.allclose(free, pipe.unet(x, t).sample, atol=1e-5)
    assert not torch.allclose(out, free, atol=1e-3)


def test_the_scale_of_the_checkpoint_is_used_where_no_call_names_one(pipe):
    plain, free = draw(pipe, photos(2)), pipe(seeds=[1], output_type="pt").images
    led = draw(pipe, photos(2), guidance_scale=3.0)
    pipe.use_guidance({BACKBONE: 3.0})
    assert torch.equal(draw(pipe, photos(2)), led) and not torch.allclose(plain, led, atol=0.01)
    assert torch.equal(draw(pipe, photos(2), guidance_scale=1), plain)
    assert pipe.guidance_of(BACKBONE) == Guidance(3) and pipe.guidance_of(PROJECTOR) == Guidance()
    assert torch.equal(
        draw(pipe, photos(2), source=PROJECTOR), draw(pipe, photos(2), source=PROJECTOR, guidance_scale=1)
    )
    with unguided(pipe):
        assert torch.equal(draw(pipe, photos(2)), plain)
    assert torch.equal(draw(pipe, photos(2)), led)
    assert torch.equal(pipe(seeds=[1], output_type="pt").images, free), "of nothing there is no guidance"


def test_every_image_of_a_batch_has_the_scale_of_its_own_source(pipe):
    pipe.use_guidance({BACKBONE: 3.0, PROJECTOR: 0.5})
    together = draw(pipe, photos(3), source=list(TINY_SOURCES), seeds=[4])
    for row, name in enumerate(TINY_SOURCES):
        scale = {BACKBONE: 3.0, PROJECTOR: 0.5}.get(name, 1.0)
        alone = draw(pipe, photos(3)[row : row + 1], source=name, seeds=[4], guidance_scale=scale)
        assert torch.allclose(together[row : row + 1], alone, atol=LEVEL)


def test_an_interval_of_everything_is_none_and_one_of_nothing_turns_guidance_off(pipe):
    plain, led = draw(pipe, photos(1)), draw(pipe, photos(1), guidance_scale=3.0)
    pipe.use_guidance({BACKBONE: 3.0}, (-100.0, 100.0))
    assert torch.equal(draw(pipe, photos(1)), led)
    pipe.use_guidance({BACKBONE: 3.0}, (90.0, 100.0))
    assert torch.equal(draw(pipe, photos(1)), plain)


def test_guidance_is_saved_with_the_checkpoint(pipe, tmp_path: Path):
    pipe.use_guidance({BACKBONE: 3.0}, (-4.0, 4.0))
    pipe.save_pretrained(tmp_path / "copy")
    copy = rcdm.load(tmp_path / "copy", device="cpu")
    assert copy.config.guidance_scales == {BACKBONE: 3.0} and list(copy.config.guidance_interval) == [-4, 4]
    copy.use_guidance({BACKBONE: 2.0})
    save_guidance(copy, tmp_path / "copy")
    again = rcdm.load(tmp_path / "copy", device="cpu")
    assert again.guidance_of(BACKBONE) == Guidance(2) and again.config.guidance_interval is None
    assert torch.allclose(draw(again, photos(1)), draw(copy, photos(1)), atol=1e-5)
    assert f"guidance 2 for {BACKBONE}" in again.guided_in_words
    copy.use_guidance({})
    assert not copy.guided_in_words


@pytest.mark.parametrize(
    ("scales", "interval", "words"),
    [
        ({"tiny/nothing": 2.0}, None, "no source"), ({BACKBONE: -1.0}, None, "from 0 to 100"),
        ({BACKBONE: float("inf")}, None, "from 0 to 100"), ({BACKBONE: float("nan")}, None, "from 0 to 100"),
        ({BACKBONE: 2.0}, (3.0, -3.0), "interval"), ({BACKBONE: 2.0}, (3.0,), "interval"),
    ],
)  # fmt: skip
def test_guidance_that_means_nothing_is_refused_and_changes_nothing(pipe, scales, interval, words):
    with pytest.raises(ValueError, match=words):
        pipe.use_guidance(scales, interval)
    assert pipe.config.guidance_scales == {} and pipe.config.guidance_interval is None


def test_guidance_zero_is_the_unconditional_draw(pipe):
    free = pipe(seeds=[3], output_type="pt").images
    assert torch.allclose(draw(pipe, photos(1), seeds=[3], guidance_scale=0.0), free, atol=1e-5)
    assert not torch.allclose(draw(pipe, photos(1), seeds=[3]), free, atol=0.01)


def test_saving_and_loading_gives_the_same_images(pipe, tmp_path: Path):
    pipe.save_pretrained(tmp_path / "copy")
    copy = rcdm.load(tmp_path / "copy", device="cpu")
    assert copy.sources.names == pipe.sources.names and copy.config.default_steps == 4
    for name in TINY_SOURCES:
        assert torch.allclose(draw(copy, photos(1), source=name), draw(pipe, photos(1), source=name), atol=1e-5)
    files = {path.suffix for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert files == {".json", ".safetensors", ".md"}


def test_a_hub_id_is_downloaded_and_then_loaded_from_its_folder(tiny_checkpoint: Path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, **kwargs: asked.append((name, kwargs)) or str(tiny_checkpoint),
    )
    pipe = rcdm.load("somebody/tiny-16", device="cpu")
    assert pipe.sources.names == TINY_SOURCES
    ((name, options),) = asked
    assert name == "somebody/tiny-16" and set(options["allow_patterns"]) == {"*.json", "*.md", "*.safetensors"}


def test_a_source_alone_is_the_source_of_the_pipeline(pipe, tiny_checkpoint: Path):
    for name in TINY_SOURCES:
        assert torch.allclose(rcdm.load_source(f"{tiny_checkpoint}/{name}")(photos(2)), pipe.encode(photos(2), name))


def test_a_photograph_reaches_a_source_as_the_images_did_that_the_denoiser_learnt_from(pipe):
    """A network of another size than the drawn images sees them enlarged: in training, and of a sharp photograph."""
    pipe.sources._preprocessing["tiny"] = rcdm.Preprocessing(48)
    sharp = im.to_pil(torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1)[0]
    small = im.to_tensor(sharp, 16)
    learnt = pipe.encode(small, BACKBONE)
    assert torch.equal(pipe.encode(sharp, BACKBONE), learnt) and torch.equal(pipe.seen([sharp]), small)
    assert torch.allclose(pipe.encode([sharp, sharp], [BACKBONE, PROJECTOR])[:1, : learnt.shape[1]], learnt, atol=1e-5)
    pipe.register_to_config(full_resolution=True)
    own = pipe.sources[BACKBONE](im.to_tensor(sharp, 48))
    assert torch.equal(pipe.encode(sharp, BACKBONE), own) and not torch.allclose(own, learnt, atol=1e-3)


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler])
def test_schedulers_can_be_swapped(pipe, scheduler):
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    drawn = draw(pipe, photos(1), seeds=[1, 2])
    assert torch.isfinite(drawn).all() and drawn.abs().max() <= 1
    assert torch.allclose(drawn[1:], draw(pipe, photos(1), seeds=[2]), atol=LEVEL)


def test_the_callback_sees_every_step_of_every_batch(pipe):
    seen = []
    draw(
        pipe,
        photos(1),
        seeds=[0, 1, 2],
        batch_size=2,
        num_inference_steps=3,
        callback_on_step_end=lambda _pipe, step, _t, tensors: seen.append((step, tensors["index"].tolist())),
    )
    assert seen == [(0, [0, 1]), (1, [0, 1]), (2, [0, 1]), (0, [2]), (1, [2]), (2, [2])]


def test_pil_and_its_tensor_have_the_same_representation(pipe):
    x = im.to_tensor(im.to_pil(photos(2)))
    assert torch.allclose(pipe.encode(im.to_pil(x), BACKBONE), pipe.encode(x, BACKBONE), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "tiny/nowhere"}, "no level"),
        ({"source": "other/backbone"}, "tiny/backbone"),
        ({"source": None}, "which source"),
        ({"seeds": []}, "at least one"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"output_type": "jpeg"}, "'pil' or 'pt'"),
        ({"representation": torch.zeros(1, 32)}, "not both"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(pipe, options, words):
    with pytest.raises(ValueError, match=words):
        pipe(photos(1), **{"source": BACKBONE, "seeds": [0], **options})


def test_sources_behave_as_the_tuple_of_their_names(pipe):
    assert pipe.sources == TINY_SOURCES and tuple(pipe.sources) == TINY_SOURCES and len(pipe.sources) == 3
    assert BACKBONE in pipe.sources and pipe.sources[0] == BACKBONE and pipe.sources[:2] == TINY_SOURCES[:2]
    assert pipe.sources[PROJECTOR].level == "projector"


def test_an_unknown_checkpoint_names_what_there_is():
    with pytest.raises(ValueError, match="There is no checkpoint 'nothing'"):
        rcdm.load("nothing")


def test_a_folder_of_backbones_says_which_checkpoint_draws_with_them(tmp_path):
    with pytest.raises(
        ValueError, match=r"backbones-cifar10 holds backbones only and no denoiser; draw with cifar10-32\."
    ):
        rcdm.load("backbones-cifar10")
    (tmp_path / "mine" / "sources" / "simclr").mkdir(parents=True)
    with pytest.raises(ValueError, match="rcdm train --sources_dir"):
        rcdm.load(tmp_path / "mine")


def test_only_a_checkpoint_of_drawn_shapes_asks_for_caution(pipe):
    assert pipe.caution == ""
    pipe.register_to_config(trained_on="sprites")
    assert "drawn shapes" in pipe.caution


def test_images_drawn_perfectly_are_faithful_and_those_of_others_are_not(pipe):
    x = photos(20)
    h = pipe.encode(x, BACKBONE)
    perfect, swapped = faithfulness_of(pipe, h, x, BACKBONE), faithfulness_of(pipe, h, x.roll(1, 0), BACKBONE)
    assert perfect["cycle_error"].value == pytest.approx(0, abs=1e-6) and perfect["mrr"].value == 1
    assert perfect["similarity_floor"].value == pytest.approx(1) and perfect["similarity_floor"].null < 1
    assert swapped["cycle_error"].value == pytest.approx(1, abs=0.4)
    assert swapped["similarity_floor"].value == pytest.approx(perfect["similarity_floor"].null)


@pytest.mark.parametrize("name", ["", "sprites-32", "sprites-32/simclr", "nowhere/simclr/backbone"])
def test_half_a_name_of_a_source_is_refused_with_the_whole(name):
    with pytest.raises(ValueError, match="write CHECKPOINT/NETWORK/LEVEL"):
        rcdm.load_source(name)
