"""A pretrained network on disk: `model.safetensors` and `config.json` in a folder of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, StringConstraints
from safetensors.torch import save_file
from torch import Tensor, nn

from rcdm.networks.backbones import build_backbone
from rcdm.networks.checked_files import Fields, check_fit, read_fields, read_object, read_tensors, reason, shapes_of
from rcdm.networks.projectors import projector_from
from rcdm.networks.representation import OpenNetwork, Preprocessing, SSLNetwork

MOST_WIDE, MOST_DEEP = 2**16, 200  # numbers in `arguments`: widths and sizes; blocks

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def save_network(folder: Path, network: SSLNetwork | OpenNetwork, config: dict[str, Any]) -> None:
    """Write a source folder: `model.safetensors`, `config.json` (architecture, preprocessing, training).

    Tensors that fp16 holds exactly are stored in it. The files are there to their end or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights, about = (folder / f"{name}.partial" for name in ("model.safetensors", "config.json"))
    save_file({name: _compact(tensor) for name, tensor in network.state_dict().items()}, weights)
    about.write_text(json.dumps(config, indent=2) + "\n")
    for partial in (about, weights):  # whoever finds weights finds all
        partial.replace(partial.with_suffix(""))


def _compact(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.is_floating_point() and torch.equal(tensor.half().to(tensor.dtype), tensor):
        return tensor.half()
    return tensor


class PreprocessingConfig(Fields):
    """The fields of Preprocessing."""

    size: Annotated[int, Field(ge=1, le=4096)]
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]


class NetworkConfig(BaseModel):
    """config.json of a source folder; what else stands there is for people."""

    architecture: Annotated[str, StringConstraints(max_length=200)]
    arguments: dict[str, Any]
    preprocessing: PreprocessingConfig
    levels: Annotated[list[str], Field(max_length=10_000)] = Field([])
    pooling: str | None = None
    projector_activation: str = "relu"


def load_network(folder: Path) -> tuple[SSLNetwork | OpenNetwork, Preprocessing]:
    """Read a source folder. Raises ValueError, naming file and field, when a file is missing or does not fit."""
    file = folder / "model.safetensors"
    if not file.is_file() or not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a source folder with config.json and model.safetensors.")
    config = read_fields(folder / "config.json", NetworkConfig)
    _check_arguments(folder / "config.json", config.arguments)
    try:
        network = _network(config, file)
    except ValueError:
        raise
    except Exception as error:  # of the many parts of a network
        raise ValueError(f"{folder / 'config.json'} describes no network that can be built: {reason(error)}") from error
    numbers = config.preprocessing
    return network.eval(), Preprocessing(numbers.size, numbers.mean, numbers.std)


def _network(config: NetworkConfig, file: Path) -> SSLNetwork | OpenNetwork:
    shapes = shapes_of([file])
    part = "backbone" if config.pooling is None else "module"
    if ":" not in config.architecture:  # a function of a user's own is called once
        with torch.device("meta"):
            blank = nn.ModuleDict({part: build_backbone(config.architecture, **config.arguments)})
        check_fit(blank, {name: shape for name, shape in shapes.items() if not name.startswith("projector.")}, file)
    tensors = read_tensors(file)
    backbone = build_backbone(config.architecture, **config.arguments)
    if config.pooling is not None:
        own = OpenNetwork(backbone, config.levels, config.pooling)
        own.load_state_dict(tensors)
        return own
    backbone.load_state_dict(_under("backbone.", tensors))
    layers = _under("projector.", tensors)
    return SSLNetwork(backbone, projector_from(layers, config.projector_activation) if layers else None)


def _check_arguments(file: Path, arguments: Mapping[str, Any]) -> None:
    """Raises ValueError for numbers that no network has: building with them would not end."""
    for name, value in arguments.items():
        if isinstance(value, dict):  # the configuration of another library
            _check_arguments(file, {key: abs(v) if isinstance(v, int | float) else v for key, v in value.items()})
        most = MOST_DEEP if name in ("blocks", "depth", "depths", "num_hidden_layers") else MOST_WIDE
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not 0 <= number <= most:
                raise ValueError(f"{file}: arguments.{name[:80]} must be from 0 to {most}, not {number!r:.80}.")
        if isinstance(value, list) and len(value) > MOST_DEEP:
            raise ValueError(f"{file}: arguments.{name[:80]} has more than {MOST_DEEP} entries.")


def read_config(folder: Path) -> dict[str, Any]:
    """All that the config.json of a source folder, or of a folder of them, says."""
    return read_object(folder / "config.json")


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
