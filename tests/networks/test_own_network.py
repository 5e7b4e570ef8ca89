"""A network of one's own as a source."""

import pytest
import torch
from torch import nn

import rcdm
from rcdm import cli
from rcdm.networks import backbones
from rcdm.networks.backbones import build_backbone
from rcdm.networks.representation import OpenNetwork, Preprocessing, SSLNetwork, level_widths
from rcdm.networks.sources import Sources


class TinyViT(nn.Module):
    """Patches of 4 px, a class token in front, two blocks and a head, as timm builds them."""

    num_prefix_tokens = 1

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(12, 2, 24, batch_first=True) for _ in range(2)))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        return self.head(x[:, 0])


@pytest.fixture
def vit() -> TinyViT:
    torch.manual_seed(0)
    return TinyViT().eval()


def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_levels_are_read_where_their_paths_say(vit):
    preprocessing = Preprocessing(16, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    sources = rcdm.RepresentationSource.from_module(
        vit, levels=["embed", "blocks.0", "blocks.1", "output"], preprocessing=preprocessing
    )
    x = preprocessing(images())
    tokens = vit.embed(x).flatten(2).transpose(1, 2)
    assert torch.allclose(sources["embed"](images()), tokens.mean(1), atol=1e-5)
    assert torch.allclose(sources["output"](images()), vit(x), atol=1e-6)
    whole = vit.blocks[0](torch.cat([vit.token.expand(3, -1, -1), tokens], 1))
    assert torch.allclose(sources["blocks.0"](images()), whole[:, 1:].mean(1), atol=1e-5)  # without the class token
    assert sources["blocks.1"].name == "mine/blocks.1" and sources["blocks.1"].dim == 12


def test_the_first_token_can_be_the_representation(vit):
    options = {"levels": ["blocks.1"], "preprocessing": Preprocessing(16), "name": "dino"}
    source = rcdm.RepresentationSource.from_module(vit, pooling="first", **options)["blocks.1"]
    assert torch.allclose(vit.head(source(images())), vit(images()), atol=1e-5)
    x = images().requires_grad_()
    source(x).sum().backward()
    assert x.grad.abs().sum() > 0 and not any(parameter.requires_grad for parameter in source.parameters())


def test_a_level_says_how_its_tokens_become_a_vector(vit):
    levels = ["blocks.1@first", "blocks.1@mean", "blocks.1"]
    sources = rcdm.RepresentationSource.from_module(vit, levels=levels, preprocessing=Preprocessing(16), name="own")
    first, mean, bare = (sources[level](images()) for level in levels)
    assert torch.allclose(vit.head(first), vit(images()), atol=1e-5)
    assert torch.equal(bare, mean) and not torch.allclose(first, mean)
    assert sources["blocks.1@first"].name == "own/blocks.1@first"


class Channels(nn.Module):
    """Puts out maps [B,H,W,C], as timm's Swin does."""

    output_fmt = "NHWC"

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Unflatten(3, (4, 4)), nn.Flatten(3))  # [B,H,W,16]
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.maps(x.mean(1, keepdim=True).permute(0, 2, 1, 3) * self.weight)


def test_maps_are_averaged_over_positions_wherever_channels_lie():
    module, x = Channels(), images()
    source = rcdm.RepresentationSource.from_module(module, levels=["maps"], preprocessing=Preprocessing(16))["maps"]
    assert torch.allclose(source(x), module(Preprocessing(16)(x)).mean((1, 2)))


def test_a_backbone_of_timm_is_read_at_any_path_and_pooled_as_it_pools_itself():
    torch.manual_seed(0)
    network = SSLNetwork(build_backbone("timm", name="test_vit", img_size=32)).eval()  # a class token
    levels = ("blocks.1", "blocks.1@first", "blocks.1@mean", "blocks.1.mlp", "patch_embed", "backbone")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        h = network.all_levels(x, levels)
        tokens = network.backbone.blocks[:2](network.backbone._pos_embed(network.backbone.patch_embed(x)))
        patches = network.backbone.patch_embed(x)
    assert torch.allclose(h["blocks.1"], tokens[:, 0], atol=1e-5) and torch.equal(h["blocks.1"], h["blocks.1@first"])
    assert torch.allclose(h["blocks.1@mean"], tokens[:, 1:].mean(1), atol=1e-5)
    assert torch.allclose(h["patch_embed"], patches.mean((1, 2)), atol=1e-5)  # a map: tokens come later
    assert (
        level_widths(network, Preprocessing(32)).items() >= {"blocks.1.mlp": 64, "blocks.0": 64, "backbone": 64}.items()
    )
    for level, words in (("blocks.1@max", "after the @ stands 'mean' or 'first'"), ("blocks.77", "has no level")):
        with pytest.raises(ValueError, match=words):
            rcdm.RepresentationSource("vit/x", network, level, Preprocessing(32))


