"""Checkpoints of other programs, written by (or exactly as by) those programs, are recognised and compute the same."""

import argparse
import json
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from test_published import Shell, mlp, named
from torch import nn
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer

import rcdm
from rcdm import cli
from rcdm.networks.foreign_files import read_file
from rcdm.networks.resolve import sources_of

heads = pytest.importorskip("lightly.models.modules.heads")


def moved(network: nn.Module, size: int = 32) -> nn.Module:
    """With batch statistics of its own, in eval mode."""
    network.train()
    with torch.no_grad():
        network(torch.randn(8, 3, size, size))
    return network.eval()


def backbone(stem: str = "imagenet") -> nn.Module:
    torch.manual_seed(0)
    network = resnet18()
    network.fc = nn.Identity()
    if stem == "solo":  # as solo-learn changes it for CIFAR
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=2, bias=False)
        network.maxpool = nn.Identity()
    return moved(network)


def lightning(state: dict, hyper_parameters: object) -> dict:
    """What Lightning saves around a state dict."""
    loops = {"fit_loop": {"state_dict": {}}}
    callbacks = {"ModelCheckpoint": {"best_model_score": torch.tensor(1.0), "dirpath": "x"}}
    return {
        "epoch": 399,
        "global_step": 9,
        "pytorch-lightning_version": "2.1.2",
        "state_dict": OrderedDict(state),
        "loops": loops,
        "callbacks": callbacks,
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": np.float64(0.4)}]}],
        "hparams_name": "cfg",
        "hyper_parameters": hyper_parameters,
    }


def solo_learn(network: nn.Module, projector: nn.Module, classes: int = 10, head: str = "projector.") -> dict:
    """solo-learn's BYOL: online and momentum networks, predictor, and an online classifier."""
    width = projector[0].in_features
    state = named("backbone.", network) | named("classifier.", nn.Linear(width, classes)) | named(head, projector)
    state |= {f"momentum_{name}": tensor + 1 for name, tensor in state.items() if tensor.is_floating_point()}
    return state | named("predictor.", mlp(8, 24, 8))


def same(file, network: nn.Module, projector: nn.Module | None, size: int = 32, architecture=None):
    read, preprocessing, config = read_file(file, architecture)
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        h = network(x).flatten(1)
        assert torch.allclose(read.backbone(x), h, atol=1e-4)
        if projector is None:
            assert read.projector is None
        else:
            assert torch.allclose(read(x), projector(h), atol=1e-4)
    assert config["levels"] == list(read.levels()) and len(config["file"]["sha256"]) == 64
    return preprocessing, config


def options_of(kind: str) -> object:
    if kind == "omegaconf":
        create = pytest.importorskip("omegaconf").OmegaConf.create
        return create(
            {"method": "byol", "data": {"dataset": "cifar10"}, "optimizer": {"lr": 1.0, "betas": [0.9, 0.99]}}
        )
    return {"namespace": argparse.Namespace(encoder="resnet18"), "rate": np.float64(1.0), "stats": np.arange(3.0)}


@pytest.mark.parametrize("kind", ["omegaconf", "argparse and numpy"])
def test_a_checkpoint_of_solo_learn_is_its_network(kind, tmp_path, monkeypatch):
    network, projector = backbone("solo"), mlp(512, 24, 8)
    torch.save(lightning(solo_learn(network, projector), options_of(kind)), tmp_path / "byol-ep=399.ckpt")
    monkeypatch.setitem(sys.modules, "omegaconf", None)  # it is not needed for reading
    preprocessing, config = same(tmp_path / "byol-ep=399.ckpt", network, projector)
    assert config["arguments"] == {"depth": 18, "stem": "solo"}
    assert preprocessing.size == 32 and preprocessing.std == (0.2470, 0.2435, 0.2616)
    (tmp_path / "args.json").write_text(json.dumps({"method": "byol", "data": {"dataset": "stl10"}}))
    assert read_file(tmp_path / "byol-ep=399.ckpt")[1].size == 96


def test_what_is_read_is_neither_the_momentum_copy_nor_the_predictor(tmp_path):
    network, projector = backbone(), mlp(512, 24, 512)
    state = solo_learn(network, projector) | named("predictor.", mlp(512, 16, 512))
    torch.save({"state_dict": dict(reversed(state.items()))}, tmp_path / "file.ckpt")
    preprocessing, _ = same(tmp_path / "file.ckpt", network, projector)
    assert preprocessing.size == 224 and preprocessing.mean[0] == 0.485


