"""The sources of a pipeline: several frozen networks, and the levels at which they are read."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, overload

import torch
from diffusers import ModelMixin
from huggingface_hub import snapshot_download
from PIL import Image
from pydantic import Field, StringConstraints
from torch import Tensor, nn

from rcdm.networks.checked_files import Fields, read_fields
from rcdm.networks.representation import OpenNetwork, Preprocessing, RepresentationSource, SSLNetwork
from rcdm.networks.source_folder import digest, load_network, read_config, save_network

Named = TypeVar("Named", bound=Hashable)


def runs(names: Sequence[Named]) -> Iterator[tuple[Named, slice]]:
    """Neighbours of one name, or of what else is equal, together: each name with the slice of its rows."""
    start = 0
    for name, group in groupby(names):
        stop = start + len(list(group))
        yield name, slice(start, stop)
        start = stop


CONTROL = "simclr-supervised"
"""The network whose positive pairs share the label: aligned with the task, its best level moves to the projector.

Where a folder of this name lies among the networks of a checkpoint it is loaded with them, though no source reads it.
"""


Name = Annotated[str, StringConstraints(pattern=r"^[\w+=-][\w.+=-]*$", max_length=200)]
"""Of a network, and of its folder: no path."""


class Reference(Fields):
    """A network of another checkpoint: its name beside this one, or on the hub, and what its files must be."""

    checkpoint: Annotated[str, StringConstraints(pattern=r"^[\w-][\w.-]*(/[\w-][\w.-]*)?$", max_length=200)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SourcesConfig(Fields):
    """config.json of a folder of sources."""

    sources: Annotated[list[Annotated[str, StringConstraints(max_length=400)]], Field(min_length=1, max_length=1000)]
    networks: list[Name]
    shared: dict[Name, Reference] = Field({})


class Sources(ModelMixin):
    """The frozen networks of a pipeline and the levels at which they are read.

    Behaves as the tuple of its names, `NETWORK/LEVEL` each; `sources["simclr/backbone"]` is the source of that name.
    Saved as one folder per network beside `config.json`, which lists the names. A copy that is saved stands alone, also
    where the original shares its networks with another checkpoint (`share_networks`).
    """

    def __init__(
        self,
        networks: Mapping[str, tuple[SSLNetwork | OpenNetwork, Preprocessing]],
        names: Sequence[str],
        configs: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({_key(name): network for name, (network, _) in networks.items()})
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
        if network not in self._preprocessing:
            raise ValueError(f"There is no source {name!r}; choose one of {', '.join(self.names)}.")
        module, preprocessing = self.network(network)
        return RepresentationSource(name, module, level, preprocessing)

    @torch.no_grad()
    def encode(self, images: Tensor | Image.Image | Sequence[Image.Image], source: str | Sequence[str]) -> Tensor:
        """PIL, list of PIL, or [B,3,H,W] in [-1,1] -> [B,D] float32, raw. See `RCDMPipeline.encode`."""
        if isinstance(images, Image.Image):
            images = [images]
        if isinstance(images, Tensor):
            images = _as_floats(images).to(self.device, torch.float32)
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
    def encode_all(self, images: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """[B,3,H,W] in [-1,1] -> name of each source, or of these -> [B,D] float32, every network run once."""
        images = _as_floats(images).to(self.device, torch.float32)
        names = self.names if names is None else names
        levels = {}
        for name in dict.fromkeys(name.partition("/")[0] for name in names):
            network, preprocessing = self.network(name)
            paths = [level for of, _, level in (source.partition("/") for source in names) if of == name]
            levels[name] = network.all_levels(preprocessing(images), paths)
        return {name: levels[name.partition("/")[0]][name.partition("/")[2]] for name in names}

    def fingerprint(self, name: str) -> str:
        """SHA-256 of what a source's representations depend on: weights, architecture, preprocessing, level."""
        name, _, level = name.partition("/")
        network, preprocessing = self.network(name)
        config = self._configs.get(name, {})
        shape = {key: config.get(key) for key in ("architecture", "arguments", "pooling", "projector_activation")}
        made_of = hashlib.sha256(repr((level, preprocessing, shape)).encode())
        for key, tensor in network.state_dict().items():
            made_of.update(key.encode())
            made_of.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return made_of.hexdigest()

    def network(self, name: str) -> tuple[SSLNetwork | OpenNetwork, Preprocessing]:
        """One of the networks, whole, and what it expects of its images."""
        return cast(SSLNetwork, self.networks[_key(name)]), self._preprocessing[name]

    def only(self, names: Sequence[str]) -> Sources:
        """These sources of the same networks; all where none is named. Raises ValueError for one that is not here."""
        if unknown := [name for name in names if name not in self.names]:
            raise ValueError(f"There is no source {unknown[0]!r}; choose one of {', '.join(self.names)}.")
        names = list(names) or self.names
        read = dict.fromkeys(name.partition("/")[0] for name in names)
        return Sources({name: self.network(name) for name in read}, names, {name: self._configs[name] for name in read})

    def widths(self) -> dict[str, int]:
        """Name of each source -> width of its representation."""
        return {name: self[name].dim for name in self.names}

    @property
    def beside(self) -> tuple[str, ...]:
        """Networks that no source reads: controls."""
        read = {name.partition("/")[0] for name in self.names}
        return tuple(name for name in self._preprocessing if name not in read)

    def config_of(self, network: str) -> dict[str, Any]:
        """The config.json of one network: architecture, preprocessing, how it was trained."""
        return self._configs[network]

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name in self._preprocessing:
            save_network(folder / name, self.network(name)[0], self._configs[name])
        _write_config(folder, self.names, list(self._preprocessing), {})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **_: Any) -> Sources:
        """Load a folder; networks that it shares with another checkpoint are found there and checked.

        A control (`CONTROL`) that lies among them comes along.
        """
        folder = Path(pretrained_model_name_or_path)
        config = read_fields(folder / "config.json", SourcesConfig)
        names = [*config.networks, *config.shared]
        folders = {name: network_folder(folder, name) for name in names}
        controls = [path.parent / CONTROL for path in folders.values() if path.name != CONTROL]
        if there := [path for path in controls if (path / "model.safetensors").is_file()]:
            folders.setdefault(CONTROL, there[0])
        return _load(folders, config.sources)


