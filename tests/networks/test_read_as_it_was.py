"""What is easily read as something else: networks with options, names that several things have, and broken files."""

import json
import zipfile

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from test_foreign_files import backbone, moved
from test_published import mlp, named
from torch import nn
from torchvision.models import resnet18

from rcdm.networks.architectures import _heads, _kind_of_vit
from rcdm.networks.containers import read_weights
from rcdm.networks.foreign_files import read_file
from rcdm.networks.images_fed import notes_beside
from rcdm.networks.reading import Account, Reading


def said(config: dict) -> str:
    return "\n".join(config["reading"]["lines"])


def test_a_folder_of_timm_is_built_with_the_arguments_that_it_names(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0, num_heads=8, act_layer="silu", img_size=32).eval()
    timm.models.save_for_hf(model, tmp_path / "vit", safe_serialization=True)
    network, preprocessing, config = read_file(tmp_path / "vit")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(network(x), model(x), atol=1e-6) and preprocessing.size == 32
    assert "num_heads" in said(config) and "from config.json beside the file" in said(config)


def test_a_name_does_not_take_from_a_file_what_is_known_of_it(tmp_path):
    torch.manual_seed(0)
    moco = timm.create_model("vit_tiny_patch16_224", num_classes=0, num_heads=12).eval()
    torch.save({"state_dict": named("module.base_encoder.", moco)}, tmp_path / "moco.pth")
    for name in (None, "vit_tiny_patch16_224"):
        network, _, config = read_file(tmp_path / "moco.pth", name)
        assert "assumed: 12 attention heads, as MoCo v3 has them (--heads N changes it)" in said(config)
        x = torch.randn(1, 3, 224, 224)
        with torch.no_grad():
            assert torch.allclose(network.backbone(x), moco(x), atol=1e-5)
    three, _, _ = read_file(tmp_path / "moco.pth", "vit_tiny_patch16_224", Reading(heads=3))
    assert three.backbone.blocks[0].attn.num_heads == 3


def test_patches_of_another_size_are_no_network_of_that_name(tmp_path):
    other = timm.create_model("vit_tiny_patch16_224", num_classes=0, patch_size=32, img_size=448)
    torch.save(other.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(ValueError, match="patches of 32 px, and that network of timm 16"):
        read_file(tmp_path / "vit.pth", "vit_tiny_patch16_224")


def test_windows_of_another_size_are_said(tmp_path):
    other = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, window_size=6, img_size=192)
    torch.save(other.state_dict(), tmp_path / "swin.pth")
    _, _, config = read_file(tmp_path / "swin.pth", "swin_tiny_patch4_window7_224")
    assert "relative_position_bias_table" in said(config) and "as timm's network has other windows" in said(config)


def test_a_classifier_beside_a_backbone_does_not_make_it_solo_learns(tmp_path):
    torch.manual_seed(0)
    network = resnet18()
    network.conv1, network.maxpool, network.fc = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity(), nn.Identity()
    moved(network)
    state = named("backbone.", network) | {"online_classifier.weight": torch.zeros(10, 512)}
    torch.save({"state_dict": state}, tmp_path / "mine.ckpt")
    (tmp_path / "args.json").write_text(json.dumps({"dataset": "cifar10", "lr": 0.1}))
    read, _, config = read_file(tmp_path / "mine.ckpt")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(read.backbone(x), network(x), atol=1e-4)
    assert "assumed: a padding of 1" in said(config)
    torch.save({"state_dict": state | {"classifier.weight": torch.zeros(10, 512)}}, tmp_path / "mine.ckpt")
    assert "assumed: a padding of 2 and no max-pool at the 3x3 stem, as solo-learn" in said(
        read_file(tmp_path / "mine.ckpt")[2]
    )


