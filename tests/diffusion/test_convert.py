"""Networks of the released code, against numbers that were recorded with it (tests/recorded/official)."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from PIL import Image
from reference_adm import Reference
from safetensors.torch import load_file
from torch import nn

from rcdm.cli.convert_official import _flag
from rcdm.data import images as im
from rcdm.diffusion.official import convert
from rcdm.diffusion.official.convert import RELEASED_FLAGS, from_official, official_scheduler
from rcdm.diffusion.official.loss import VariationalLoss
from rcdm.diffusion.official.sampler import spaced_timesteps
from rcdm.networks.representation import Preprocessing, RepresentationSource

GOLDEN = Path(__file__).parents[1] / "recorded" / "official"
CASES = ["a_32px_heads4", "b_64px_headch16"]


def recorded(case: str, name: str) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in load_file(GOLDEN / case / f"{name}.safetensors").items()}


def flags_of(case: str) -> dict:
    return json.loads((GOLDEN / case / "config.json").read_text())["flags"]


def converted(case: str):
    return from_official(recorded(case, "model"), flags_of(case))


def largest_error(case: str, unet) -> float:
    io = recorded(case, "io")
    return float((unet(io["x"], io["timesteps"], io["feat"], unet.sources[0]).sample - io["output"]).abs().max())


@pytest.mark.parametrize("case", CASES)
def test_the_output_is_the_recorded_one(case):
    unet, io = converted(case), recorded(case, "io")
    assert largest_error(case, unet) < 2e-5
    free = unet(io["x"][:1], io["timesteps"][:1]).sample
    assert torch.allclose(free, io["output_without_feat"], atol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_saved_and_loaded_network_is_the_same(case, tmp_path):
    unet = converted(case)
    unet.save_pretrained(tmp_path)
    assert largest_error(case, type(unet).from_pretrained(tmp_path)) < 2e-5


def test_the_released_file_format_is_read(tmp_path):
    state = OrderedDict((name, nn.Parameter(tensor)) for name, tensor in recorded(CASES[0], "model").items())
    torch.save(state, tmp_path / "model.pt")
    assert largest_error(CASES[0], from_official(tmp_path / "model.pt", flags_of(CASES[0]))) < 2e-5


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('a file was executed')",)


def test_a_file_that_would_execute_something_is_refused(tmp_path):
    torch.save({"x": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="no state dict"):
        from_official(tmp_path / "trap.pt")
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "nested.pt")
    with pytest.raises(ValueError, match="no state dict"):
        from_official(tmp_path / "nested.pt")


def swapped_qkv(monkeypatch):
    monkeypatch.setattr(
        convert, "_split_qkv", lambda tensor, *_: tensor.flatten(1).chunk(3) if tensor.ndim == 3 else tensor.chunk(3)
    )


def no_middle_norm(monkeypatch):
    whole = convert._empty

    def without(*arguments):
        unet = whole(*arguments)
        unet.unet.mid_block.attentions[0].group_norm.forward = lambda x: x
        return unet

    monkeypatch.setattr(convert, "_empty", without)


def other_heads(monkeypatch):
    whole = convert._empty
    monkeypatch.setattr(
        convert, "_empty", lambda flags, *rest: whole({**flags, "num_heads": 8, "num_head_channels": -1}, *rest)
    )


@pytest.mark.parametrize("broken", [swapped_qkv, no_middle_norm, other_heads])
@pytest.mark.parametrize("case", CASES)
def test_a_broken_converter_is_caught(case, broken, monkeypatch):
    broken(monkeypatch)
    assert largest_error(case, converted(case)) > 1e-2


def walk(scheduler, unet, run: str, steps: int, monkeypatch) -> float:
    """Largest difference to the recorded trajectory, with the recorded noise."""
    known = recorded(CASES[0], "trajectory")
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == known[f"{run}.timesteps"].tolist()
    queue = iter(known["noises"])
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(queue))
    x, worst = known["x_init"], 0.0
    for k, t in enumerate(scheduler.timesteps):
        out = unet(x, t, known["feat"], unet.sources[0]).sample
        step = scheduler.step(out, t, x)
        x = step.prev_sample
        for name, tensor in (("x_after", x), ("pred_xstart", step.pred_original_sample)):
            if (key := f"{run}.{name}_step_{k:02d}") in known:
                worst = max(worst, float((tensor - known[key]).abs().max()))
    return worst


@pytest.mark.parametrize(("run", "ddim", "spacing"), [
    ("ddpm_25", False, "linspace"), ("ddim_25", True, "linspace"), ("ddim_ddim25", True, "leading"),
])  # fmt: skip
def test_trajectories_are_the_recorded_ones(run, ddim, spacing, monkeypatch):
    scheduler = official_scheduler(flags_of(CASES[0]), ddim=ddim)
    scheduler.register_to_config(timestep_spacing=spacing)
    assert walk(scheduler, converted(CASES[0]), run, 25, monkeypatch) < 1e-3


def test_another_variance_leaves_the_recorded_trajectory(monkeypatch):
    scheduler = official_scheduler(flags_of(CASES[0]))
    scheduler.register_to_config(variance_type="fixed_small")
    unet = converted(CASES[0])
    forward = unet.forward
    monkeypatch.setattr(unet, "forward", lambda *a: type(out := forward(*a))(sample=out.sample[:, :3]))
    assert walk(scheduler, unet, "ddpm_25", 25, monkeypatch) > 0.1


@pytest.mark.parametrize(("spacing", "expected"), [
    ("5,3,2", [0, 83, 166, 250, 333, 334, 500, 666, 667, 999]),
    ("1", [0]),
    ("ddim5", [0, 200, 400, 600, 800]),
])  # fmt: skip
def test_spacings_are_those_of_the_released_code(spacing, expected):
    assert spaced_timesteps(1000, spacing) == expected
    assert spaced_timesteps(1000, "") == list(range(1000))


@pytest.mark.parametrize("spacing", ["ddim999", "0", "2000"])
def test_spacings_that_do_not_exist_are_refused(spacing):
    with pytest.raises(ValueError, match="timesteps"):
        spaced_timesteps(1000, spacing)


def test_losses_are_the_recorded_ones():
    known, unet = recorded(CASES[0], "loss"), converted(CASES[0])
    measure = VariationalLoss(official_scheduler(flags_of(CASES[0])))
    x_t = measure.noisy(known["x_start"], known["t"], known["noise"])
    assert torch.allclose(x_t, known["x_t"], atol=1e-6)
    terms = measure(
        unet(x_t, known["t"], known["feat"], unet.sources[0]).sample, known["x_start"], known["t"], known["noise"]
    )
    for term, name in ((terms.mse, "mse"), (terms.vb, "vb"), (terms.loss, "loss")):
        assert torch.allclose(term, known[f"out_{name}"], atol=1e-5), name


def test_the_bound_teaches_the_variance_alone():
    known = recorded(CASES[0], "loss")
    out = torch.randn(4, 6, 32, 32, requires_grad=True)
    VariationalLoss(official_scheduler(flags_of(CASES[0])))(
        out, known["x_start"], known["t"], known["noise"]
    ).vb.sum().backward()
    assert out.grad[:, :3].abs().max() == 0 and out.grad[:, 3:].abs().max() > 0


def test_the_crop_is_the_recorded_one_to_the_last_bit():
    known = recorded("misc", "preprocess")
    image = im.decode(GOLDEN / "misc" / "image.png")
    for size, name in ((128, "denoiser_crop_128"), (224, "ssl_crop_224")):
        crop = im.to_tensor(image, size)[0]
        pixels = ((crop + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
        assert torch.equal(pixels, known[f"{name}_uint8_hwc"])
        assert torch.equal(crop, known[f"{name}_uint8_hwc"].permute(2, 0, 1).float() / 127.5 - 1)
    assert isinstance(image, Image.Image)


def test_a_squashed_image_reaches_the_network_as_it_was_recorded():
    known = recorded("misc", "preprocess")["squash_resize_224_uint8_chw"]
    photo = im.squash(im.decode(GOLDEN / "misc" / "image.png"), 224)
    read, seen = Preprocessing(224), []  # what converted networks are fed through: nothing is cropped or resized again
    network = nn.Sequential(nn.Flatten(), nn.Identity())
    network[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    network.register_parameter("anything", nn.Parameter(torch.zeros(1)))
    RepresentationSource.from_module(network, levels=["output"], preprocessing=read)["output"](photo)
    assert torch.allclose(seen[0][0], known.float() / 127.5 - 1, atol=1e-6)
    assert torch.equal(((seen[0][0] + 1) * 127.5).round().to(torch.uint8), known)


def test_the_released_networks_have_these_keys_and_this_size():
    known = json.loads((GOLDEN / "released_128_keys.json").read_text())
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in known["keys_for_ssl_dim_2048"].items()}
        unet = convert._empty(RELEASED_FLAGS, "simclr/backbone", state)
        moved = convert._moved(state, RELEASED_FLAGS, "simclr/backbone")
    shapes = {name: tuple(parameter.shape) for name, parameter in unet.named_parameters()}
    assert {name: tuple(tensor.shape) for name, tensor in moved.items()} == shapes
    assert sum(parameter.numel() for parameter in unet.parameters()) == known["n_parameters"]["2048"] == 422_603_782


FLAGS = {"image_size": 32, "num_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2]}
FLAGS |= {"attention_resolutions": [16]}
OTHERS = [
    {},
    {"resblock_updown": True},
    {"use_scale_shift_norm": False, "resblock_updown": True},
    {"use_scale_shift_norm": False},
    {"use_new_attention_order": True},
    {"num_head_channels": 8},
    {"num_head_channels": 32, "use_new_attention_order": True, "learn_sigma": True},
    {"num_heads": 2, "num_heads_upsample": 8},
    {"channel_mult": [2, 1, 3], "num_res_blocks": 2, "attention_resolutions": [32, 8]},
    {"channel_mult": [1, 1, 2, 2], "attention_resolutions": [], "resblock_updown": True},
    {"rescale_timesteps": True, "diffusion_steps": 400},
    {"num_channels": 96, "channel_mult": [1, 2], "num_heads": 3},
]


def random_weights(flags: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict in the released format for any flags: names and shapes by the conversion, backwards."""
    probe = {"ssl_emb.weight": torch.zeros(4 * flags["num_channels"], 20)}
    shapes = {name: parameter.shape for name, parameter in convert._empty(flags, "s", probe).named_parameters()}
    stream = torch.Generator().manual_seed(seed)
    state = {}
    for old, new, kind in convert._places(flags, "s"):
        prefix = new if new.startswith("projections") else f"unet.{new}"
        parts = {"residual": convert._RESIDUAL, "attention": convert._ATTENTION, "layer": {"": ""}}[kind]
        for old_part, new_part in parts.items():
            for end in ("weight", "bias"):
                shape = shapes.get(".".join(filter(None, (prefix, "to_q" if old_part == "qkv" else new_part, end))))
                if shape is None:
                    continue
                if old_part == "qkv":
                    shape = (3 * shape[0], *shape[1:])
                if kind == "attention" and len(shape) == 2:
                    shape = (*shape, 1)
                fan = max(1, torch.Size(shape[1:]).numel())
                state[".".join(filter(None, (old, old_part, end)))] = torch.randn(shape, generator=stream) / fan**0.5
    return state


