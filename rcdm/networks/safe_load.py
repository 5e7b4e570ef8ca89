"""Tensors out of other people's checkpoint files; whatever else is pickled in them stays inert."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


class Inert:
    """Stands in for every foreign object of a pickle: it takes anything and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Inert:
        return self


def read_checkpoint(path: str | Path, *, mapped: bool = False) -> Any:
    """The content of a .pt, .pth, .tar, .torch, .bin or .safetensors file: tensors in dicts and lists.

    Objects of other libraries become `Inert`: their code is neither imported nor called. `mapped` tensors are read from
    the file when they are used, so that optimizer states never fill the memory; until then it must not change. Raises
    ValueError for a file that cannot be read so.
    """
    if Path(path).suffix != ".safetensors" and not _is_torch(path):
        raise ValueError(
            f"{path} is no checkpoint file: what is read are files saved by torch (.pt, .pth, .ckpt, .tar, .torch, "
            ".bin) and .safetensors files."
        )
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if _is_zip(path) else _legacy_globals(path)
        stand_ins: list[Any] = [(type("Inert", (Inert,), {}), name) for name in foreign]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and _is_zip(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it asks for code to be run, which is refused."
        ) from error
    except Exception as error:  # damaged files fail in many ways
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from error


def tensors_at(content: Any, keys: tuple[str, ...], path: str | Path) -> dict[str, Tensor]:
    """The state dict below `keys` of a checkpoint's content, or below a further `state_dict` there.

    Raises ValueError, naming what is there instead.
    """
    for key in keys:
        if not isinstance(content, Mapping) or key not in content:
            there = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
            raise ValueError(f"{path} has no {key!r}; it holds {there}.")
        content = content[key]
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no state dict at {'/'.join(keys) or 'its top'}.")
    return {name: tensor.detach() for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _is_zip(path: str | Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _is_torch(path: str | Path) -> bool:
    """Whether a file begins like one of `torch.save`: as a zip, or in its old format as a pickle."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x80\x02" or _is_zip(path)


def _legacy_globals(path: str | Path) -> list[str]:
    """Names that the pickles of a file in torch's old format refer to; nothing is run."""
    names: list[str] = []
    strings: list[str] = []
    with open(path, "rb") as file:
        for _ in range(5):  # magic, protocol, system, the object, storage keys
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
            if len(names) and opcode.name == "STOP":
                break
    return [name for name in dict.fromkeys(names) if not name.startswith(("torch.", "collections."))]
