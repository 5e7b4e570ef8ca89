"""What a file does not say is said by whoever reads it, whatever its tensors are called; and always the same."""

import logging
from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
from test_foreign_files import backbone, moved_head, same, tiny_vit
from test_published import mlp, named
from torch import Tensor, nn

import rcdm
from rcdm import cli
from rcdm.networks import found_projector
from rcdm.networks.foreign_files import read_file
from rcdm.networks.reading import Account, Reading


def written(path, **parts: nn.Module | dict[str, Tensor]):
    """A file of a ResNet with other parts beside it, by what precedes their names."""
    network = backbone()
    state = named("backbone.", network)
    for prefix, part in parts.items():
        tensors = part if isinstance(part, dict) else part.state_dict()
        state |= {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"state_dict": state}, path)
    return network


def strictly(path) -> str:
    """What a strict reading refuses the file for, beside what the test takes for granted."""
    with pytest.raises(ValueError, match="reading is strict") as refusal:
        read_file(path, None, Reading(strict=True, activation="relu", normalisation="imagenet", image_size=32))
    return str(refusal.value)


@pytest.mark.parametrize("name", ["projector_state_dict", "projection", "online_network.projection", "my_projector"])
def test_a_projector_is_found_by_what_people_call_it(name, tmp_path):
    torch.manual_seed(0)
    projector = mlp(512, 32, 8)
    network = written(tmp_path / "file.pth", **{name: projector})
    same(tmp_path / "file.pth", network, projector)


@pytest.mark.parametrize("name", ["projector", "projection_head", "ssl_projector"])
def test_a_projector_of_one_layer_is_one(name, tmp_path):
    torch.manual_seed(0)
    projector = nn.Linear(512, 24)
    network = written(tmp_path / "file.pth", **{name: projector})
    same(tmp_path / "file.pth", network, projector)


@pytest.mark.parametrize("name", ["backbone.fc", "head", "ssl.heads"])
def test_an_mlp_that_may_be_a_classifier_is_a_guess(name, tmp_path):
    file, projector = tmp_path / "file.pth", mlp(512, 32, 10)
    written(file, **{name: projector})
    place = f"state_dict.{name}."
    assert f"assumed: the MLP at {place} is a projector" in strictly(file)
    read_file(file, None, Reading(strict=True, projector=place, activation="relu", normalisation="half", image_size=32))
    alone = read_file(file, None, Reading(projector="none"))[0]
    assert "projector" not in alone.levels()


@pytest.mark.parametrize(("name", "beside"), [("backbone.fc", {"queue": torch.rand(8, 64)}), ("neck.fc", {})])
def test_what_tells_that_it_is_no_classifier_is_believed(name, beside, tmp_path):
    network = backbone()
    state = named("backbone.", network) | named(f"{name}.", projector := mlp(512, 32, 8))
    torch.save({"state_dict": state | beside}, tmp_path / "file.pth")
    same(tmp_path / "file.pth", network, projector)
    lines = read_file(tmp_path / "file.pth")[2]["reading"]["lines"]
    assert not any("classifier" in line for line in lines)


def test_a_norm_that_has_no_place_in_the_projector_is_left_out_aloud(tmp_path):
    """`linear1`, `linear2` say their order; a `norm` beside them may stand anywhere."""
    layers = {"linear1": nn.Linear(512, 32), "linear2": nn.Linear(32, 8), "norm": nn.BatchNorm1d(32)}
    tensors = {f"{name}.{key}": t for name, layer in layers.items() for key, t in layer.state_dict().items()}
    written(tmp_path / "file.pth", projector=tensors)
    assert "projector.norm" in strictly(tmp_path / "file.pth")
    lines = read_file(tmp_path / "file.pth")[2]["reading"]["lines"]
    assert any(line.startswith("left out: ") and "projector." in line for line in lines)


@pytest.mark.parametrize("norm", [nn.GroupNorm(4, 32), nn.BatchNorm1d(32, track_running_stats=False), nn.LayerNorm(32)])
def test_a_norm_without_running_statistics_is_a_guess(norm, tmp_path):
    written(tmp_path / "file.pth", projector=nn.Sequential(nn.Linear(512, 32), norm, nn.ReLU(), nn.Linear(32, 8)))
    assert "assumed: LayerNorm" in strictly(tmp_path / "file.pth")