@pytest.mark.parametrize("case", CASES)
def test_the_plain_reference_is_right_about_the_recorded_cases(case):
    flags = flags_of(case)
    lists = {"channel_mult": [int(m) for m in flags["channel_mult"].split(",")]}
    lists["attention_resolutions"] = [int(size) for size in flags["attention_resolutions"].split(",")]
    io = recorded(case, "io")
    out = Reference(recorded(case, "model"), flags | lists)(io["x"], io["timesteps"], io["feat"])
    assert torch.allclose(out, io["output"], atol=2e-5)


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_every_flag_that_changes_the_network_is_converted(changes):
    flags = convert.DEFAULT_FLAGS | FLAGS | changes
    state = random_weights(flags)
    unet, stream = from_official(state, flags), torch.Generator().manual_seed(1)
    x, h = torch.randn(2, 3, 32, 32, generator=stream), torch.randn(2, 20, generator=stream)
    t = torch.tensor([3, 377])
    expected = Reference(state, flags)(x, t, h)
    scale = float(expected.abs().max())
    assert torch.allclose(unet(x, t, h).sample, expected, atol=1e-4 * scale)
    assert not torch.allclose(unet(x, t, h.flip(0)).sample, expected, atol=1e-3 * scale)


def test_a_network_without_a_representation_is_unconditional():
    flags = convert.DEFAULT_FLAGS | FLAGS
    state = {name: tensor for name, tensor in random_weights(flags).items() if not name.startswith("ssl_emb")}
    unet = from_official(state, flags)
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([5])
    assert unet.sources == () and unet.config.has_unconditional
    assert torch.allclose(unet(x, t).sample, Reference(state, flags)(x, t), atol=1e-3)


@pytest.mark.parametrize(("change", "words"), [
    (lambda state: state.pop("middle_block.1.qkv.weight"), "lacks what fills"),
    (lambda state: state.update({"extra.weight": torch.zeros(1)}), "extra.weight"),
    (lambda state: state.update({"label_emb.weight": torch.zeros(1000, 128)}), "class labels"),
    (lambda state: state.update({"out.2.weight": torch.zeros(3, 32, 3, 3)}), "Shapes differ"),
])  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_by_its_keys(change, words):
    state = recorded(CASES[0], "model")
    change(state)
    with pytest.raises(ValueError, match=words):
        from_official(state, flags_of(CASES[0]))


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("No", False), ("0", False)])
def test_a_flag_that_is_on_or_off_says_which(text, value):
    assert _flag(f"predict_xstart={text}") == ("predict_xstart", value)


@pytest.mark.parametrize("text", ["predict_xstart=on", "rescale_timesteps=T", "noise_schedule=sqrt", "nothing=1"])
def test_a_flag_that_means_nothing_is_refused(text):
    with pytest.raises(ValueError, match="--flag"):
        _flag(text)
