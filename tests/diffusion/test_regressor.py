"""A trained denoiser that is led by what noisy images say of h."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import gaussian_world as gw
import pytest
import torch
from conftest import TINY_SOURCES, make_tiny_sources
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file
from torch import nn

import rcdm
from rcdm.cli.guiding import checkpoint_of
from rcdm.diffusion.checkpoints import save_guidance
from rcdm.diffusion.guidance import GuidedUNet
from rcdm.diffusion.guidance_settings import Guidance
from rcdm.diffusion.process import Process
from rcdm.diffusion.regression import learn_regression
from rcdm.diffusion.regressor import Regressor, learn_source
from rcdm.measures.parts import weights_digest

BACKBONE, PROJECTOR, LAYER = TINY_SOURCES
W = 50.0
"""A strength that networks of random weights show."""


def learn_all(unet, sources, process, images, names) -> Regressor:
    return Regressor.of({name: learn_source(unet, sources, process, images, name) for name in names}, unet.image_size)


def photos(n: int, seed: int = 5) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def learnt(tiny_checkpoint) -> Regressor:
    pipe = rcdm.load(tiny_checkpoint, device="cpu")
    return learn_all(pipe.unet, pipe.sources, Process(pipe.scheduler), photos(40, 6), TINY_SOURCES)


@pytest.fixture
def led(pipe, learnt):
    pipe.use_regressor(learnt)
    return pipe


def draw(pipe, n: int = 2, source=BACKBONE, **options) -> torch.Tensor:
    h = pipe.encode(photos(n), source)
    return pipe.draw(h, source, range(n), num_inference_steps=8, **options)


def test_a_denoiser_that_ignores_h_is_guided_as_a_prior_is(led):
    """All that h does is then done by (4), as in `guided`, from the same regression."""
    for projection in led.unet.projections.values():
        nn.init.zeros_(projection.linear.weight)
    process = Process(led.scheduler)
    images, h = photos(40, 6), led.encode(photos(40, 6), BACKBONE)
    own = led.unet.projections[BACKBONE]
    unet = GuidedUNet(led.unet, process, led.sources, "regression")
    unet.set_statistics(BACKBONE, own.mean, own.std)
    moved = led.unet.standardise(led.encode(images.roll(1, 3), BACKBONE), BACKBONE)
    unet.set_tolerance(BACKBONE, float((moved - led.unet.standardise(h, BACKBONE)).square().mean()))
    unet.learn(BACKBONE, images, h)
    unet.set_strength(BACKBONE, W)
    led.use_regressor(learn_all(led.unet, led.sources, process, images, [BACKBONE]))
    for timestep in (torch.tensor(600), torch.tensor(300), torch.tensor(20)):
        found = led.guided_prediction(process, photos(3), timestep, h[:3], BACKBONE, [Guidance(1, W)] * 3)
        guided, free = unet(photos(3), timestep, h[:3], BACKBONE).sample, unet(photos(3), timestep).sample
        assert (found - guided).abs().max() < 0.01 * (found - free).abs().max()


def test_a_scale_leaves_a_learnt_variance_as_it_is(pipe, monkeypatch):
    def say(*_):
        torch.manual_seed(0)
        one = torch.randn(2, 6, 16, 16)
        return one, torch.randn(2, 6, 16, 16)

    monkeypatch.setattr(pipe.unet, "with_and_without", say)
    with_h, without = say()
    h = pipe.encode(photos(2), BACKBONE)
    for scale in (0.5, 3.0):
        found = pipe.guided_prediction(
            Process(pipe.scheduler), photos(2), torch.tensor(500), h, BACKBONE, [Guidance(scale, 0)] * 2
        )
        assert torch.equal(found[:, 3:], with_h[:, 3:])
        assert torch.allclose(found[:, :3], without[:, :3] + scale * (with_h - without)[:, :3], atol=1e-5)


def test_where_noise_is_all_there_is_nothing_is_led(led):
    process, h = Process(led.scheduler), led.encode(photos(2), BACKBONE)
    low = led.regressor[BACKBONE].levels[0]
    for timestep in (torch.tensor(999), torch.tensor(850), torch.tensor(700), torch.tensor(500)):
        found = led.guided_prediction(process, photos(2), timestep, h, BACKBONE, [Guidance(1, W)] * 2)
        with torch.no_grad():
            plain = led.unet(photos(2), timestep, h, BACKBONE).sample
        assert torch.equal(found, plain) is (float(process.logsnr()[timestep]) < float(low))
    assert low == -4


def told(knows: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """In the Gaussian world: E[x | x_t] or E[x | x_t, h], the same after (4), and E[x | x_t, h] itself."""
    covariance, encoder, h = gw.world()
    pipe = gw.pipeline(covariance, encoder, "dps")
    unet, process = pipe.unet, Process(pipe.scheduler)
    root = torch.linalg.cholesky(covariance)
    x = (torch.randn(2000, gw.D, generator=torch.Generator().manual_seed(1)) @ root.T).view(-1, 3, 2, 2)

    class Knowing(nn.Module):
        """A denoiser of that world, which knows of h or does not."""

        space = unet.space
        image_size = 2
        config = unet.config

        def standardise(self, given, _):
            return given

        def forward(self, x_t, timestep, given=None, source=None):
            out = unet(x_t, timestep)
            a, s = process.levels(timestep)
            spread = torch.linalg.inv(torch.linalg.inv(covariance) + a**2 / s**2 * torch.eye(gw.D))
            x0 = (x_t.flatten(1) @ spread) * a / s**2
            if knows:
                gain = spread @ encoder.T @ torch.linalg.inv(encoder @ spread @ encoder.T + gw.TOLERANCE * torch.eye(2))
                x0 = x0 + (given - x0 @ encoder.T) @ gain.T
            x0 = x0.view_as(x_t)
            out.sample = a * (x_t - a * x0) / s - s * x0
            return out

    denoiser = Knowing()
    z = x.flatten(1) @ encoder.T
    found = learn_regression(
        process, unet.space, lambda x_t, t, rows: denoiser(x_t, t, z[rows]).sample,
        lambda some: some.flatten(1) @ encoder.T, x, z, gw.TOLERANCE,
    )  # fmt: skip
    regressor = Regressor.of({gw.SOURCE: found}, 2)
    given, timestep = h.expand(4, -1), torch.tensor(500)
    x_t = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    prediction = regressor.lead(
        denoiser, pipe.sources, process, x_t, timestep, given, [gw.SOURCE] * 4, [1.0] * 4,
        lambda x, rows: denoiser(x, timestep, given[rows], gw.SOURCE).sample,
    )  # fmt: skip
    plain = process.x0(denoiser(x_t, timestep, given, gw.SOURCE).sample, x_t, timestep)
    after = process.x0(prediction, x_t, timestep)
    knows = True
    exact = process.x0(denoiser(x_t, timestep, given, gw.SOURCE).sample, x_t, timestep)
    return plain, after, exact


def test_one_that_knows_nothing_of_h_is_led_to_what_one_knows_who_does():
    plain, after, exact = told(knows=False)
    assert (after - exact).norm() < 0.35 * (plain - exact).norm()


def test_one_that_knows_all_of_h_is_left_alone():
    plain, after, exact = told(knows=True)
    assert torch.equal(plain, exact)
    ignorant = told(knows=False)[0]
    assert (after - exact).norm() < 0.2 * (ignorant - exact).norm()


def test_a_led_draw_depends_on_its_seed_and_its_h_alone(led):
    names = [BACKBONE, PROJECTOR, LAYER]
    h = led.encode(photos(3), names)
    together = led.draw(h, names, [1, 2, 3], num_inference_steps=8, guidance_strength=W)
    for i, name in enumerate(names):
        own = led.encode(photos(3)[i : i + 1], name)
        alone = led.draw(own, name, [i + 1], num_inference_steps=8, guidance_strength=W)
        assert torch.allclose(together[i : i + 1], alone, atol=1e-3)
        assert not torch.allclose(alone, led.draw(own, name, [i + 1], num_inference_steps=8), atol=0.01)


def test_what_a_call_names_is_all_the_guidance_there_is(led):
    plain, strong = draw(led), draw(led, guidance_strength=W)
    scaled = draw(led, guidance_scale=3.0)
    led.use_guidance({BACKBONE: 3.0}, None, {BACKBONE: W})
    assert led.guidance_of(BACKBONE) == Guidance(3.0, W) and led.guidance_of(PROJECTOR) == Guidance()
    assert torch.equal(draw(led), draw(led, guidance_scale=3.0, guidance_strength=W))
    assert torch.equal(draw(led, guidance_scale=1), plain)
    assert torch.equal(draw(led, guidance_scale=3.0), scaled)
    assert torch.equal(draw(led, guidance_strength=W), strong)
    assert torch.equal(draw(led, guidance_strength=0), plain)
    assert f"guidance 3 and regression 50 for {BACKBONE}." in led.guided_in_words
    assert "similarity" in led.guided_in_words
    led.use_guidance({BACKBONE: 3.0})
    assert "similarity" not in led.guided_in_words


def test_in_one_batch_each_source_has_its_own_strength(led):
    names = [BACKBONE, LAYER, LAYER]
    led.use_guidance(strengths={LAYER: 1.0})
    h = led.encode(photos(3), names)
    together = led.draw(h, names, [1, 2, 3], num_inference_steps=8)
    for i, name in enumerate(names):
        own = led.encode(photos(3)[i : i + 1], name)
        strength = 1.0 if name == LAYER else 0.0
        alone = led.draw(own, name, [i + 1], num_inference_steps=8, guidance_strength=strength)
        assert torch.allclose(together[i : i + 1], alone, atol=1e-3)


def test_it_is_kept_with_the_checkpoint_and_draws_the_same(led, tiny_checkpoint, tmp_path):
    led.use_guidance(strengths={BACKBONE: W, LAYER: 1.0})
    led.save_pretrained(tmp_path / "whole")
    shutil.copytree(tiny_checkpoint, tmp_path / "evaluated")
    save_guidance(led, tmp_path / "evaluated")
    for name in ("whole", "evaluated"):
        again = rcdm.load(tmp_path / name, device="cpu")
        assert again.guidance_of(BACKBONE) == Guidance(1, W) and again.guidance_of(LAYER) == Guidance(1, 1)
        assert torch.equal(draw(again), draw(led, guidance_strength=W))
    again.use_guidance()
    save_guidance(again, tmp_path / "evaluated")
    plain = rcdm.load(tmp_path / "evaluated", device="cpu")
    assert torch.equal(draw(plain), draw(led, guidance_scale=1))
    assert torch.equal(draw(plain, guidance_strength=W), draw(led, guidance_strength=W))
    again.use_regressor(None)
    save_guidance(again, tmp_path / "evaluated")
    assert rcdm.load(tmp_path / "evaluated", device="cpu").regressor is None
    assert not (tmp_path / "evaluated" / "regressor").exists()


def broken(folder: Path, harm: str) -> None:
    weights, config = (folder / "regressor" / name for name in ("diffusion_pytorch_model.safetensors", "config.json"))
    if harm in ("nan", "levels", "covariance", "other"):
        tensors = load_file(weights)
        name = {"nan": "basis", "other": "basis"}.get(harm, harm)
        for key in [key for key in tensors if key.endswith(name)]:
            changed = {"nan": tensors[key] * torch.nan, "other": tensors[key][:-1]}.get(harm, 0 * tensors[key])
            tensors[key] = changed.clone()
        save_file(tensors, weights)
    if harm == "other":
        about = json.loads(config.read_text())
        about["sources"] = {name: [dim - 1, k] for name, (dim, k) in about["sources"].items()}
        config.write_text(json.dumps(about))
    elif harm == "cut":
        weights.write_bytes(weights.read_bytes()[:-9])
    elif harm in ("huge", "kind", "empty"):
        about = json.loads(config.read_text())
        about["sources"]["" if harm == "empty" else BACKBONE] = "all" if harm == "kind" else [2**16, 2**16]
        config.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("nan", "NaN or infinity"),
        ("cut", "no whole safetensors"),
        ("huge", "basis"),
        ("kind", f"sources.{BACKBONE}"),
        ("empty", "describes no regressor"),
        ("levels", "falling levels"),
        ("covariance", "no covariance"),
        ("other", "numbers of tiny"),
    ],
)
def test_a_damaged_one_is_refused_with_the_file(led, tmp_path, harm, words):
    led.use_guidance(strengths={BACKBONE: W})
    led.save_pretrained(tmp_path / "a")
    broken(tmp_path / "a", harm)
    with pytest.raises(ValueError, match=words) as refused:
        rcdm.load(tmp_path / "a")
    assert "regressor" in str(refused.value)


def test_a_source_that_was_not_learnt_is_refused(pipe):
    for strengths in ({BACKBONE: 1.0}, 2.0):
        with pytest.raises(ValueError, match=r"no regression of .*rcdm evaluate"):
            pipe.use_guidance(strengths=strengths)
    with pytest.raises(ValueError, match="no regression"):
        draw(pipe, guidance_strength=1.0)
    pipe.use_regressor(learn_all(pipe.unet, pipe.sources, Process(pipe.scheduler), photos(12), [BACKBONE]))
    draw(pipe, guidance_strength=1.0)
    with pytest.raises(ValueError, match=f"no regression of {PROJECTOR}"):
        draw(pipe, source=PROJECTOR, guidance_strength=1.0)


def test_a_command_leads_the_sources_that_can_be_led_and_names_the_others(pipe, tmp_path, capsys):
    def loaded(*source: str) -> rcdm.RCDMPipeline:
        asked = {"device": "cpu", "scheduler": None, "mixed_precision": "no", "guidance_scale": None}
        return checkpoint_of(Namespace(source=list(source), guidance_strength=W, **asked), str(tmp_path))

    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"no regression of {BACKBONE}, {PROJECTOR}, {LAYER}"):
        loaded()
    pipe.use_regressor(learn_all(pipe.unet, pipe.sources, Process(pipe.scheduler), photos(12), [BACKBONE, LAYER]))
    pipe.save_pretrained(tmp_path)
    assert loaded().config.guidance_strengths == {BACKBONE: W, LAYER: W}
    assert f"no regression of them: {PROJECTOR}\n" in capsys.readouterr().err
    assert loaded(LAYER).config.guidance_strengths == {LAYER: W} and "not led" not in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"no regression of {PROJECTOR}"):
        loaded(PROJECTOR)


def test_a_learned_variance_stays(tiny_checkpoint):
    sources = make_tiny_sources()
    pipe = rcdm.load(tiny_checkpoint, device="cpu")
    from rcdm.diffusion.unet import RepresentationUNet, unet_arguments

    arguments = unet_arguments(16, channels=(8, 16)) | {"out_channels": 6}
    unet = RepresentationUNet(sources.widths(), arguments, {"kind": "pixels"})
    process = Process(DDPMScheduler(prediction_type="v_prediction"))
    regressor = learn_all(unet, pipe.sources, process, photos(12), [BACKBONE])
    x, t, h = photos(2), torch.tensor(400), pipe.encode(photos(2), BACKBONE)
    say = lambda x_t, rows: unet(x_t, t, h[rows], BACKBONE).sample  # noqa: E731
    out = regressor.lead(unet, pipe.sources, process, x, t, h, [BACKBONE] * 2, [W] * 2, say)
    with torch.no_grad():
        plain = say(x, slice(None))
    assert out.shape == (2, 6, 16, 16) and torch.allclose(out[:, 3:], plain[:, 3:], atol=1e-5)
    assert not torch.allclose(out[:, :3], plain[:, :3], atol=1e-3)


def test_what_a_new_regressor_does_not_have_is_guided_no_more(led, learnt):
    led.use_guidance(strengths={BACKBONE: W, LAYER: W})
    led.use_regressor(Regressor.of({LAYER: learnt[LAYER]}, 16))
    assert led.guidance_of(BACKBONE) == Guidance() and led.guidance_of(LAYER) == Guidance(1, W)
    led.use_regressor(None)
    assert not led.guided_in_words and torch.equal(draw(led, source=LAYER), draw(led, source=LAYER, guidance_scale=1))


def test_its_digest_does_not_depend_on_whether_it_was_loaded(learnt, tmp_path):
    turned = Regressor.of({name: learnt[name] for name in (PROJECTOR, LAYER, BACKBONE)}, 16)
    turned.save_pretrained(tmp_path / "a")
    assert weights_digest(Regressor.from_pretrained(tmp_path / "a")) == weights_digest(turned) == weights_digest(learnt)


def test_one_of_other_sizes_is_refused(pipe, learnt):
    with pytest.raises(ValueError, match=r"16 px.*evaluate"):
        pipe.use_regressor(Regressor.of({BACKBONE: learnt_of(8)}, 8))
    with pytest.raises(ValueError, match=r"for 32 numbers of tiny/projector"):
        pipe.use_regressor(Regressor.of({PROJECTOR: learnt[BACKBONE]}, 16))


def learnt_of(pixels: int):
    from rcdm.diffusion.regression import LEVELS, Regression, features_of

    return Regression.blank(32, 4, features_of(4, pixels), len(LEVELS))


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf"), 101.0])
def test_a_strength_that_means_nothing_is_refused(led, strength):
    for ask in (lambda: draw(led, guidance_strength=strength), lambda: led.use_guidance(strengths=strength)):
        with pytest.raises(ValueError, match="strength of guidance is a number from 0 to 100"):
            ask()
    with pytest.raises(ValueError, match="need images or a representation"):
        led(seeds=[0], guidance_strength=1.0)


def test_a_batch_is_cut_so_that_activations_fit_the_memory(led, monkeypatch):
    seen, whole = [], draw(led, 5, guidance_strength=W)
    forward = type(led.unet).forward

    def noted(self, sample, *args, **kwargs):
        if torch.is_grad_enabled():
            seen.append(len(sample))
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(type(led.unet), "forward", noted)
    monkeypatch.setattr("rcdm.diffusion.guidance.MOST_DRAWN", 2 * 16**2)
    assert torch.allclose(draw(led, 5, guidance_strength=W), whole, atol=1e-3)
    assert set(seen) == {2, 1}


def test_a_regression_is_kept_as_one_row_of_numbers(learnt):
    one = learnt[BACKBONE]
    blank = type(one).blank(*one.basis.shape, one.weight.shape[1], len(one.levels))
    again = blank.filled(one.flat())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_study_learns_what_is_missing_and_keeps_the_rest(led, learnt):
    led.use_regressor(Regressor.of({BACKBONE: learnt[BACKBONE]}, 16))
    options = {"seeds": [0, 1], "reference": photos(24, 7), "scales": "", "strengths": "1", "num_inference_steps": 2}
    found = rcdm.studies.STUDIES["guidance"](led, photos(3), sources=[BACKBONE, LAYER], **options)
    assert list(found.numbers["sources"][LAYER]["tried"]) == ["off", "regression 1"]
    assert set(led.regressor.names) == {BACKBONE, LAYER}
    assert torch.equal(led.regressor[BACKBONE].weight, learnt[BACKBONE].weight)


def test_a_guided_prior_has_a_strength_of_its_own(tiny_checkpoint):
    pipe = rcdm.guided(tiny_checkpoint, make_tiny_sources().only([BACKBONE]), prior_images=16)
    with pytest.raises(ValueError, match="strength of its own"):
        draw(pipe, guidance_strength=1.0)
    said: list[str] = []
    options = {"seeds": [0, 1], "reference": photos(24, 7), "scales": "", "num_inference_steps": 2}
    found = rcdm.studies.STUDIES["guidance"](pipe, photos(3), sources=[BACKBONE], on_progress=said.append, **options)
    assert list(found.numbers["sources"][BACKBONE]["tried"]) == ["off"] and "strengths are left out" in " ".join(said)
