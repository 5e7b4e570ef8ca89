"""A source: a frozen network cut at a level, together with its own preprocessing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, cast, overload

import torch
from diffusers import ModelMixin
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rcdm import images as im
from rcdm.backbones import build_backbone


@dataclass(frozen=True)
class Preprocessing:
    """Images in [-1,1] -> what a network expects: its own size, then (pixel in [0,1] - mean) / std per channel."""

    size: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def to_tensor(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """PIL at full resolution -> [B,3,size,size] in [-1,1], centre square."""
        return im.to_tensor(images, self.size)

    def __call__(self, images: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] -> [B,3,size,size], normalised; differentiable."""
        images = im.resize(images, self.size)
        mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return ((images + 1) / 2 - mean) / std


class SSLNetwork(nn.Module):
    """A backbone and its projector: normalised images [B,3,H,W] -> h [B,D] -> z [B,P]."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.backbone(x))

    def levels(self) -> tuple[str, ...]:
        """Names of the places where the network can be cut, in order of depth."""
        stages = [name for name, _ in self.backbone.named_children() if re.fullmatch(r"layer\d+", name)]
        hidden = [f"projector.{name}" for name, _ in list(self.projector.named_children())[:-1]]
        return (*stages, "backbone", *hidden, "projector")

    def all_levels(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B,3,H,W] -> level -> [B,D] float32, in one pass; maps are averaged over positions."""
        reached: dict[str, Tensor] = {}

        def keep(level: str) -> Callable[[nn.Module, Any, Tensor], None]:
            return lambda _module, _inputs, output: reached.__setitem__(level, _pooled(output))

        hooks = [self.at(level).register_forward_hook(keep(level)) for level in self.levels()]
        try:
            self(x)
        finally:
            for hook in hooks:
                hook.remove()
        return {level: reached[level] for level in self.levels()}

    def at(self, level: str) -> nn.Module:
        """The module whose output a level is."""
        return self.get_submodule(level if level.startswith(("backbone", "projector")) else f"backbone.{level}")


class RepresentationSource(nn.Module):
    """A frozen network cut at a level: [B,3,H,W] in [-1,1] -> [B,D] float32, raw (not standardised).

    Maps [B,C,H,W] are averaged over their positions. Gradients flow to the images when autograd is on. Raises
    ValueError for a tensor that is not floating-point [B,3,H,W].
    """

    def __init__(self, name: str, network: SSLNetwork, level: str, preprocessing: Preprocessing) -> None:
        super().__init__()
        if level not in network.levels():
            raise ValueError(f"{name} has no level {level!r}; choose one of {', '.join(network.levels())}.")
        self.name, self.level, self.preprocessing = name, level, preprocessing
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> RepresentationSource:
        return super().train(False)  # frozen: batch statistics must never move

    @property
    def dim(self) -> int:
        """Width D of the representation."""
        parameter = next(self.network.parameters())
        size = self.preprocessing.size
        with torch.no_grad():
            return self(torch.zeros(1, 3, size, size, device=parameter.device)).shape[1]

    def forward(self, images: Tensor | Image.Image | Sequence[Image.Image]) -> Tensor:
        if not isinstance(images, Tensor):
            images = self.preprocessing.to_tensor(images).to(next(self.network.parameters()).device)
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"{self.name} takes PIL images or a float tensor [B,3,H,W] in [-1,1], not {images.dtype} "
                f"{list(images.shape)}; `rcdm.images.to_tensor` makes one."
            )
        return _pooled(_output_of(self.network.at(self.level), self.network, self.preprocessing(images)))


def _pooled(h: Tensor) -> Tensor:
    """[B,D,H,W] or [B,D] -> [B,D] float32."""
    return (h.mean((2, 3)) if h.ndim == 4 else h).float()


class _Reached(Exception):
    """Ends a forward pass at the level that was asked for: nothing deeper is computed."""


def _output_of(module: nn.Module, network: nn.Module, x: Tensor) -> Tensor:
    reached: list[Tensor] = []

    def stop(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        reached.append(output)
        raise _Reached

    hook = module.register_forward_hook(stop)
    try:
        network(x)
    except _Reached:
        pass
    finally:
        hook.remove()
    return reached[0]


def projector_from(tensors: dict[str, Tensor]) -> nn.Sequential:
    """An MLP from its weights: `K.I.weight` is layer I of block K; all blocks but the last end in ReLU.

    A matrix is a Linear layer, a vector with running statistics a BatchNorm. Raises ValueError for anything else.
    """
    places = sorted({(int(k), int(i)) for k, i in (name.split(".")[:2] for name in tensors)})
    blocks: dict[int, list[nn.Module]] = {}
    for k, i in places:
        weight = tensors.get(f"{k}.{i}.weight")
        if weight is not None and weight.ndim == 2:
            layer: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=f"{k}.{i}.bias" in tensors)
        elif f"{k}.{i}.running_mean" in tensors:
            affine = weight is not None
            layer = nn.BatchNorm1d(len(tensors[f"{k}.{i}.running_mean"]), affine=affine)
        else:
            raise ValueError(f"projector.{k}.{i} is neither a linear layer nor a batch norm.")
        blocks.setdefault(k, []).append(layer)
    last = max(blocks)
    projector = nn.Sequential(
        *(nn.Sequential(*layers, *([nn.ReLU()] if k != last else [])) for k, layers in blocks.items())
    )
    projector.load_state_dict(tensors)
    return projector


def save_network(folder: Path, network: SSLNetwork, config: dict[str, Any]) -> None:
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


