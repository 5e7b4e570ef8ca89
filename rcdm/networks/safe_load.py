"""Tensors out of other people's checkpoint files; whatever else is pickled in them stays inert."""

from __future__ import annotations

import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


class Inert(dict[Any, Any]):
    """Stands in for every foreign object of a pickle: it keeps what is put in, as items, and does nothing."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __init__(self, *parts: Any, **_: Any) -> None:
        super().__init__()
        for part in parts:
            self.__setstate__(part)

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping) and part is not self:
                self.update(part)

    def append(self, item: Any) -> None:
        """Keep an item of a list."""
        self[len(self)] = item

    def extend(self, items: Iterable[Any]) -> None:
        """Keep items of a list or set."""
        for item in items:
            self.append(item)

    add = append

    def __call__(self, *_: Any, **__: Any) -> Inert:
        return Inert()


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _of_type(rebuild: Any, _type: Any, arguments: tuple[Any, ...], _state: Any) -> Any:
    return rebuild(*arguments)


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): torch._utils._rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
}
"""All that a pickle may call: each makes a tensor of the file's own bytes, or a dict."""


class InertUnpickler(pickle.Unpickler):
    """Reads any pickle and runs nothing of it: what is not in `_KNOWN` becomes `Inert`."""

    def find_class(self, module: str, name: str) -> Any:
        kind = getattr(torch, name, None) if module == "torch" else None
        return kind if isinstance(kind, torch.dtype) else _KNOWN.get((module, name), Inert)


_PICKLE = types.SimpleNamespace(
    __name__="inert", Unpickler=InertUnpickler, load=lambda file, **options: InertUnpickler(file, **options).load()
)
"""What torch.load takes in place of the module `pickle`."""


def read_checkpoint(path: str | Path, *, mapped: bool = False) -> Any:
    """The content of a file of torch or safetensors, whatever its name: tensors in dicts and lists.

    Objects of other libraries become `Inert`: their code is neither imported nor called. `mapped` tensors are read from
    the file when they are used, so that optimizer states never fill the memory; until then it must not change. Raises
    ValueError for a file that cannot be read so.
    """
    kind = _kind(path)
    try:
        if kind == "safetensors":
            return load_file(path)
        if kind == "torchscript":
            return _torchscript(path)
        return load_inert(path, mapped=mapped and kind == "zip" and _is_stored(path))
    except Exception as error:  # damaged files fail in many ways
        reason = str(error).partition("\n")[0] or type(error).__name__
        if "magic number" in reason:
            raise ValueError(
                f"{path} is a pickle of Python that torch.save did not write: save its arrays by it."
            ) from error
        raise ValueError(f"{path} cannot be read as a checkpoint, it is damaged or cut short: {reason}") from error


def load_inert(file: Any, *, mapped: bool = False) -> Any:
    """What torch.load reads of a file of torch.save, without running anything; may fail in any way."""
    return torch.load(
        file, map_location="cpu", weights_only=False, pickle_module=_PICKLE, mmap=mapped, encoding="latin1"
    )


def _kind(path: str | Path) -> str:
    """`safetensors`, `zip` (of torch), `torchscript` or `legacy`. ValueError, saying what the file is instead."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors"
    if head[:2] == b"PK":
        return _kind_of_zip(path)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "legacy"
    raise ValueError(
        f"{path} is {_instead(head)}: what is read are files saved by torch (.pt, .pth, .ckpt, .tar, .torch, .bin) and "
        ".safetensors files."
    )


def _kind_of_zip(path: str | Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: it is cut short, fetch it again.") from error
    if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        some = ", ".join(names[:3]) or "nothing"
        raise ValueError(f"{path} is a zip archive with {some}, no checkpoint: unpack it and give the file inside.")
    records = torch._C.PyTorchFileReader(str(path)).get_all_records()  # by the reader that would run TorchScript
    return "torchscript" if "constants.pkl" in records else "zip"


def _is_stored(path: str | Path) -> bool:
    """Whether nothing in a zip archive is packed: then it can be mapped."""
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _instead(head: bytes) -> str:
    """What a file is that begins so."""
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page and no checkpoint file; download the file itself, not the page that shows it"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS and no checkpoint file; fetch what it stands for with `git lfs pull`"
    known = {b"\x1f\x8b": "a gzip archive", b"\x89HDF": "an HDF5 file of Keras", b"BZh": "a bzip2 archive"}
    known |= {b"\x93NUMPY": "an array of numpy", b"7z\xbc\xaf": "a 7z archive", b"\x28\xb5\x2f\xfd": "a zstd archive"}
    found = next((words for begin, words in known.items() if head.startswith(begin)), "")
    if head[257:262] == b"ustar":
        found = "a tar archive"
    if not head.strip(b"\0"):
        return "empty and no checkpoint file"
    if not found:
        return "no checkpoint file"
    return f"{found} and no checkpoint file" + ("; unpack it first" if found.endswith("archive") else "")


def _torchscript(path: str | Path) -> Any:
    """The tensors of a TorchScript file, nested as its modules are; its code is not read."""
    with zipfile.ZipFile(path) as archive:
        place = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")

        class Reader(InertUnpickler):
            def find_class(self, module: str, name: str) -> Any:
                storage = getattr(torch, name, None) if module == "torch" and name.endswith("Storage") else None
                if storage is not None:
                    return storage
                return _viewed if name == "_rebuild_tensor_v2" else super().find_class(module, name)

            def persistent_load(self, name: Any) -> Tensor:
                _, storage, key, _, _ = name
                data = bytearray(archive.read(f"{place}data/{key}"))
                return torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)

        with archive.open(f"{place}data.pkl") as file:
            return Reader(file).load()


def _viewed(flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return flat.as_strided(size, stride, offset).clone()


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
