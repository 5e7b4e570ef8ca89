"""A denoiser that gets more residual blocks, and at first draws what it drew: the new blocks begin as identities."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_BLOCK = re.compile(r"(unet\.(down|up)_blocks\.\d+\.(?:resnets|attentions)\.)(\d+)(\..+)")
_LAST = (".conv2.weight", ".conv2.bias", ".to_out.0.weight", ".to_out.0.bias")
"""Of what a block adds to its input: with these at zero it adds nothing."""


def deepened(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor], before: int, after: int) -> dict[str, Tensor]:
    """Weights of a RepresentationUNet of `before` residual blocks per resolution, for one of `after`.

    `own` are the initial weights of the deeper one. On the way down the new blocks follow the old ones, and pass on
    what these gave; on the way up, where each block is given what one of the way down gave, they follow the first.
    """
    added, weights = after - before, {}
    new = {"down": range(before, after), "up": range(1, 1 + added)}
    for name, weight in theirs.items():
        found = _BLOCK.fullmatch(name)
        later = added if found and found[2] == "up" and int(found[3]) > 0 else 0
        weights[f"{found[1]}{int(found[3]) + later}{found[4]}" if found else name] = weight
    for name, weight in own.items():
        found = _BLOCK.fullmatch(name)
        if found and int(found[3]) in new[found[2]]:
            weights[name] = _identity(name, weight)
    return weights


def _identity(name: str, weight: Tensor) -> Tensor:
    """The initial weight of a block that gives what it is given, or of a way up the first of its two inputs."""
    if name.endswith(_LAST) or name.endswith(".conv_shortcut.bias"):
        return torch.zeros_like(weight)
    if name.endswith(".conv_shortcut.weight"):
        passed = torch.zeros_like(weight)
        passed[:, : len(weight), 0, 0] = torch.eye(len(weight))
        return passed
    return weight
