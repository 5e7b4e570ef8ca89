"""Projectors rebuilt from their tensors alone: the shapes say which layers there are, the names their order."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh, "none": nn.Identity
}  # fmt: skip
"""Name -> what stands between the layers of a projector."""


def projector_from(tensors: dict[str, Tensor], activation: str = "relu") -> nn.Sequential:
    """An MLP from its weights: `K.I.weight` is layer I of block K; all blocks but the last end in the activation.

    A matrix is a Linear layer, a vector with running statistics a BatchNorm, one without a LayerNorm. Raises ValueError
    for anything else.
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
        elif weight is not None and weight.ndim == 1:
            layer = nn.LayerNorm(len(weight), bias=f"{k}.{i}.bias" in tensors)
        else:
            raise ValueError(f"projector.{k}.{i} is neither a linear layer nor a batch norm.")
        blocks.setdefault(k, []).append(layer)
    last = max(blocks)
    projector = nn.Sequential(
        *(nn.Sequential(*layers, *([ACTIVATIONS[activation]()] if k != last else [])) for k, layers in blocks.items())
    )
    projector.load_state_dict(tensors)
    return projector


def norms_come_first(tensors: Mapping[str, Tensor]) -> bool | None:
    """Whether the norm of a number precedes the linear layer of that number, as their widths tell (`norm1`, `fc1`).

    None where only the names could say so: all these layers are as wide as what they read. False without such names.
    """
    layers = {name.removesuffix(".weight"): t.shape for name, t in tensors.items() if name.endswith(".weight")}
    places = {_place(name): name for name in layers if re.search(r"(fc|linear|bn|norm)_?\d+$", name)}
    pairs = [
        (layers[norm][0], *layers[places[*number, 0]])
        for (*number, kind), norm in places.items()
        if kind == 1 and len(layers.get(places.get((*number, 0), ""), ())) == 2
    ]
    told = {width == wide_in for width, wide_out, wide_in in pairs if wide_in != wide_out}
    return (told == {True}) if told or not pairs else None


def in_blocks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An MLP's tensors, in the file's order of Linear, BatchNorm and activation -> named `BLOCK.LAYER.weight`.

    The numbers in the names are read in order, whatever stands between them: `0.weight`, `1.clf.0.weight`. An
    activation has no tensors: it stands where the numbering leaves a gap (`0`, `1`, `3`), or where the names number
    blocks themselves (`0.0`, `0.1`, `1.0`, or `fc0`, `bn0`, `fc1`), between two of them, and between two matrices,
    which would be one otherwise. `bn0` follows `fc0`, unless `norms_come_first`. Raises ValueError when the names
    do not say the order, and for other layers.
    """
    if others := [name for name in tensors if name.rpartition(".")[2] not in _OF_LAYERS]:
        raise ValueError(f"{others[0]} is no tensor of a linear layer or a norm (weight_norm: remove it before saving)")
    prefixes = {name.rpartition(".")[0] for name in tensors}
    first = bool(norms_come_first(tensors))
    places = {_place(prefix, first): prefix for prefix in prefixes}
    if len(places) < len(prefixes) or len({len(place) for place in places}) > 1:
        raise ValueError(f"The order of the projector's layers cannot be told from {', '.join(sorted(prefixes))}.")
    result: dict[str, Tensor] = {}
    block, layer, before, after_matrix = -1, 0, tuple[int, ...](), False
    for place in sorted(places):
        prefix = f"{places[place]}." if places[place] else ""
        follows = bool(before) and place[:-1] == before[:-1] and place[-1] == before[-1] + 1
        matrix = tensors.get(f"{prefix}weight", torch.empty(0)).ndim == 2
        follows = follows and not (matrix and after_matrix)
        after_matrix = matrix
        block, layer, before = (block, layer + 1, place) if follows else (block + 1, 0, place)
        for end in ("weight", "bias", "running_mean", "running_var"):
            if f"{prefix}{end}" in tensors:
                result[f"{block}.{layer}.{end}"] = tensors[f"{prefix}{end}"]
        if f"{prefix}running_mean" in tensors:
            result[f"{block}.{layer}.num_batches_tracked"] = torch.zeros((), dtype=torch.long)
    return result


_OF_LAYERS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _place(prefix: str, norms_first: bool = False) -> tuple[int, ...]:
    """The numbers in a name; `fc1` and `bn1` are the first and second layer of block 1, or the other way round."""
    numbers = tuple(int(part) for part in prefix.split(".") if part.isdigit())
    named = re.fullmatch(r"(?:(fc|linear)|bn|norm)_?(\d+)", prefix.rpartition(".")[2])
    return (*numbers, int(named[2]), int(bool(named[1]) == norms_first)) if named else numbers
