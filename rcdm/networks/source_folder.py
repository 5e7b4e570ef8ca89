"""A pretrained network on disk: `model.safetensors` and `config.json` in a folder of its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rcdm.networks.backbones import build_backbone
from rcdm.networks.projectors import projector_from
from rcdm.networks.representation import OpenNetwork, Preprocessing, SSLNetwork


def save_network(folder: Path, network: SSLNetwork | OpenNetwork, config: dict[str, Any]) -> None:
    """Write a source folder: `model.safetensors`, `config.json` (architecture, preprocessing, training).

    Tensors that fp16 holds exactly are stored in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: _compact(tensor) for name, tensor in network.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _compact(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.is_floating_point() and torch.equal(tensor.half().to(tensor.dtype), tensor):
        return tensor.half()
    return tensor


def load_network(folder: Path) -> tuple[SSLNetwork | OpenNetwork, Preprocessing]:
    """Read a source folder. Raises ValueError when a file is missing or does not fit."""
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is not a source folder with config.json and model.safetensors: {error}") from error
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    numbers = config["preprocessing"]
    preprocessing = Preprocessing(numbers["size"], tuple(numbers["mean"]), tuple(numbers["std"]))
    backbone = build_backbone(config["architecture"], **config["arguments"])
    if "pooling" in config:
        own = OpenNetwork(backbone, config["levels"], config["pooling"])
        own.load_state_dict(tensors)
        return own.eval(), preprocessing
    backbone.load_state_dict(_under("backbone.", tensors))
    layers = _under("projector.", tensors)
    projector = projector_from(layers, config.get("projector_activation", "relu")) if layers else None
    network = SSLNetwork(backbone, projector)
    return network.eval(), preprocessing


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a source folder."""
    return dict(json.loads((folder / "config.json").read_text()))


def is_source_folder(folder: Path) -> bool:
    """Whether it is one of ours, rather than a folder of another program with files of the same names."""
    try:
        config = read_config(folder)
    except (OSError, ValueError):
        return False
    return {"architecture", "arguments", "preprocessing"} <= config.keys()


def digest(folder: Path) -> str:
    """SHA-256 of what a source folder's representations depend on: its weights, then its config.json."""
    files = (folder / "model.safetensors", folder / "config.json")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
