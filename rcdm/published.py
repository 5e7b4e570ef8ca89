"""Published SSL networks: where the files are, how they are laid out, and how each becomes a source folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torchvision.models import ResNet50_Weights

from rcdm.backbones import build_backbone
from rcdm.downloads import cache_folder, fetch, sha256
from rcdm.representation import Preprocessing, SSLNetwork
from rcdm.safe_load import read_checkpoint, tensors_at
from rcdm.source_folder import load_network, projector_from, read_config, save_network

IMAGENET = Preprocessing(224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Published:
    """One published file.

    Args:
        architecture: name in `BACKBONES`.
        url: where the file is.
        keys: path to the state dict inside the file.
        backbone: what precedes the backbone's names there; the longest that fits is taken away.
        projector: what precedes the projector's names; None where no projector was published.
        ignored: regular expression of names that are no part of backbone or projector.
        keys_of_projector: path to the projector's tensors, where they lie elsewhere.
        activation: between the projector's layers.
    """

    architecture: str
    url: str
    keys: tuple[str, ...]
    backbone: str
    projector: str | None
    ignored: str
    paper: str
    licence: str
    keys_of_projector: tuple[str, ...] | None = None
    activation: str = "relu"
    preprocessing: Preprocessing = IMAGENET


SUPERVISED = "supervised-resnet50"

_VISSL = ("classy_state_dict", "base_model", "model")
_META = "https://dl.fbaipublicfiles.com"

PUBLISHED: dict[str, Published] = {
    "simclr-resnet50": Published(
        "resnet50",
        f"{_META}/vissl/model_zoo/simclr_rn50_1000ep_simclr_8node_resnet_16_07_20.afe428c7/"
        "model_final_checkpoint_phase999.torch",
        (*_VISSL, "trunk"),
        "_feature_blocks.",
        r"",
        r"num_batches_tracked$",
        "arXiv 2002.05709",
        "MIT (VISSL)",
        keys_of_projector=(*_VISSL, "heads"),
    ),
    "barlow-resnet50": Published(
        "resnet50",
        f"{_META}/vissl/model_zoo/barlow_twins/barlow_twins_32gpus_4node_imagenet1k_1000ep_resnet50.torch",
        (*_VISSL, "trunk"),
        "_feature_blocks.",
        r"",
        r"num_batches_tracked$",
        "arXiv 2103.03230",
        "MIT (VISSL)",
        keys_of_projector=(*_VISSL, "heads"),
    ),
    "barlow-resnet50-original": Published(
        "resnet50",
        f"{_META}/barlowtwins/ljng/checkpoint.pth",
        ("model",),
        "module.backbone.",
        "module.projector.",
        r"^module\.bn\.|num_batches_tracked$",
        "arXiv 2103.03230",
        "MIT",
    ),
    "vicreg-resnet50": Published(
        "resnet50",
        f"{_META}/vicreg/resnet50_fullckpt.pth",
        ("model",),
        "module.backbone.",
        "module.projector.",
        r"num_batches_tracked$",
        "arXiv 2105.04906",
        "CC-BY-NC 4.0",
    ),
    "dino-resnet50": Published(
        "resnet50",
        f"{_META}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain_full_checkpoint.pth",
        ("teacher",),
        "module.backbone.",
        "module.head.mlp.",
        r"head\.last_layer|num_batches_tracked$",
        "arXiv 2104.14294",
        "Apache-2.0",
        activation="gelu",
    ),
    "swav-resnet50": Published(  # its projector ends before the prototypes
        "resnet50",
        f"{_META}/deepcluster/swav_800ep_pretrain.pth.tar",
        (),
        "module.",
        "module.projection_head.",
        r"prototypes|num_batches_tracked$",
        "arXiv 2006.09882",
        "CC-BY-NC 4.0",
    ),
    "mocov3-resnet50": Published(
        "resnet50",
        f"{_META}/moco-v3/r-50-1000ep/r-50-1000ep.pth.tar",
        ("state_dict",),
        "module.base_encoder.",
        "module.base_encoder.fc.",
        r"^module\.(momentum_encoder|predictor)\.|num_batches_tracked$",
        "arXiv 2104.02057",
        "CC-BY-NC 4.0",
    ),
    SUPERVISED: Published(
        "resnet50",
        ResNet50_Weights.IMAGENET1K_V1.url,
        (),
        "",
        None,
        r"^fc\.|num_batches_tracked$",
        "arXiv 1512.03385",
        "BSD-3-Clause (torchvision)",
    ),
}
"""Name -> file. Licences are those of the weights, as their publishers state them."""


def read_published(path: str | Path, entry: Published) -> SSLNetwork:
    """A published file -> backbone and projector in eval mode.

    Raises ValueError, naming the keys, when one is left over or missing.
    """
    content = read_checkpoint(path)
    state = tensors_at(content, entry.keys, path)
    if entry.keys_of_projector is None:
        belongs = entry.projector or "\0"
        head = {name.removeprefix(belongs): t for name, t in state.items() if _has(name, belongs)}
        trunk = {name: t for name, t in state.items() if not _has(name, belongs)}
    else:
        head, trunk = tensors_at(content, entry.keys_of_projector, path), state
    used = {n: t for n, t in trunk.items() if not re.search(entry.ignored, n)}
    backbone = build_backbone(entry.architecture)
    weights = {_stripped(name, entry.backbone): tensor for name, tensor in used.items()}
    expected = {name for name in backbone.state_dict() if not name.endswith("num_batches_tracked")}
    if wrong := sorted(expected ^ set(weights)):
        raise ValueError(f"{path} does not fit {entry.architecture}: {', '.join(wrong[:5])} is missing or left over.")
    backbone.load_state_dict(weights, strict=False)
    projector = projector_from(in_blocks(head), entry.activation) if head else None
    return SSLNetwork(backbone, projector).eval().requires_grad_(False)


def _has(name: str, prefix: str) -> bool:
    return name.startswith(prefix) or name.startswith(prefix.removeprefix("module."))


def _stripped(name: str, prefix: str) -> str:
    """Without the prefix, or without what is left of it when the file was saved without `module.`."""
    for candidate in (prefix, prefix.removeprefix("module.")):
        if name.startswith(candidate):
            return name.removeprefix(candidate)
    return name


def in_blocks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An MLP's tensors, in the file's order of Linear and BatchNorm -> named `BLOCK.LAYER.weight`, a block per Linear.

    The numbers in the names are read in order, whatever stands between them: `0.weight`, `1.clf.0.weight`.
    """
    places: dict[tuple[int, ...], str] = {}
    for name in tensors:
        prefix = name.rpartition(".")[0]
        places[tuple(int(part) for part in prefix.split(".") if part.isdigit())] = prefix
    result: dict[str, Tensor] = {}
    block, layer = -1, 0
    for place in sorted(places):
        prefix = places[place]
        weight = tensors.get(f"{prefix}.weight")
        block, layer = (block + 1, 0) if weight is not None and weight.ndim == 2 else (block, layer + 1)
        for end in ("weight", "bias", "running_mean", "running_var"):
            if f"{prefix}.{end}" in tensors:
                result[f"{block}.{layer}.{end}"] = tensors[f"{prefix}.{end}"]
        if f"{prefix}.running_mean" in tensors:
            result[f"{block}.{layer}.num_batches_tracked"] = torch.zeros((), dtype=torch.long)
    return result


