"""A GPU that is not there: tensors that say `cuda` and lie on the CPU, and refuse to be mixed with those of the CPU.

CUDA's own arithmetic is not tried so, but what is forgotten on the other device is found where no GPU is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU, VMAP = torch.device("cuda", 0), torch.vmap
MADE = {
    *(torch.zeros, torch.ones, torch.empty, torch.full, torch.tensor, torch.as_tensor, torch.arange, torch.linspace),
    *(torch.eye, torch.rand, torch.randn, torch.randint, torch.randperm),
    *(torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like, torch.rand_like, torch.randn_like),
}
"""Functions that make a tensor where `device` says."""
MOVED = {Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.type}
TENSORS = {"data", "grad", "T", "mT", "H", "real"}
"""Attributes of a tensor that are tensors."""
TOLD = {
    *("item", "tolist", "dim", "numel", "size", "stride", "storage_offset", "element_size", "is_contiguous"),
    *("is_floating_point", "is_complex", "backward", "ndimension", "nelement", "__len__", "__float__", "__int__"),
    *("__bool__", "__index__", "__repr__", "__format__"),
}
"""Methods whose result is no tensor."""


class OnGPU(Tensor):
    """A tensor that says `cuda`; what it holds is `inner`."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGPU:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=GPU)  # type: ignore[attr-defined]

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise NotImplementedError(f"The pretended GPU does not know {func}.")


def bare(x: Any) -> Any:
    return x.inner if isinstance(x, OnGPU) else x


def on_gpu(x: Any) -> Any:
    return OnGPU(x) if isinstance(x, Tensor) and not isinstance(x, OnGPU) else x


def _names(x: Any, kind: str) -> bool:
    return x in (kind, f"{kind}:0") if isinstance(x, str) else isinstance(x, torch.device) and x.type == kind


class _Pretend(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat, form = tree_flatten((args, kwargs))
        there = [x for x in flat if isinstance(x, OnGPU)]
        name = getattr(func, "__name__", "")
        if func is torch.device or name == "_parse_to" or not (there or any(_names(x, "cuda") for x in flat)):
            return func(*args, **kwargs)
        positional, named = tree_unflatten([torch.device("cpu") if _names(x, "cuda") else bare(x) for x in flat], form)
        if name == "__get__" and func.__self__.__name__ in ("device", "is_cuda"):
            return GPU if func.__self__.__name__ == "device" else True
        if func in MADE or func in MOVED:
            return (on_gpu if self._goes_there(func, args, kwargs) else bare)(func(*positional, **named))
        self._refuse(name, flat, args)
        found = func(*positional, **named)
        if name == "__get__":
            return tree_map(on_gpu, found) if func.__self__.__name__ in TENSORS else found
        if name in TOLD:
            return found
        if name == "__iter__":
            return iter([OnGPU(x) for x in positional[0]])
        if there and args and found is bare(args[0]):  # changed in its place
            return args[0]
        return tree_map(on_gpu, found)

    @staticmethod
    def _goes_there(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        asked = [*args[1:], *kwargs.values()] if func in MOVED else [kwargs.get("device")]
        if func in (Tensor.cuda, Tensor.cpu):
            return func is Tensor.cuda
        if any(_names(x, kind) for x in asked for kind in ("cuda", "cpu")):
            return any(_names(x, "cuda") for x in asked)
        like = next((x for x in asked if isinstance(x, Tensor)), *args[:1] or (None,))
        return isinstance(like, OnGPU)

    @staticmethod
    def _refuse(name: str, flat: list[Any], args: tuple[Any, ...]) -> None:
        """As CUDA does: numbers without dimensions may lie anywhere, indices on the CPU, too."""
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        if name in ("__get__", "__set__", "copy_", "__setitem__") or (
            name == "__getitem__" and isinstance(args[0], OnGPU)
        ):
            return
        dimensions = {isinstance(x, OnGPU) for x in flat if isinstance(x, Tensor) and x.dim()}
        if len(dimensions) > 1:
            raise RuntimeError(f"Expected all tensors to be on the same device: {name}")


def _module_to(plain: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if not any(_names(x, "cuda") for x in (*args, *kwargs.values())):
            return plain(self, *args, **kwargs)
        for module in self.modules():
            for held in (module._parameters, module._buffers):
                held.update({key: on_gpu(x.detach()) for key, x in held.items() if x is not None})
        return self

    return to


def _many(function: Callable[[Tensor], Tensor], **_: Any) -> Callable[[Tensor], Tensor]:
    """`torch.vmap`, which takes no index of the CPU for a tensor of the GPU."""

    def run(rows: Tensor) -> Tensor:
        kinds = []

        def one(row: Tensor) -> Tensor:
            found = function(OnGPU(row) if isinstance(rows, OnGPU) else row)
            kinds.append(type(found))
            return bare(found)

        found = VMAP(one)(bare(rows))
        if isinstance(rows, OnGPU) != (kinds[0] is OnGPU):
            raise RuntimeError("Expected all tensors to be on the same device: vmap")
        return OnGPU(found) if kinds[0] is OnGPU else found

    return run


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Within it `device="cuda"` is a GPU that is not there."""
    with pytest.MonkeyPatch.context() as patch, _Pretend():
        patch.setattr(nn.Module, "to", _module_to(nn.Module.to))
        patch.setattr(torch, "vmap", _many)
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**33, 2**34))
        yield
