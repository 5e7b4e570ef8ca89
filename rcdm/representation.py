"""A source: a frozen network cut at a level, together with its own preprocessing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from rcdm import images as im


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
    """A backbone and its projector, where it has one: normalised images [B,3,H,W] -> h [B,D] -> z [B,P]."""

    def __init__(self, backbone: nn.Module, projector: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, x: Tensor) -> Tensor:
        h = self.backbone(x)
        return h if self.projector is None else self.projector(h)

    def levels(self) -> tuple[str, ...]:
        """Names of the places where the network can be cut, in order of depth."""
        stages = [name for name, _ in self.backbone.named_children() if re.fullmatch(r"layer\d+", name)]
        if self.projector is None:
            return (*stages, "backbone")
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