class Functional(nn.Module):
    """An MLP whose activations are in its forward, as those of DETR and SAM are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(512, 32), nn.Linear(32, 32), nn.Linear(32, 8)])

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def test_activations_that_are_in_no_list_stand_between_matrices(tmp_path):
    torch.manual_seed(0)
    projector = Functional()
    torch.save(named("backbone.", backbone()) | named("projector.", projector), tmp_path / "file.pth")
    network, _, config = read_file(tmp_path / "file.pth")
    h = torch.randn(3, 512)
    with torch.no_grad():
        assert torch.allclose(network.projector(h), projector(h), atol=1e-5)
    assert "assumed: ReLU between the projector's layers" in said(config)


@pytest.mark.parametrize(
    ("projector", "words"),
    [
        (nn.Sequential(nn.Linear(512, 64), nn.GELU(), nn.utils.weight_norm(nn.Linear(64, 32))), "weight_norm: remove"),
        (nn.Sequential(nn.Linear(512, 64), nn.PReLU(), nn.Linear(64, 32)), "no projector that can be rebuilt"),
        (nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(48, 32)), "no projector that can be rebuilt"),
    ],
)
def test_a_projector_that_cannot_be_rebuilt_is_none_and_said_or_refused_where_it_is_asked_for(
    projector, words, tmp_path
):
    torch.save(named("backbone.", backbone()) | named("projector.", projector), tmp_path / "file.pth")
    network, _, config = read_file(tmp_path / "file.pth")
    assert network.projector is None and "assumed: no projector, as what lies at projector." in said(config)
    assert words in said(config) and "left out: projector." in said(config)
    with pytest.raises(ValueError, match=words):
        read_file(tmp_path / "file.pth", None, Reading(projector="projector."))


def test_arguments_of_timm_that_change_nothing_do_not_refuse_a_folder(tmp_path):
    model = timm.create_model("test_vit", num_classes=0, weight_init="skip", drop_path_rate=0.1, img_size=32).eval()
    timm.models.save_for_hf(model, tmp_path / "vit", safe_serialization=True)
    file = tmp_path / "vit" / "config.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"model_args": about["model_args"] | {"magic": 3}}))
    assert "assumed: magic of config.json change nothing" in said(read_file(tmp_path / "vit")[2])


def test_what_is_called_a_projector_goes_before_other_heads(tmp_path):
    torch.manual_seed(0)
    other, projector = mlp(512, 16, 10), mlp(512, 24, 8)
    torch.save(
        named("backbone.", backbone()) | named("cls_head.", other) | named("projector.", projector), tmp_path / "a.pth"
    )
    network, _, config = read_file(tmp_path / "a.pth")
    assert network.projector(torch.zeros(1, 512)).shape == (1, 8)
    assert "chosen: the projector at projector., not at cls_head." in said(config)
    torch.save(named("backbone.", backbone()) | named("cls_head.", other), tmp_path / "b.pth")
    assert "the MLP at cls_head. is a projector, and no classifier" in said(read_file(tmp_path / "b.pth")[2])


@pytest.mark.parametrize("name", ["vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_clip_224"])
def test_a_tower_of_clip_under_timms_names_is_one(name, tmp_path):
    torch.manual_seed(0)
    small = {"embed_dim": 128, "depth": 2, "num_heads": 2, "img_size": 32}
    model = timm.create_model(name, num_classes=0, **small).eval()
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    activation = "quick_gelu" if "quick" in name else "gelu"
    network, preprocessing, _ = read_file(tmp_path / "vit.pth", None, Reading(activation=activation, heads=2))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(network.backbone(x), model(x), atol=1e-6)
    assert preprocessing.mean[0] == pytest.approx(0.48145466)
    assert "assumed: a CLIP, as a norm comes before" in said(read_file(tmp_path / "vit.pth", None, Reading(heads=2))[2])


def test_what_open_clip_notes_beside_its_weights_is_followed(tmp_path):
    pixels = {"mean": [0.5] * 3, "std": [0.5] * 3}
    vision = {"width": 1280, "head_width": 80}
    notes = {"model_cfg": {"quick_gelu": True, "vision_cfg": vision}, "preprocess_cfg": pixels}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(notes))
    noted, account = notes_beside(tmp_path), Account(Reading())
    assert _heads({}, "CLIP's vit", "", 1280, noted, account, tmp_path) == 16
    assert "quickgelu" in _kind_of_vit({}, "CLIP's vit", noted, account) and account.open == []
    (tmp_path / "open_clip_config.json").unlink()
    nothing = notes_beside(tmp_path)
    assert [_heads({}, "CLIP's vit", "", width, nothing, account, tmp_path) for width in (768, 1280, 1664)] == [
        12,
        16,
        16,
    ]
    assert len(account.open) == 3


def test_files_that_would_fill_the_memory_or_never_end_are_refused(tmp_path):
    nested: object = [torch.zeros(1)]
    for _ in range(40):
        nested = [nested, nested]
    torch.save({"state_dict": nested}, tmp_path / "laughs.pth")
    with pytest.raises(ValueError, match="more objects in each other"):
        read_weights(tmp_path / "laughs.pth")
    itself: list = [torch.zeros(1)]
    itself += [itself, itself]
    torch.save({"state_dict": itself}, tmp_path / "itself.pth")
    assert len(read_weights(tmp_path / "itself.pth").state) == 1
    torch.save({"conv1.weight": torch.zeros(1).expand(2**17, 2**17)}, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match="larger than what is stored"):
        read_weights(tmp_path / "wide.pth")


def test_an_archive_that_was_packed_again_is_read(tmp_path):
    torch.save({"a": torch.arange(50_000)}, tmp_path / "file.pth")
    with zipfile.ZipFile(tmp_path / "file.pth") as old, zipfile.ZipFile(tmp_path / "packed.pth", "w") as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry), zipfile.ZIP_DEFLATED)
    assert torch.equal(read_weights(tmp_path / "packed.pth").state["a"], torch.arange(50_000))


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_numbers_of_eight_bits_are_numbers(save, tmp_path):
    state = {name: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for name, t in mlp(512, 16, 8).state_dict().items()}
    save(named("backbone.", backbone()) | {f"projector.{name}": t for name, t in state.items()}, tmp_path / "file.pth")
    network, _, _ = read_file(tmp_path / "file.pth")
    assert network.projector is not None and torch.isfinite(network.projector(torch.ones(1, 512))).all()


@pytest.mark.parametrize("content", ["{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 3}}', '{"weight_map": {'])
def test_a_broken_index_of_shards_is_named(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json"):
        read_weights(tmp_path)