def in_lightly(name: str) -> tuple[dict, nn.Module, nn.Module | None]:
    torch.manual_seed(0)
    if name == "simclr":
        network = nn.Sequential(*list(backbone().children())[:-1]).eval()
        head = moved_head(heads.SimCLRProjectionHead(512, 24, 8))
        return named("backbone.", network) | named("projection_head.", head), network, head
    if name == "generator":
        from lightly.models import ResNetGenerator

        network = moved(nn.Sequential(*list(ResNetGenerator("resnet-18").children())[:-1], nn.AdaptiveAvgPool2d(1)))
        head = moved_head(heads.BarlowTwinsProjectionHead(512, 24, 8))
        return named("backbone.", network) | named("projection_head.", head), network, head
    if name == "dino":
        network, head = backbone(), moved_head(heads.DINOProjectionHead(512, 24, 8, 40, batch_norm=True))
        state = named("teacher_backbone.", network) | named("teacher_head.", head)
        state |= {key.replace("teacher", "student"): tensor + 1 for key, tensor in state.items()}
        return state, network, head.layers
    network, head = backbone(), moved_head(heads.MoCoProjectionHead(512, 24, 8))
    state = named("model.backbone.", network) | named("model.projection_head.", head)
    copies = {key.replace("model.", "model_momentum."): tensor + 1 for key, tensor in state.items()}
    return copies | state | {"queue": torch.randn(8, 16)}, network, head


def moved_head(head: nn.Module) -> nn.Module:
    for layer in head.modules():
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.running_mean)
            nn.init.uniform_(layer.weight)
    return head.eval()


@pytest.mark.parametrize("name", ["simclr", "generator", "dino", "moco"])
def test_a_checkpoint_of_lightly_is_its_network(name, tmp_path):
    state, network, head = in_lightly(name)
    torch.save(lightning(state, {}), tmp_path / "last.ckpt")
    preprocessing, _ = same(tmp_path / "last.ckpt", network, head)
    assert preprocessing.size == (32 if name == "generator" else 224)


def tiny_vit(**options) -> nn.Module:
    torch.manual_seed(0)
    options = {"patch_size": 8, "img_size": 32, "num_classes": 0, "depth": 2} | options
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


@pytest.mark.parametrize("heads", [3, 12])
def test_a_vit_is_recognised_with_its_size_and_heads(heads, tmp_path):
    network, projector = tiny_vit(num_heads=heads), mlp(192, 24, 24, 8, act=nn.GELU)
    if heads == 12:  # fixed embeddings, as in MoCo v3 and MAE
        network.pos_embed.data[:, 0] = 0
    state = solo_learn(network, projector, head="head.mlp.") | {"head.last_layer.weight_g": torch.ones(40, 1)}
    torch.save(lightning(state, {}), tmp_path / "file.ckpt")
    preprocessing, config = same(tmp_path / "file.ckpt", network, projector)
    assert preprocessing.size == 32 and config["arguments"]["num_heads"] == heads
    assert config["levels"][:3] == ["blocks.0", "blocks.1", "backbone"]


def test_the_vits_of_lightly_and_torchvision_are_recognised(tmp_path):
    from lightly.models.modules import MaskedVisionTransformerTIMM

    network = tiny_vit()
    masked = MaskedVisionTransformerTIMM(network)  # its position embeddings are fixed, its heads the usual ones
    torch.save(lightning(named("backbone.", masked) | named("decoder.", nn.Linear(4, 4)), {}), tmp_path / "mae.ckpt")
    same(tmp_path / "mae.ckpt", network, None)
    other = VisionTransformer(32, 8, 2, 3, 192, 768)
    other.heads = nn.Identity()
    torch.save({f"backbone.{name}": t for name, t in other.state_dict().items()}, tmp_path / "vit.pth")
    same(tmp_path / "vit.pth", other.eval(), None)


@pytest.mark.parametrize("prefix", ["", "model.backbone.", "module."])
def test_a_name_of_timm_with_a_state_dict_is_enough(prefix, tmp_path, caplog):
    torch.manual_seed(0)
    network = timm.create_model("test_convnext", num_classes=0).eval()
    torch.save({"epoch": 1, "state_dict": named(prefix, network)}, tmp_path / "run.pth")
    preprocessing, config = same(tmp_path / "run.pth", network, None, 64, architecture="test_convnext")
    assert config["arguments"] == {"name": "test_convnext"} and preprocessing.mean[0] == 0.485
    source = rcdm.load_source(f"test_convnext={tmp_path}/run.pth/stages.2")
    assert source.name == "run/stages.2" and source.dim == network.feature_info[2]["num_chs"]
    assert "no projector" not in caplog.text  # nobody asked for one
    assert sources_of(f"test_convnext={tmp_path}/run.pth").names == ("run/backbone",)
    assert "no projector was found" in caplog.text


def test_what_is_not_recognised_is_said_with_a_way_out(tmp_path):
    file = tmp_path / "file.pth"
    state = named("encoder.", backbone())
    fewer = {name: tensor for name, tensor in state.items() if "layer2.1.bn1" not in name}
    for content, words in [
        ({"layers.0.weight": torch.zeros(3, 3)}, "No ResNet or ViT is recognised in .* it has layers"),
        ({"epoch": 3}, "holds no state dict; there is epoch"),
        (fewer, r"layer2\.1\.bn1\.weight are missing\."),
        (state | {"encoder.layer3.5.conv1.weight": torch.zeros(1)}, "does not have"),
        (state | {"encoder.layer4.1.conv1.weight": torch.zeros(1)}, "instead of"),
    ]:
        torch.save(content, file)
        with pytest.raises(ValueError, match=words):
            read_file(file)
    with pytest.raises(ValueError, match=r"timm has no network 'vit_smal'.*vit_small"):
        read_file(file, "vit_smal")
    torch.save({"state_dict": state, "hyper_parameters": Shell(f"touch {tmp_path}/proof")}, file)
    try:
        read_file(file)
    except ValueError as error:
        assert "code to be run" in str(error)
    assert not (tmp_path / "proof").exists()


