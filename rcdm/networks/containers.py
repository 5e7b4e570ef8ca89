"""Where the tensors lie in a file or a folder of another program: however deeply nested, each gets one dotted name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from rcdm.networks.checked_files import read_object
from rcdm.networks.distributed_folder import METADATA, read_distributed
from rcdm.networks.safe_load import read_checkpoint

State = dict[str, Tensor]

_TRAINING = re.compile(
    r"(?i)(optim\w*|opt|optimizer_state\w*|(grad_?)?scaler|amp|native_amp|apex|(lr_?)?schedul\w*|\w*_schedulers?"
    r"|loops|callbacks|rng\w*|random_states?\w*|hyper_parameters|hparams\w*|args?|cfg|config|meta|meters?|metrics?"
    r"|message_hub|loss|losses|logs?|history)"
)
"""Keys of a checkpoint under which the training keeps what is no part of a network."""

_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|_forward_module"
    r"|_modules|_parameters|_buffers)\.(?=.)"
)
_INDICES = (
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
)
_WHOLE = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "mp_rank_00_model_states.pt",
)
"""Files that hold the weights of a folder: of accelerate, transformers, timm, open_clip, DeepSpeed."""

MOST_CONTAINERS = 200_000

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar", ".torch")
"""How names of files of weights end."""


@dataclass(frozen=True)
class Weights:
    """All tensors of a checkpoint.

    Args:
        state: dotted name -> tensor; containers, such as `state_dict`, are the first parts of the names.
        containers: the keys under which tensors lie, with a dot behind; "" is the top.
        training: keys whose content belongs to the training and was not looked at.
        files: what was read.
    """

    state: State
    containers: tuple[str, ...]
    training: tuple[str, ...]
    files: tuple[Path, ...]


def read_weights(path: Path) -> Weights:
    """A file, or a folder of accelerate, DeepSpeed, torch.distributed.checkpoint or of shards -> its tensors.

    Raises ValueError, naming what is there, where there are none.
    """
    if path.is_dir() and (path / METADATA).is_file():
        return _of(read_distributed(path), path, tuple(sorted(path.glob("*.distcp"))))
    if not path.is_dir():
        return _of(read_checkpoint(path, mapped=True), path, (path,))
    files = weights_files(path)
    content: dict[str, Any] = {}
    for file in files:
        content |= dict(read_checkpoint(file, mapped=True))
    return _of(content, path, files)


def weights_files(folder: Path) -> tuple[Path, ...]:
    """The files of a folder that hold its weights. ValueError, listing what is there, where that is not plain."""
    for index in (folder / name for name in _INDICES):
        if index.is_file():
            where = read_object(index).get("weight_map")
            if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
                raise ValueError(f"{index} has no weight_map of file names: get the file again.")
            names = sorted(set(where.values()))
            if missing := [name for name in names if not (folder / Path(name).name).is_file()]:
                raise ValueError(f"{folder} lacks {', '.join(missing)}, which its {index.name} names.")
            return tuple(folder / Path(name).name for name in names)
    if whole := [folder / name for name in _WHOLE if (folder / name).is_file()]:
        return (whole[0],)
    files = sorted(file for file in folder.iterdir() if file.suffix in WEIGHTS and file.is_file())
    if len(files) == 1:
        return (files[0],)
    inside = sorted(part.name for part in folder.iterdir() if (part / METADATA).is_file())
    if not files and inside:
        raise ValueError(f"{folder} holds the sharded checkpoints {', '.join(inside)}: give one of them.")
    there = ", ".join(file.name for file in files[:6] or sorted(folder.iterdir())[:6]) or "nothing"
    raise ValueError(f"{folder} is no folder of one network: it holds {there}. Give the file of the network itself.")


def _of(content: Any, path: Path, files: tuple[Path, ...]) -> Weights:
    training: dict[str, None] = {}
    found: dict[tuple[str, ...], Tensor] = dict(_tensors(content, (), (), training, count()))
    if not found:
        there = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{path} holds no state dict; there is {there or 'nothing'}.")
    for keys, tensor in found.items():
        if not tensor.is_meta and tensor.nbytes > max(tensor.untyped_storage().nbytes(), 2**20):
            raise ValueError(f"{path}: {'.'.join(keys)[:80]} says that it is larger than what is stored of it.")
    names = {keys: ".".join(keys) for keys in found}
    plain = {keys: _unwrapped(name) for keys, name in names.items()}
    if len(set(plain.values())) == len(names):
        names = plain
    places = dict.fromkeys(_unwrapped(f"{'.'.join(keys[:-1])}." if keys[:-1] else "") for keys in found)
    state = {names[keys]: tensor.detach() for keys, tensor in found.items()}
    return Weights(state, tuple(places), tuple(training), files)


def _unwrapped(name: str) -> str:
    """Without what wrappers of modules put into names; a container called `module` is one, too."""
    return "" if name == "module." else _WRAPPERS.sub("", name)


def _tensors(
    content: Any, keys: tuple[str, ...], above: tuple[int, ...], training: dict[str, None], looked_at: Iterator[int]
) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Every tensor with the keys that lead to it; objects that contain themselves end there.

    Raises ValueError for more objects in each other than a checkpoint has, as where each is in the next twice.
    """
    own = id(content)
    if isinstance(content, Tensor):
        yield keys, content
    elif isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping) or own in above or len(above) > 60:
        return
    if next(looked_at) > MOST_CONTAINERS:
        raise ValueError("The file has more objects in each other than a checkpoint has: get it again.")
    for key, value in content.items():
        nested = isinstance(value, (Mapping, list, tuple))
        if nested and _TRAINING.fullmatch(str(key)):
            training[str(key)] = None
        elif nested or isinstance(value, Tensor):
            yield from _tensors(value, (*keys, str(key)), (*above, own), training, looked_at)