def load_network(folder: Path) -> tuple[SSLNetwork, Preprocessing]:
    """Read a source folder. Raises ValueError when a file is missing or does not fit."""
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is not a source folder with config.json and model.safetensors: {error}") from error
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    backbone = build_backbone(config["architecture"], **config["arguments"])
    backbone.load_state_dict(_under("backbone.", tensors))
    network = SSLNetwork(backbone, projector_from(_under("projector.", tensors)))
    numbers = config["preprocessing"]
    preprocessing = Preprocessing(numbers["size"], tuple(numbers["mean"]), tuple(numbers["std"]))
    return network.eval(), preprocessing


def runs(names: Sequence[str]) -> Iterator[tuple[str, slice]]:
    """Neighbours of one name, together: each name with the slice of its rows."""
    start = 0
    for name, group in groupby(names):
        stop = start + len(list(group))
        yield name, slice(start, stop)
        start = stop


class Sources(ModelMixin):
    """The frozen networks of a pipeline and the levels at which they are read.

    Behaves as the tuple of its names, `NETWORK/LEVEL` each; `sources["simclr/backbone"]` is the source of that name.
    Saved as one folder per network beside `config.json`, which lists the names.
    """

    def __init__(
        self,
        networks: Mapping[str, tuple[SSLNetwork, Preprocessing]],
        names: Sequence[str],
        configs: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({name: network for name, (network, _) in networks.items()})
        self._preprocessing = {name: preprocessing for name, (_, preprocessing) in networks.items()}
        self._configs = dict(configs or {})
        self.names = tuple(names)
        for name in self.names:
            self[name]  # every name must resolve
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Sources:
        return super().train(False)  # frozen: batch statistics must never move

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        return repr(self.names)

    def __eq__(self, other: object) -> bool:
        return self.names == other if isinstance(other, tuple) else self is other

    __hash__ = ModelMixin.__hash__

    @overload
    def __getitem__(self, name: str) -> RepresentationSource: ...
    @overload
    def __getitem__(self, name: int) -> str: ...
    @overload
    def __getitem__(self, name: slice) -> tuple[str, ...]: ...

    def __getitem__(self, name: str | int | slice) -> RepresentationSource | str | tuple[str, ...]:
        if not isinstance(name, str):
            return self.names[name]
        network, _, level = name.partition("/")
        if network not in self.networks:
            raise ValueError(f"There is no source {name!r}; choose one of {', '.join(self.names)}.")
        module = cast(SSLNetwork, self.networks[network])
        return RepresentationSource(name, module, level, self._preprocessing[network])

    @torch.no_grad()
    def encode(self, images: Tensor | Image.Image | Sequence[Image.Image], source: str | Sequence[str]) -> Tensor:
        """PIL, list of PIL, or [B,3,H,W] in [-1,1] -> [B,D] float32, raw. See `RCDMPipeline.encode`."""
        if isinstance(images, Image.Image):
            images = [images]
        if isinstance(images, Tensor):
            images = images.to(self.device, torch.float32)
        if isinstance(source, str):
            return self[source](images)
        if len(source) != len(images):
            raise ValueError(f"{len(images)} images came with {len(source)} names of sources.")
        parts = [(rows, self[name](images[rows])) for name, rows in runs(source)]
        h = torch.zeros(len(images), max(part.shape[1] for _, part in parts), device=self.device)
        for rows, part in parts:
            h[rows, : part.shape[1]] = part
        return h

    @torch.no_grad()
    def encode_all(self, images: Tensor) -> dict[str, Tensor]:
        """[B,3,H,W] in [-1,1] -> name of each source -> [B,D] float32, every network run once."""
        images = images.to(self.device, torch.float32)
        levels = {
            name: cast(SSLNetwork, network).all_levels(self._preprocessing[name](images))
            for name, network in self.networks.items()
        }
        return {name: levels[name.partition("/")[0]][name.partition("/")[2]] for name in self.names}

    def widths(self) -> dict[str, int]:
        """Name of each source -> width of its representation."""
        return {name: self[name].dim for name in self.names}

    def config_of(self, network: str) -> dict[str, Any]:
        """The config.json of one network: architecture, preprocessing, how it was trained."""
        return self._configs[network]

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, network in self.networks.items():
            save_network(folder / name, cast(SSLNetwork, network), self._configs[name])
        config = {"sources": list(self.names), "networks": list(self.networks)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **_: Any) -> Sources:
        folder = Path(pretrained_model_name_or_path)
        config = json.loads((folder / "config.json").read_text())
        networks = {name: load_network(folder / name) for name in config["networks"]}
        configs = {name: json.loads((folder / name / "config.json").read_text()) for name in networks}
        return cls(networks, config["sources"], configs)


def read_sources(folder: Path, names: Sequence[str] | None = None) -> Sources:
    """The source folders below `folder` -> Sources; by default the backbone and the projector of each.

    Raises ValueError when there is none, or when a name does not resolve.
    """
    found = sorted(path.parent.name for path in folder.glob("*/model.safetensors"))
    if not found:
        raise ValueError(f"{folder} holds no source folder; make one with `rcdm pretrain --out {folder}/NAME`.")
    names = names or [f"{network}/{level}" for network in found for level in ("backbone", "projector")]
    wanted = list(dict.fromkeys(name.partition("/")[0] for name in names))
    if missing := [network for network in wanted if network not in found]:
        raise ValueError(f"{folder} has no {', '.join(missing)}; it holds {', '.join(found)}.")
    configs = {network: json.loads((folder / network / "config.json").read_text()) for network in wanted}
    return Sources({network: load_network(folder / network) for network in wanted}, names, configs)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