def test_names_that_do_not_tell_the_order_of_layers_are_refused():
    from rcdm.networks.projectors import in_blocks

    tensors = {"first.weight": torch.zeros(3, 3), "second.weight": torch.zeros(3, 3)}
    with pytest.raises(ValueError, match="order of the projector's layers"):
        in_blocks(tensors)


def test_the_neck_of_mmpretrain_is_a_projector_in_its_order(tmp_path):
    """Its NonLinearNeck: fc0, bn0, relu, fc1, bn1, relu, fc2; the target network has one, too."""
    network = backbone()
    neck = nn.Sequential(OrderedDict(fc0=nn.Linear(512, 24), bn0=nn.BatchNorm1d(24), relu0=nn.ReLU(),
                                     fc1=nn.Linear(24, 24), bn1=nn.BatchNorm1d(24), relu1=nn.ReLU(),
                                     fc2=nn.Linear(24, 8)))  # fmt: skip
    moved_head(neck)
    online = named("backbone.", network) | named("neck.", neck)
    target = {f"target_net.module.{int(n.startswith('neck'))}.{n.partition('.')[2]}": t + 1 for n, t in online.items()}
    torch.save({"meta": {"epoch": 1}, "message_hub": {}, "state_dict": target | online}, tmp_path / "epoch_1.pth")
    _, config = same(tmp_path / "epoch_1.pth", network, neck, 64)
    assert "activation of the projector: ReLU, as MMPretrain has it" in config["reading"]["lines"]


@pytest.mark.parametrize("order", ["LAN", "LNA", "LA", "NLA", "L"])
def test_activations_stand_where_the_numbers_leave_a_gap(order):
    from rcdm.networks.projectors import in_blocks, projector_from

    torch.manual_seed(0)
    kinds = {"L": lambda: nn.Linear(6, 6), "A": nn.ReLU, "N": lambda: nn.BatchNorm1d(6)}
    projector = moved_head(nn.Sequential(*(kinds[kind]() for kind in order * 2), nn.Linear(6, 4)))
    h = torch.randn(5, 6)
    between = "none" if order == "L" else "relu"  # matrices in a row would be one: what is between them has to be said
    read = projector_from(in_blocks(projector.state_dict()), between)
    assert torch.allclose(read.eval()(h), projector(h), atol=1e-6)


def test_a_denoiser_is_trained_on_a_file_and_needs_it_no_longer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(lightning(solo_learn(backbone("solo"), mlp(512, 24, 8)), {}), "byol-ep=3.ckpt")
    cli.main(["networks", "byol-ep=3.ckpt"])
    printed = capsys.readouterr().out
    assert printed.startswith("source: byol-ep-3/backbone, byol-ep-3/projector; resnet depth 18 stem solo\n")
    assert "left out: copies: state_dict.momentum_backbone." in printed
    assert "assumed: images of 32 px (--image-size N changes it)" in printed
    assert "layer3          256\n" in printed and "projector         8\n" in printed and "32 px" in printed
    options = ["--resolution", "16", "--channels", "8", "16", "--attention_resolutions", "4", "--max_train_steps", "1"]
    options += ["--train_batch_size", "4", "--num_statistics_images", "8", "--num_inference_steps", "2"]
    options += ["--regressor_images", "12"]
    cli.main(
        [
            "train",
            "--backbone",
            "byol-ep=3.ckpt",
            "--image_size",
            "32",
            "--sources",
            "layer2@mean",
            "projector",
            "--output_dir",
            "run",
            *options,
        ]
    )
    expected = rcdm.load_source("byol-ep=3.ckpt/projector")
    (tmp_path / "byol-ep=3.ckpt").unlink()
    pipe = rcdm.load("run", device="cpu")
    lines = pipe.sources.config_of("byol-ep-3")["reading"]["lines"]
    card = Path("run", "README.md").read_text()
    assert "How `byol-ep=3.ckpt` was read as `byol-ep-3`, with `--image-size 32`:" in card
    assert lines and all(f"- {line}\n" in card for line in lines) and not any("images of" in line for line in lines)
    assert pipe.sources == ("byol-ep-3/layer2@mean", "byol-ep-3/projector")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.allclose(pipe.encode(images, "byol-ep-3/projector"), expected(images), atol=1e-3)
    with pytest.raises(SystemExit):
        cli.main(["train", "--backbone", "byol-ep=3.ckpt", "--output_dir", "run", *options])
    assert "no file and no published network" in capsys.readouterr().err