def test_a_norm_with_running_statistics_is_none(tmp_path):
    projector = nn.Sequential(nn.Linear(512, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
    written(tmp_path / "file.pth", projector=projector)
    assert not any("LayerNorm" in line for line in read_file(tmp_path / "file.pth")[2]["reading"]["lines"])


@pytest.mark.parametrize("widths", [(512, 32, 8), (512, 512, 8), (512, 512, 512)])
@pytest.mark.parametrize("order", [("fc", "norm"), ("norm", "fc")])
def test_where_a_numbered_norm_stands_is_told_by_its_width_or_said(order, widths, tmp_path):
    torch.manual_seed(0)
    layers = {}
    for k, (read, given) in enumerate(pairwise(widths), 1):
        norm = nn.BatchNorm1d(given if order[0] == "fc" else read)
        made = {"fc": nn.Linear(read, given), "norm": norm}
        layers |= {f"{kind}{k}": made[kind] for kind in order} | {f"act{k}": nn.ReLU()}
    projector = moved_head(nn.Sequential(OrderedDict(list(layers.items())[:-1])))
    network = written(tmp_path / "file.pth", projector=projector)
    if len(set(widths)) == 1:
        assert "assumed: in the projector a norm follows the linear layer of its number" in strictly(
            tmp_path / "file.pth"
        )
    if len(set(widths)) > 1 or order[0] == "fc":
        _, config = same(tmp_path / "file.pth", network, projector)
        assert any("of its number" in line for line in config["reading"]["lines"]) == (len(set(widths)) == 1)


def test_of_two_heads_alike_it_is_always_the_same(monkeypatch):
    heads = {f"teacher.{name}_head.mlp.": mlp(512, 32, 8).state_dict() for name in ("ibot", "dino")}
    for order in (heads, dict(reversed(heads.items()))):
        monkeypatch.setattr(found_projector, "_candidates", lambda *_, order=order: order)
        account = Account(Reading())
        assert found_projector.projector_of({}, "teacher.backbone.", 512, account)[2] == "teacher.dino_head.mlp."
        assert "not at teacher.ibot_head.mlp." in account.lines[0]


def test_the_vits_of_moco_v3_have_twelve_heads(tmp_path):
    network = tiny_vit(num_heads=12)
    torch.save({"state_dict": named("module.base_encoder.", network)}, tmp_path / "moco.pth.tar")
    config = same(tmp_path / "moco.pth.tar", network, None)[1]
    assert config["arguments"]["num_heads"] == 12
    assert any("as MoCo v3 has them" in line for line in config["reading"]["lines"])


def test_pixels_of_timms_own_weights_are_a_guess_for_others(tmp_path):
    torch.save(tiny_vit(patch_size=16, img_size=224, depth=12).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(ValueError, match=r"assumed: the pixels' mean and deviation that timm's own weights"):
        read_file(tmp_path / "mine.pth", "vit_tiny_patch16_224", Reading(strict=True))


@pytest.mark.parametrize("name", ["half", "train", "to", "forward", "keys", "mine"])
def test_a_file_may_be_called_as_it_likes(name, tmp_path):
    written(tmp_path / f"{name}.pth", projector=mlp(512, 8))
    sources = rcdm.sources_of(str(tmp_path / f"{name}.pth"), image_size=32)
    assert sources.names == (f"{name}/backbone", f"{name}/projector")
    sources.save_pretrained(tmp_path / "sources")
    again = rcdm.Sources.from_pretrained(tmp_path / "sources")
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(again[f"{name}/backbone"](images), sources[f"{name}/backbone"](images), atol=1e-5)


def test_who_draws_hears_how_the_file_was_read(tmp_path, caplog):
    written(tmp_path / "mine.pth")
    with caplog.at_level(logging.WARNING):
        rcdm.sources_of(str(tmp_path / "mine.pth"))
    assert "assumed: ImageNet's mean" in caplog.text and "tensors at backbone" not in caplog.text


@pytest.mark.parametrize("command", ["sample photo.png", "study samples", "evaluate sprites-32", "serve"])
def test_a_file_that_nothing_would_read_is_refused(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--backbone", "mine.pth"])
    assert stop.value.code == 2 and "add --prior NAME" in capsys.readouterr().err


def test_images_of_no_pixels_are_refused(tmp_path):
    written(tmp_path / "mine.pth")
    with pytest.raises(ValueError, match="at least 1 pixel"):
        rcdm.sources_of(str(tmp_path / "mine.pth"), image_size=0)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"stem": "solo"}, "--stem"),
        ({"heads": 3}, "--heads"),
        ({"pooling": "mean"}, "--pooling"),
        ({"activation": "gelu"}, "--activation"),
        ({"leave_out": ("fc.", "nothing.")}, "--leave-out nothing."),
    ],
)
def test_an_option_that_decides_nothing_is_refused(options, word, tmp_path):
    written(tmp_path / "mine.pth")  # a ResNet with a 7x7 stem, without a projector
    with pytest.raises(ValueError, match=f"depends on .*{word}.*: leave it out"):
        read_file(tmp_path / "mine.pth", None, Reading(**options))
    known = {"normalisation": "half", "image_size": 32, "projector": "none", "part": "state_dict.backbone."}
    assert read_file(tmp_path / "mine.pth", None, Reading(**known))[1].mean == (0.5, 0.5, 0.5)


def test_positions_that_are_resized_are_a_guess(tmp_path):
    torch.save(tiny_vit(patch_size=16, img_size=64, depth=12).state_dict(), tmp_path / "mine.pth")
    lines = read_file(tmp_path / "mine.pth", "vit_tiny_patch16_224")[2]["reading"]["lines"]
    assert any("positions for 197 tokens, resized from 17" in line for line in lines)
    fitting = read_file(tmp_path / "mine.pth", "vit_tiny_patch16_224", Reading(image_size=64))[2]["reading"]["lines"]
    assert not any("resized" in line for line in fitting)


def test_of_a_head_that_is_read_the_prototypes_alone_are_left_out(tmp_path):
    projector = mlp(512, 32, 32, 8, act=nn.GELU, norm=False)
    prototypes = {"last_layer.weight": torch.zeros(40, 8)}
    network = written(
        tmp_path / "file.pth", head={f"mlp.{n}": t for n, t in projector.state_dict().items()} | prototypes
    )
    config = same(tmp_path / "file.pth", network, projector)[1]
    (line,) = (line for line in config["reading"]["lines"] if line.startswith("left out:"))
    assert "head.last_layer." in line and "head. " not in line


def test_a_tensor_alone_is_no_network(tmp_path):
    torch.save(torch.zeros(3, 3), tmp_path / "file.pt")
    with pytest.raises(ValueError, match=r"file\.pt; it has a tensor without a name"):
        read_file(tmp_path / "file.pt")