def test_a_level_is_one_thing_however_it_is_read():
    """Also where a layer is called twice, or a later one writes into what it put out."""
    torch.manual_seed(0)
    resnet = build_backbone("timm", name="resnet10t").train()
    resnet(torch.randn(8, 3, 32, 32))
    own = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 16, 3), nn.ReLU(inplace=True))
    small = backbones.SmallResNet(width=4)
    for network, levels in (
        (SSLNetwork(resnet), ["bn1", "layer2.0.bn1", "layer2.0.bn2", "layer2.0.act2", "layer2.0", "backbone"]),
        (SSLNetwork(small), [f"layer2.0.{name}" for name, _ in small.layer2[0].named_children()]),
        (OpenNetwork(own, ["0", "2", "output"]), ["0", "2", "output"]),
    ):
        sources = Sources({"mine": (network.eval(), Preprocessing(32))}, [f"mine/{level}" for level in levels], {})
        x = torch.rand(4, 3, 32, 32) * 2 - 1
        at_once = sources.encode_all(x)
        for name in sources.names:
            assert torch.allclose(sources.encode(x, name), at_once[name], atol=1e-6), name
    first = own[0](Preprocessing(32)(x)).mean((2, 3))
    assert torch.allclose(at_once["mine/0"], first, atol=1e-6) and (first < 0).any()


def test_channels_are_found_inside_a_block_that_puts_them_last():
    torch.manual_seed(0)
    network = SSLNetwork(build_backbone("timm", name="test_convnext")).eval()
    block, seen = network.backbone.stages[2].blocks[0], {}
    inside = {"norm": block.norm, "mlp": block.mlp, "mlp.act": block.mlp.act, "conv_dw": block.conv_dw}
    for name, part in inside.items():
        part.register_forward_hook(lambda _, __, output, name=name: seen.setdefault(name, output.clone()))
    with torch.no_grad():
        h = network.all_levels(torch.randn(2, 3, 64, 64), [f"stages.2.blocks.0.{name}" for name in inside])
    for name, maps in seen.items():
        positions = (2, 3) if name == "conv_dw" else (1, 2)
        assert torch.allclose(h[f"stages.2.blocks.0.{name}"], maps.mean(positions), atol=1e-5), name


def test_a_dry_run_lists_levels_with_their_widths(vit):
    widths = level_widths(vit, Preprocessing(16))
    assert widths["embed"] == widths["blocks.0"] == 12 and widths["head"] == widths["output"] == 5
    assert widths["blocks.1.linear1"] == 24


@pytest.mark.parametrize(
    ("changes", "words"), [({"levels": ["layer9"]}, "it has embed, blocks"), ({"pooling": "max"}, "'mean' or 'first'")]
)
def test_what_is_not_there_is_refused(vit, changes, words):
    options = {"levels": ["head"], "preprocessing": Preprocessing(16)}
    with pytest.raises(ValueError, match=words):
        rcdm.RepresentationSource.from_module(vit, **(options | changes))


def test_a_level_that_is_no_vector_is_refused():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(48, 4, batch_first=True)

        def forward(self, x):
            return self.layer(x.flatten(2).transpose(1, 2)[:, :, :1].expand(-1, -1, 48))[0].mean(1)

    source = rcdm.RepresentationSource.from_module(Pair(), levels=["layer"], preprocessing=Preprocessing(16))["layer"]
    with pytest.raises(ValueError, match="choose another"):
        source(images())


MINE = """
import torch
from torch import nn
from rcdm.networks.representation import Preprocessing

def brightness():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return network, Preprocessing(16), ["1", "output"]

def nothing():
    return 3
"""


def test_a_denoiser_is_trained_on_a_function_and_loaded_with_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_networks.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("rcdm.networks.backbones.BACKBONES", dict(backbones.BACKBONES))
    monkeypatch.setattr("rcdm.networks.own_backbone.BACKBONES", backbones.BACKBONES)
    options = ["--resolution", "16", "--channels", "8", "16", "--attention_resolutions", "4", "--max_train_steps", "2"]
    options += ["--train_batch_size", "4", "--num_statistics_images", "16", "--num_inference_steps", "2"]
    options += ["--regressor_images", "12"]
    cli.main(["train", "--backbone", "my_networks:brightness", "--output_dir", "run", *options])
    pipe = rcdm.load("run", device="cpu")
    assert pipe.sources == ("brightness/1", "brightness/output")
    assert pipe(images(), source="brightness/output", seeds=[0], output_type="pt").images.shape == (3, 3, 16, 16)
    del backbones.BACKBONES["my_networks:brightness"]  # a new process
    with pytest.raises(ValueError, match="--backbone my_networks:brightness"):
        rcdm.load("run", device="cpu")
    cli.main(["study", "samples", "--checkpoint", "run", "--backbone", "my_networks:brightness", "--samples", "2"]
             + ["--images", "1", "--device", "cpu"])  # fmt: skip
    assert "brightness/output" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("my_networks", "package.module:function"),
        ("no_such:thing", "cannot be imported"),
        ("my_networks:nothing", "must return"),
    ],
)
def test_what_is_no_backbone_is_refused(path, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_networks.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SystemExit):
        cli.main(["train", "--backbone", path, "--output_dir", str(tmp_path / "run"), "--max_train_steps", "1"])
    assert words in capsys.readouterr().err