def _as_floats(images: Tensor) -> Tensor:
    """The images. Raises ValueError for whole numbers, which are not in [-1,1]."""
    if not images.is_floating_point():
        raise ValueError(
            f"Images must be float [B,3,H,W] in [-1,1], not {images.dtype}: `rcdm.to_tensor` makes one of PIL images."
        )
    return images


def _key(name: str) -> str:
    key = name.replace(".", ":")  # a module name holds no dot
    return f"{key}:" if hasattr(nn.ModuleDict, key) else key  # and is no word of torch, such as half or train


def read_sources(folder: Path, names: Sequence[str] | None = None) -> Sources:
    """The source folders below `folder` -> Sources; by default backbone and projector of each but `CONTROL`.

    Of a network that has neither, all that its folder names.
    Raises ValueError when there is none, or when a name does not resolve.
    """
    present = sorted(path.parent.name for path in folder.glob("*/model.safetensors"))
    if not present:
        raise ValueError(f"{folder} holds no source folder; make one with `rcdm pretrain --out {folder}`.")
    usual = [network for network in present if network != CONTROL] or present
    names = names or [f"{network}/{level}" for network in usual for level in _usual_levels(folder / network)]
    networks = list(dict.fromkeys(name.partition("/")[0] for name in names))
    if missing := [network for network in networks if network not in present]:
        raise ValueError(f"{folder} has no {', '.join(missing)}; it holds {', '.join(present)}.")
    return _load({network: folder / network for network in networks}, names)


def _usual_levels(folder: Path) -> list[str]:
    levels = read_config(folder).get("levels", ["backbone", "projector"])
    return [level for level in ("backbone", "projector") if level in levels] or levels


def network_folder(folder: Path, name: str) -> Path:
    """Where a network of a checkpoint's `sources` folder lies: below it, or in the checkpoint it is shared with."""
    file = folder / "config.json"
    shared = read_fields(file, SourcesConfig).shared if file.is_file() else {}
    return _shared_folder(folder, name, shared[name]) if name in shared else folder / name


def refuse_far_sources(shared: Path, checkpoint: Path) -> None:
    """Raises ValueError unless `shared` is the folder `sources` of a checkpoint that lies beside the other one."""
    shared = shared.resolve()
    if shared.name != "sources" or shared.parent.parent != checkpoint.resolve().parent:
        raise ValueError(
            f"A checkpoint can share the networks in SIBLING/sources alone, SIBLING being a folder beside it, and "
            f"{shared} is none of {checkpoint.name}: leave share_sources out."
        )


def share_networks(folder: Path, shared: Path) -> None:
    """Replace the networks of a saved `sources` folder by references to the same ones of another checkpoint's.

    `shared` is that checkpoint's `sources` folder; the two have to stay side by side. Raises ValueError when a network
    there is not the same.
    """
    config = read_config(folder)
    references = {}
    for name in config["networks"]:
        if digest(shared / name) != digest(folder / name):
            raise ValueError(f"{shared / name} is not the network that the checkpoint was trained with.")
        references[name] = {"checkpoint": shared.resolve().parent.name, "sha256": digest(shared / name)}
    for name in references:
        shutil.rmtree(folder / name)
    _write_config(folder, config["sources"], [], references)


def _write_config(
    folder: Path, names: Sequence[str], networks: Sequence[str], shared: Mapping[str, Mapping[str, str]]
) -> None:
    config: dict[str, Any] = {"sources": list(names), "networks": list(networks)}
    (folder / "config.json").write_text(json.dumps(config | ({"shared": shared} if shared else {}), indent=2) + "\n")


def _shared_folder(folder: Path, name: str, reference: Reference) -> Path:
    """The source folder NAME of another checkpoint: beside this one, or on the hub when the checkpoint is a hub id.

    Raises ValueError when it is not there, or is not the one that was meant.
    """
    checkpoint = reference.checkpoint
    beside = folder.resolve().parent.parent / checkpoint
    if not beside.is_dir() and checkpoint.count("/") == 1:
        beside = Path(snapshot_download(checkpoint, allow_patterns=["*.json", "*.safetensors"]))
    target = beside / "sources" / name
    if not (target / "model.safetensors").is_file():
        raise ValueError(f"This checkpoint shares {name} with {checkpoint}, which must lie beside it as {beside}.")
    if digest(target) != reference.sha256:
        raise ValueError(f"{target} has changed: it is not the network that this checkpoint was trained with.")
    return target


def _load(folders: Mapping[str, Path], names: Sequence[str]) -> Sources:
    """Name of each network -> its folder, and names of sources -> Sources."""
    networks = {name: load_network(folder) for name, folder in folders.items()}
    return Sources(networks, names, {name: read_config(folder) for name, folder in folders.items()})
