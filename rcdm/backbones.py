"""Backbones by name: how each is built. A backbone maps normalised images [B,3,H,W] to representations [B,D]."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1


class SmallResNet(nn.Module):
    """A ResNet of basic blocks for small images: 3x3 stem without max-pool, stages `layer1 … layer4`, average pool.

    Stage k has `width * 2**k` channels; the representation has `8 * width` dimensions, all >= 0. He et al. 2015
    (arXiv 1512.03385), with the stem that is usual for images of 32 and 64 pixels.
    """

    def __init__(self, width: int = 16, blocks: Sequence[int] = (1, 1, 1, 1), stem_stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride=stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for k, depth in enumerate(blocks):
            stage = [_block(channels, width * 2**k, stride=1 if k == 0 else 2)]
            channels = width * 2**k
            stage += [_block(channels, channels, stride=1) for _ in range(depth - 1)]
            self.add_module(f"layer{k + 1}", nn.Sequential(*stage))
        self.out_features = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] normalised -> [B, out_features]."""
        x = torch.relu(self.bn1(self.conv1(x)))
        for name, stage in self.named_children():
            if name.startswith("layer"):
                x = stage(x)
        return x.mean((2, 3))


def _block(channels: int, out_channels: int, *, stride: int) -> BasicBlock:
    shortcut = None
    if stride != 1 or channels != out_channels:
        shortcut = nn.Sequential(conv1x1(channels, out_channels, stride), nn.BatchNorm2d(out_channels))
    return BasicBlock(channels, out_channels, stride, shortcut)


def resnet50() -> nn.Module:
    """torchvision's ResNet-50 without its classifier: [B,3,H,W] -> [B,2048], all >= 0."""
    network = torchvision.models.resnet50()
    network.fc = nn.Identity()
    return network


BACKBONES: dict[str, Callable[..., nn.Module]] = {"small_resnet": SmallResNet, "resnet50": resnet50}
"""Name in a source's config.json -> constructor; its keyword arguments stand beside the name."""


def build_backbone(name: str, **arguments: object) -> nn.Module:
    """A backbone with random weights. Raises ValueError for an unknown name."""
    if name not in BACKBONES and ":" in name:
        raise ValueError(
            f"This checkpoint was trained with the backbone {name}: give it with --backbone {name}, or call "
            f"rcdm.own_backbone.register({name!r}) first."
        )
    if name not in BACKBONES:
        raise ValueError(f"There is no backbone {name!r}; choose one of {', '.join(BACKBONES)}.")
    return BACKBONES[name](**arguments)
