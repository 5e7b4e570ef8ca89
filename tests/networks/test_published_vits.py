"""Published ViTs: each format at its full size by names and shapes, and one of each kind in numbers."""

import argparse
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from test_published import mlp, named
from timm.models import get_pretrained_cfg
from torch import nn
from torchvision.models import ResNet50_Weights, VisionTransformer, ViT_B_16_Weights, vit_b_16

import rcdm
from rcdm.networks import published
from rcdm.networks.backbones import build_backbone
from rcdm.networks.catalogue import PUBLISHED, entry_of
from rcdm.networks.published import load_published, network_from, read_published
from rcdm.networks.representation import RepresentationSource
from rcdm.networks.safe_load import read_checkpoint

VITS = [name for name in PUBLISHED if "-vit" in name]
WIDTHS = {"s": (384, 12), "b": (768, 12), "l": (1024, 24), "h": (1280, 32)}
CLIP_WIDTHS = {"clip-vitb32": 512, "clip-vitb16": 512, "clip-vitl14": 768}


TAGS = {
    "dino": "dino", "dinov2": "lvd142m", "dinov3": "lvd1689m", "mae": "mae", "ijepa": "in1k_ijepa", "clip": "openai",
    "siglip": "webli", "efficientnet": "in1k",
}  # fmt: skip
"""Family -> what timm calls its weights."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_pixels_are_normalised_as_timm_and_torchvision_do_for_these_weights(name):
    entry, family = PUBLISHED[name], name.partition("-")[0]
    if family in TAGS and entry.architecture == "timm":
        known = get_pretrained_cfg(f"{entry.arguments['name']}.{TAGS[family]}")
    else:  # the supervised ones are torchvision's; the others were trained with its example's constants
        weights = ViT_B_16_Weights if name == "supervised-vitb16" else ResNet50_Weights
        known = weights.IMAGENET1K_V1.transforms()
    assert (*entry.preprocessing.mean, *entry.preprocessing.std) == (*known.mean, *known.std)
    assert entry.preprocessing.size == (96 if family == "efficientnet" else 224)


def blank(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def vit(width: int, depth: int, patch: int, tokens: int, *, scale=False, class_token=True) -> dict[str, torch.Tensor]:
    """Names and shapes of a ViT as DINO, MoCo v3, DINOv2, MAE and I-JEPA publish it."""
    state = {"cls_token": blank(1, 1, width)} if class_token else {}
    state |= {"pos_embed": blank(1, tokens, width), "norm.weight": blank(width), "norm.bias": blank(width)}
    state |= {"patch_embed.proj.weight": blank(width, 3, patch, patch), "patch_embed.proj.bias": blank(width)}
    for k in range(depth):
        layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        layers |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        state |= {f"blocks.{k}.{name}.weight": blank(*shape) for name, shape in layers.items()}
        state |= {f"blocks.{k}.{name}.bias": blank(shape[0]) for name, shape in layers.items()}
        norms = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")
        state |= {f"blocks.{k}.{end}": blank(width) for end in (*norms, *(["ls1.gamma", "ls2.gamma"] * scale))}
    return state


def linears(prefix: str, *widths: int, numbers: tuple[int, ...], bias: bool) -> dict[str, torch.Tensor]:
    state = {f"{prefix}.{n}.weight": blank(b, a) for n, a, b in zip(numbers, widths, widths[1:], strict=False)}
    return state | ({f"{prefix}.{n}.bias": blank(b) for n, b in zip(numbers, widths[1:], strict=True)} if bias else {})


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def dino(width, depth, patch, name):
    head = linears("head.mlp", width, 2048, 2048, 256, numbers=(0, 2, 4), bias=True)
    last = {"head.last_layer.weight_g": blank(65536, 1), "head.last_layer.weight_v": blank(65536, 256)}
    teacher = prefixed("backbone.", vit(width, depth, patch, (224 // patch) ** 2 + 1)) | head | last
    args = argparse.Namespace(arch="vit_small", lr=0.0005)
    return {"student": prefixed("module.", teacher), "teacher": teacher, "optimizer": {}, "epoch": 800, "args": args}


def mocov3(width, depth, patch, name):
    head = linears("head", width, 4096, 4096, 256, numbers=(0, 3, 6), bias=False)
    for number, size in ((1, 4096), (4, 4096), (7, 256)):
        ends = ["weight", "bias"] * (size == 4096) + ["running_mean", "running_var"]
        head |= {f"head.{number}.{end}": blank(size) for end in ends}
        head[f"head.{number}.num_batches_tracked"] = blank()
    encoder = vit(width, depth, patch, 197) | head
    state = prefixed("module.base_encoder.", encoder) | prefixed("module.momentum_encoder.", encoder)
    state |= linears("module.predictor", 256, 4096, 256, numbers=(0, 3), bias=False)
    return {"epoch": 300, "arch": "vit_small", "state_dict": state, "optimizer": {}, "scaler": {}}


def dinov2(width, depth, patch, name):
    return vit(width, depth, patch, 37 * 37 + 1, scale=True) | {"mask_token": blank(1, width)}


def dinov3(width, depth, patch, name):
    """As timm keeps it on the hub."""
    state = vit(width, depth, patch, 1)
    del state["pos_embed"]  # rotary instead
    state = {key: t for key, t in state.items() if not key.endswith("attn.qkv.bias")}
    state |= {f"blocks.{k}.gamma_{i}": blank(width) for k in range(depth) for i in (1, 2)}
    return state | {"reg_token": blank(1, 4, width)}


def mae(width, depth, patch, name):
    return {"model": vit(width, depth, patch, (224 // patch) ** 2 + 1)}


def ijepa(width, depth, patch, name):
    encoder = prefixed("module.", vit(width, depth, patch, 256, class_token=False))
    return {"encoder": encoder, "predictor": {}, "target_encoder": dict(encoder), "opt": {}, "scaler": None, "epoch": 1}


def clip(width, depth, patch, name):
    """OpenAI's names, of both towers."""
    state = {"positional_embedding": blank(77, 512), "text_projection": blank(512, 512), "logit_scale": blank()}
    state |= {"token_embedding.weight": blank(49408, 512), "ln_final.weight": blank(512), "ln_final.bias": blank(512)}
    for tower, size, layers in (("", 512, 12), ("visual.", width, depth)):
        for k in range(layers):
            block = f"{tower}transformer.resblocks.{k}"
            state |= {f"{block}.attn.in_proj_weight": blank(3 * size, size)}
            state |= {f"{block}.attn.in_proj_bias": blank(3 * size), f"{block}.attn.out_proj.bias": blank(size)}
            state |= {f"{block}.attn.out_proj.weight": blank(size, size), f"{block}.mlp.c_fc.bias": blank(4 * size)}
            state |= {f"{block}.mlp.c_fc.weight": blank(4 * size, size), f"{block}.mlp.c_proj.bias": blank(size)}
            state |= {f"{block}.mlp.c_proj.weight": blank(size, 4 * size)}
            state |= {f"{block}.{ln}.{end}": blank(size) for ln in ("ln_1", "ln_2") for end in ("weight", "bias")}
    visual = {"class_embedding": blank(width), "positional_embedding": blank((224 // patch) ** 2 + 1, width)}
    visual |= {"conv1.weight": blank(width, 3, patch, patch), "proj": blank(width, CLIP_WIDTHS[name])}
    visual |= {f"{ln}.{end}": blank(width) for ln in ("ln_pre", "ln_post") for end in ("weight", "bias")}
    return state | prefixed("visual.", visual)


def siglip(width, depth, patch, name):
    """As timm keeps it on the hub: an attention pool instead of a class token."""
    state = vit(width, depth, patch, 196, class_token=False) | {"attn_pool.latent": blank(1, 1, width)}
    layers = {"q": (width, width), "kv": (2 * width, width), "proj": (width, width)}
    layers |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    state |= {f"attn_pool.{layer}.weight": blank(*shape) for layer, shape in layers.items()}
    state |= {f"attn_pool.{layer}.bias": blank(shape[0]) for layer, shape in layers.items()}
    return state | {"attn_pool.norm.weight": blank(width), "attn_pool.norm.bias": blank(width)}


def supervised(width, depth, patch, name):
    """torchvision's, with the names of the time when it was published."""
    with torch.device("meta"):
        state = vit_b_16().state_dict()
    return {
        re.sub(r"mlp\.(0|3)\.", lambda m: f"mlp.linear_{'12'['03'.index(m[1])]}.", key): t for key, t in state.items()
    }


FORMATS = {"dino": dino, "mocov3": mocov3, "dinov2": dinov2, "dinov3": dinov3, "mae": mae, "ijepa": ijepa}
FORMATS |= {"clip": clip, "siglip": siglip, "supervised": supervised}
PROJECTED = {"dino": 256, "mocov3": 256}


@pytest.mark.parametrize("name", VITS)
def test_the_published_names_and_shapes_are_loaded_strictly(name):
    family, size, patch = re.fullmatch(r"(\w+)-vit(.)(\d+)", name).groups()
    width, depth = WIDTHS[size]
    content = FORMATS[family](width, depth, int(patch), name)
    with torch.device("meta"):
        network = network_from(content, PUBLISHED[name], "file.pth")
        levels = network.all_levels(torch.empty(1, 3, 224, 224))
    projected = CLIP_WIDTHS.get(name) or PROJECTED.get(family)
    assert levels["backbone"].shape == levels["blocks.3"].shape == (1, width)
    assert [n for n in levels if not n.startswith("projector")] == list(entry_of(name).levels)
    assert (levels["projector"].shape if projected else levels.get("projector")) == (
        (1, projected) if projected else None
    )
    assert (entry_of(name).projector is not None) == bool(projected)


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2}
HEADS = {"dino": 6, "mocov3": 12, "dinov2": 6, "mae": 12, "ijepa": 16, "clip": 12, "supervised": 12}
NAMES = {"dino": "dino-vits16", "mocov3": "mocov3-vits16", "dinov2": "dinov2-vits14", "mae": "mae-vitb16"}
NAMES |= {"ijepa": "ijepa-vith14", "clip": "clip-vitb32", "supervised": "supervised-vitb16"}


def small(family: str):
    """The entry of a family, with its own number of heads where the width allows."""
    entry = PUBLISHED[NAMES[family]]
    heads = {"ijepa": 8}.get(family)
    return replace(entry, arguments=entry.arguments | SMALL | ({"num_heads": heads} if heads else {}))


def plain(state, x, heads, *, eps=1e-6, quick=False) -> list[torch.Tensor]:
    """A ViT written out: tokens after each block, and after the last norm."""
    x = nn.functional.conv2d(x, state["patch_embed.proj.weight"], state.get("patch_embed.proj.bias"), stride=8)
    x = x.flatten(2).transpose(1, 2)
    if "cls_token" in state:
        x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + state["pos_embed"]

    def norm(x, name):
        return nn.functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = norm(x, "norm_pre") if "norm_pre.weight" in state else x
    outputs = []
    for k in range(2):
        q, key, v = linear(norm(x, f"blocks.{k}.norm1"), f"blocks.{k}.attn.qkv").unflatten(2, (3, heads, -1)).unbind(2)
        weights = torch.einsum("bqhd,bkhd->bhqk", q, key).div(q.shape[-1] ** 0.5).softmax(-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)
        x = x + linear(mixed, f"blocks.{k}.attn.proj") * state.get(f"blocks.{k}.ls1.gamma", 1)
        hidden = linear(norm(x, f"blocks.{k}.norm2"), f"blocks.{k}.mlp.fc1")
        hidden = hidden * torch.sigmoid(1.702 * hidden) if quick else nn.functional.gelu(hidden)
        x = x + linear(hidden, f"blocks.{k}.mlp.fc2") * state.get(f"blocks.{k}.ls2.gamma", 1)
        outputs.append(x)
    return [*outputs, norm(x, "norm")]


def random_vit(tokens: int, **options) -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    return {n: torch.randn(t.shape, generator=stream) * 0.3 for n, t in vit(24, 2, 8, tokens, **options).items()}


def openai_names(state: dict, projection: torch.Tensor) -> dict[str, torch.Tensor]:
    pairs = [("patch_embed.proj.weight", "conv1.weight"), ("cls_token", "class_embedding"), ("norm_pre", "ln_pre")]
    pairs += [
        ("pos_embed", "positional_embedding"),
        ("blocks.", "transformer.resblocks."),
        ("attn.qkv.", "attn.in_proj_"),
    ]
    pairs += [("attn.proj.", "attn.out_proj."), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("norm1", "ln_1")]
    pairs += [("norm2", "ln_2"), ("norm.", "ln_post.")]
    result = {"visual.proj": projection, "logit_scale": torch.zeros(()), "ln_final.weight": torch.ones(4)}
    for name, tensor in state.items():
        for ours, theirs in pairs:
            name = name.replace(ours, theirs)
        shape = {"class_embedding": (24,), "positional_embedding": (-1, 24)}.get(name)
        result[f"visual.{name}"] = tensor.reshape(shape) if shape else tensor
    return result


def written(family: str, folder):
    """A random small file of a family, and what its network must put out: levels as functions of the images."""
    options: dict = {"quick": True, "eps": 1e-5} if family == "clip" else {}
    state = random_vit(16 if family == "ijepa" else 17, scale=family == "dinov2", class_token=family != "ijepa")
    projector = None
    if family == "dino":
        projector = mlp(24, 32, 32, 8, norm=False, act=nn.GELU)
        content = {"teacher": prefixed("backbone.", state) | named("head.mlp.", projector), "student": {}}
        content["teacher"]["head.last_layer.weight_v"] = torch.randn(50, 8)
    elif family == "mocov3":
        projector = mlp(24, 32, 32, 8, bias=False, last_bias=False, last_norm=True)
        base = prefixed("module.base_encoder.", state) | named("module.base_encoder.head.", projector)
        content = {"state_dict": base | {n.replace("base_", "momentum_"): t + 1 for n, t in base.items()}}
    elif family == "dinov2":
        content = state | {"mask_token": torch.zeros(1, 24)}
    elif family == "mae":
        content = {"model": state}
    elif family == "ijepa":
        online = {f"module.{name}": tensor + 1 for name, tensor in state.items()}
        content = {"encoder": online, "target_encoder": prefixed("module.", state), "opt": {}, "epoch": 300}
    elif family == "clip":
        del state["patch_embed.proj.bias"]
        state |= {"norm_pre.weight": torch.rand(24), "norm_pre.bias": torch.randn(24)}
        projector = nn.Linear(24, 8, bias=False)
        content = openai_names(state, projector.weight.detach().T)
    torch.save(content, folder / "file.pth")
    heads = {"ijepa": 8}.get(family, HEADS[family])

    def expected(x):
        tokens = plain(state, x, heads, **options)
        vectors = [t.mean(1) if family == "ijepa" else t[:, 0] for t in tokens]
        return dict(zip(("blocks.0", "blocks.1", "backbone"), vectors, strict=True))

    return folder / "file.pth", expected, projector


@pytest.mark.parametrize("family", ["dino", "mocov3", "dinov2", "mae", "ijepa", "clip"])
def test_a_published_vit_computes_what_its_paper_says(family, tmp_path):
    file, expected, projector = written(family, tmp_path)
    network = read_published(file, small(family))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        levels, known = network.all_levels(x), expected(x)
        assert all(torch.allclose(levels[name], known[name], atol=1e-4) for name in known)
        if projector is not None:
            assert torch.allclose(levels["projector"], projector(known["backbone"]), atol=1e-4)


def test_torchvisions_vit_is_the_same_network(tmp_path):
    torch.manual_seed(0)
    reference = VisionTransformer(32, 8, 2, 12, 24, 96, num_classes=5).eval()
    state = {
        re.sub(r"mlp\.(0|3)\.", lambda m: f"mlp.linear_{1 + int(m[1]) // 3}.", n): t
        for n, t in reference.state_dict().items()
    }
    torch.save(state, tmp_path / "vit.pth")
    network = read_published(tmp_path / "vit.pth", small("supervised"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(reference.heads(network.backbone(x)), reference(x), atol=1e-5)


def hub_network(name: str) -> nn.Module:
    network = build_backbone("timm", **PUBLISHED[name].arguments | SMALL | {"num_heads": 3})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


@pytest.mark.parametrize("name", ["dinov3-vits16", "siglip-vitb16"])
def test_a_file_of_the_hub_is_fetched_once_and_read(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RCDM_HOME", str(tmp_path / "home"))
    reference, asked = hub_network(name), []
    save_file(reference.state_dict(), tmp_path / "model.safetensors")

    def download(repository, file):
        asked.append(f"{repository}/{file}")
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(published, "hf_hub_download", download)
    entry = PUBLISHED[name]
    monkeypatch.setitem(PUBLISHED, name, replace(entry, arguments=entry.arguments | SMALL | {"num_heads": 3}))
    for _ in range(2):
        network, preprocessing, config = load_published(name)
    assert [f"hf://{path}" for path in asked] == [entry.url] and preprocessing == entry.preprocessing
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = reference.forward_features(x)
        h = tokens[:, 0] if name.startswith("dinov3") else reference.attn_pool(tokens)
        assert torch.allclose(network.backbone(x), h, atol=1e-4)
    assert config["licence"] == entry.licence and config["arguments"]["name"] == entry.arguments["name"]


def test_what_the_hub_does_not_give_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("RCDM_HOME", str(tmp_path / "home"))

    def refuse(*_):
        raise OSError("no network")

    monkeypatch.setattr(published, "hf_hub_download", refuse)
    with pytest.raises(
        ValueError, match=r"model\.safetensors of timm/vit_small_patch16_dinov3\.lvd1689m cannot be had"
    ):
        load_published("dinov3-vits16")


def test_a_projector_that_was_not_published_is_refused_before_anything_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "fetch", None)
    monkeypatch.setattr(published, "hf_hub_download", None)
    for name in ("dinov2-vits14", "dinov3-vits16", "mae-vitb16", "ijepa-vith14", "siglip-vitb16"):
        with pytest.raises(ValueError, match=r"No projector of .* was published; choose .* blocks\.11.*, backbone"):
            rcdm.load_source(f"{name}/projector")
    file, _, _ = written("mae", tmp_path)
    with pytest.raises(ValueError, match=r"of a file\); choose one of blocks\.0, blocks\.1, backbone"):
        RepresentationSource(
            "mae/projector", read_published(file, small("mae")), "projector", small("mae").preprocessing
        )


def test_position_embeddings_are_resized_to_the_images(tmp_path):
    state = random_vit(5, scale=True) | {"mask_token": torch.zeros(1, 24)}  # a grid of 2 x 2 for one of 4 x 4
    torch.save(state, tmp_path / "file.pth")
    backbone = read_published(tmp_path / "file.pth", small("dinov2")).backbone
    assert backbone.pos_embed.shape == (1, 17, 24)
    assert torch.allclose(backbone.pos_embed[:, 0], state["pos_embed"][:, 0])


def test_a_shape_that_does_not_fit_is_named(tmp_path):
    file, _, _ = written("mae", tmp_path)
    content = read_checkpoint(file)
    content["model"]["blocks.1.mlp.fc1.weight"] = torch.zeros(7, 24)
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"blocks.1.mlp.fc1.weight is \(7, 24\) instead of \(96, 24\)"):
        read_published(file, small("mae"))
