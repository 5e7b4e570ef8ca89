"""Published SSL networks, read from their files and kept as source folders in the user's cache."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from rcdm.data.downloads import cache_folder, fetch, sha256
from rcdm.networks.backbones import build_backbone
from rcdm.networks.catalogue import PUBLISHED, Published, entry_of
from rcdm.networks.checked_files import check_finite
from rcdm.networks.projectors import in_blocks, projector_from
from rcdm.networks.representation import Preprocessing, SSLNetwork
from rcdm.networks.safe_load import read_checkpoint, tensors_at
from rcdm.networks.source_folder import load_network, read_config, save_network

__all__ = ["PUBLISHED", "load_published", "network_from", "read_published"]


def read_published(path: str | Path, entry: Published) -> SSLNetwork:
    """A published file -> backbone and projector in eval mode.

    Raises ValueError, naming the keys, when one is left over or missing.
    """
    return network_from(read_checkpoint(path, mapped=True), entry, path)


def network_from(content: Any, entry: Published, path: str | Path) -> SSLNetwork:
    """The content of a published file -> network, see `read_published`; `path` is named in errors."""
    state = tensors_at(content, entry.keys, path)
    if entry.keys_of_projector is None:
        belongs = entry.projector or "\0"
        head = {_stripped(name, belongs): t for name, t in state.items() if _has(name, belongs)}
        trunk = {name: t for name, t in state.items() if not _has(name, belongs)}
    else:
        head, trunk = tensors_at(content, entry.keys_of_projector, path), state
    trunk = {_stripped(n, entry.backbone): t for n, t in trunk.items() if not re.search(entry.ignored, n)}
    trunk, head = renamed(trunk, entry.renamed), renamed(head, entry.renamed)
    backbone = build_backbone(entry.architecture, **entry.arguments)
    trunk = _in_order(trunk, backbone, path) if entry.in_order else trunk
    if entry.architecture == "timm":
        trunk = as_timm(trunk, backbone)
        head |= {name: trunk.pop(name) for name in list(trunk) if entry.projector and _has(name, entry.projector)}
    fill(backbone, trunk, path, entry.arguments.get("name", entry.architecture))
    projector = projector_from(in_blocks(head), entry.activation) if head else None
    return SSLNetwork(backbone, projector).eval().requires_grad_(False)


def renamed(tensors: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """The same tensors; each rule is a regular expression and what replaces it in the names."""
    result = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


def _in_order(tensors: Mapping[str, Tensor], backbone: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """The tensors under the backbone's own names. Raises ValueError where they are not as many, of the same shapes."""
    own = backbone.state_dict()
    shapes = [tensor.shape for tensor in tensors.values()]
    if shapes != [tensor.shape for tensor in own.values()]:
        raise ValueError(f"{path} does not fit: its tensors are not those of the network, one after the other.")
    return dict(zip(own, tensors.values(), strict=True))


def as_timm(tensors: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """What timm itself does to a file before it loads it: names of other publishers, position embeddings resized."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    return dict(convert(dict(tensors), backbone)) if convert else tensors


def fill(backbone: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, architecture: str) -> None:
    """Load a state dict strictly. Raises ValueError, naming the keys, when one is left over, missing or misshapen.

    And when a number is none: a training that diverged leaves no representation.
    """
    counts = ("num_batches_tracked",)
    expected = {name: tensor for name, tensor in backbone.state_dict().items() if not name.endswith(counts)}
    weights = {name: tensor for name, tensor in tensors.items() if not name.endswith(counts)}
    wrong = (("missing", expected.keys() - weights.keys()), ("left over", weights.keys() - expected.keys()))
    if words := [
        f"{_some(sorted(names))} {'is' if len(names) == 1 else 'are'} {what}" for what, names in wrong if names
    ]:
        raise ValueError(f"{path} does not fit {architecture}: {'; '.join(words)}.")
    if other := [name for name, tensor in weights.items() if tensor.shape != expected[name].shape]:
        here, there = (tuple(tensors[other[0]].shape) for tensors in (weights, expected))
        raise ValueError(f"{path} does not fit {architecture}: {other[0]} is {here} instead of {there}.")
    check_finite({name: tensor for name, tensor in weights.items() if not tensor.is_meta}, Path(path))
    backbone.load_state_dict(weights, strict=False)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _has(name: str, prefix: str) -> bool:
    return name.startswith(prefix) or name.startswith(prefix.removeprefix("module."))


def _stripped(name: str, prefix: str) -> str:
    """Without the prefix, or without what is left of it when the file was saved without `module.`."""
    for candidate in (prefix, prefix.removeprefix("module.")):
        if name.startswith(candidate):
            return name.removeprefix(candidate)
    return name


def load_published(name: str, file: str | Path | None = None) -> tuple[SSLNetwork, Preprocessing, dict[str, Any]]:
    """A name in `PUBLISHED` -> network, preprocessing and config.json; the file is downloaded once, or is `file`.

    The first time it is converted into a source folder of the user's cache, from which it is read afterwards. Raises
    ValueError for an unknown name.
    """
    entry = entry_of(name)
    folder = cache_folder() / "sources" / name
    if file is not None or not (folder / "model.safetensors").is_file():
        file = file or _download(name, entry.url)
        network = read_published(file, entry)
        save_network(folder, network, _config(entry, network, Path(file)))
    loaded, preprocessing = load_network(folder)
    return cast(SSLNetwork, loaded), preprocessing, read_config(folder)


def _download(name: str, url: str) -> Path:
    """The local copy of a published file, in this project's cache, in that of the hub, or in an installed package."""
    if url.startswith("pip://"):
        return _file_of_package(url.removeprefix("pip://"))
    if not url.startswith("hf://"):
        return fetch(url, cache_folder() / "downloads" / name / url.rpartition("/")[2])
    owner, repository, file = url.removeprefix("hf://").split("/")
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
        raise ValueError(f"{file} of {owner}/{repository} cannot be had from the Hugging Face hub: {error}") from error


def _file_of_package(package: str) -> Path:
    """The file of weights that an installed package brings; its code is not run. ValueError where it is not there."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            f"These weights come with the package {package}, which is not installed: `pip install {package}`."
        ) from error
    weights = [Path(str(file.locate())) for file in files if file.suffix in (".pth", ".pt", ".bin")]
    if len(weights) != 1 or not weights[0].is_file():
        raise ValueError(f"The package {package} is installed without its weights: install it again.")
    return weights[0]


def _config(entry: Published, network: SSLNetwork, file: Path) -> dict[str, Any]:
    return {
        "architecture": entry.architecture,
        "arguments": dict(entry.arguments),
        "levels": list(network.levels()),
        "projector_activation": entry.activation,
        "preprocessing": asdict(entry.preprocessing),
        "published": {"url": entry.url, "paper": entry.paper, "sha256": sha256(file)},
        "licence": entry.licence,
    }