def load_published(name: str, file: str | Path | None = None) -> tuple[SSLNetwork, Preprocessing, dict[str, Any]]:
    """A name in `PUBLISHED` -> network, preprocessing and config.json; the file is downloaded once, or is `file`.

    The first time it is converted into a source folder of the user's cache, from which it is read afterwards. Raises
    ValueError for an unknown name.
    """
    if name not in PUBLISHED:
        raise ValueError(f"There is no published network {name!r}; choose one of {', '.join(PUBLISHED)}.")
    entry = PUBLISHED[name]
    folder = cache_folder() / "sources" / name
    if file is not None or not (folder / "model.safetensors").is_file():
        file = file or fetch(entry.url, cache_folder() / "downloads" / name / entry.url.rpartition("/")[2])
        network = read_published(file, entry)
        save_network(folder, network, _config(entry, network, Path(file)))
    loaded, preprocessing = load_network(folder)
    return cast(SSLNetwork, loaded), preprocessing, read_config(folder)


def _config(entry: Published, network: SSLNetwork, file: Path) -> dict[str, Any]:
    return {
        "architecture": entry.architecture,
        "arguments": {},
        "levels": list(network.levels()),
        "projector_activation": entry.activation,
        "preprocessing": asdict(entry.preprocessing),
        "published": {"url": entry.url, "paper": entry.paper, "sha256": sha256(file)},
        "licence": entry.licence,
    }
