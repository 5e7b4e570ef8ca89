"""Finished parts of a long computation, kept in a folder until the whole is done.

Who computes asks for a part with `part`; whether anything is kept, and where, is decided from outside with `keeping`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from rcdm.diffusion.guidance_settings import Guidance
    from rcdm.diffusion.pipeline import RCDMPipeline

Inputs = Mapping[str, Any]
"""Name -> a tensor, or what `repr` tells apart: numbers, strings, lists of them, None."""


class Parts:
    """Tensors by everything that they depend on: what was computed once is read from the folder again.

    A part is complete or not there. `identity` stands for what all parts depend on, such as the weights.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: str = "") -> None:
        self.folder, self.identity = Path(folder), identity
        self.reused = 0
        """How many parts were found finished."""

    def get(self, name: str, inputs: Inputs, compute: Callable[[], Tensor]) -> Tensor:
        """The part of these inputs: read on the CPU if it is there, else computed and written."""
        file = self.folder / f"{name}-{digest({'identity': self.identity, **inputs})[:32]}.safetensors"
        if file.is_file():
            try:
                kept = load_file(file)["part"]
            except (SafetensorError, KeyError):
                file.unlink(missing_ok=True)  # damaged: it is computed again
            else:
                self.reused += 1
                return kept
        part = compute().detach().cpu().contiguous()
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        save_file({"part": part}, partial)
        partial.replace(file)
        return part

    def __len__(self) -> int:
        return len(list(self.folder.glob("*.safetensors")))

    def clear(self) -> None:
        """Delete all parts, and the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


_kept: ContextVar[Parts | None] = ContextVar("parts", default=None)


@contextmanager
def keeping(parts: Parts | None) -> Iterator[None]:
    """Inside, in this thread, `part` and `json_part` look in these parts first, and add to them; None keeps nothing."""
    token = _kept.set(parts)
    try:
        yield
    finally:
        _kept.reset(token)


def part(name: str, inputs: Inputs, compute: Callable[[], Tensor]) -> Tensor:
    """The tensor of these inputs: `Parts.get` inside `keeping`, elsewhere just computed."""
    parts = _kept.get()
    return compute() if parts is None else parts.get(name, inputs, compute)


def json_part(name: str, inputs: Inputs, compute: Callable[[], Any]) -> Any:
    """`part` for what JSON holds: numbers, text, lists, and dicts with names; each comes back as it was."""
    if _kept.get() is None:
        return compute()

    def written() -> Tensor:
        return torch.frombuffer(bytearray(json.dumps(compute()).encode()), dtype=torch.uint8)

    return json.loads(part(name, inputs, written).numpy().tobytes())


def digest(inputs: Inputs) -> str:
    """SHA-256 over names and values, tensors by type, shape and bytes: hex."""
    total = hashlib.sha256()
    for name, value in inputs.items():
        total.update(f"{name}:".encode())
        if isinstance(value, Tensor):
            total.update(f"{value.dtype}{list(value.shape)}".encode())
            total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            total.update(repr(value).encode())
        total.update(b"\n")
    return total.hexdigest()


def guidance_inputs(pipe: RCDMPipeline, guidance: Sequence[Guidance]) -> dict[str, Any]:
    """What draws that are guided so depend on, beside denoiser and sources: inputs of a part."""
    led = pipe.regressor is not None and any(one.strength for one in guidance)
    return {
        "guidance": [one.to_json() for one in guidance],
        "interval": pipe.config.guidance_interval,
        "regressor": weights_digest(pipe.regressor) if led and pipe.regressor is not None else "",
    }


def weights_digest(*modules: nn.Module) -> str:
    """SHA-256 over all parameters and buffers of modules, with their names: hex."""
    return digest({f"{i}.{name}": value for i, m in enumerate(modules) for name, value in m.state_dict().items()})
