"""What every level of a network holds: representations of many images, and whether a transformation shows in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from rcdm.data.transformations import TELLING
from rcdm.measures.metrics import Number
from rcdm.measures.probes import linear_probe
from rcdm.networks.representation import OpenNetwork, Preprocessing, SSLNetwork

Encode = Callable[[Tensor], dict[str, Tensor]]
"""Images [N,3,H,W] in [-1,1] -> name of a level or source -> [N,D]."""


def levels_with(network: SSLNetwork | OpenNetwork, others: Iterable[str]) -> tuple[str, ...]:
    """The levels of a network by default, and others (`blocks.11@mean`), each behind the one that it lies in."""
    names = list(network.levels())
    for level in others:
        if level not in names:
            place = max((i for i, name in enumerate(names) if level.startswith(name)), default=len(names) - 1)
            names.insert(place + 1, level)
    return tuple(names)


@torch.no_grad()
def levels_of(
    network: SSLNetwork | OpenNetwork,
    preprocessing: Preprocessing,
    images: Tensor,
    change: Callable[[Tensor], Tensor] = lambda images: images,
    levels: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """[N,3,H,W] in [-1,1], changed a part at a time -> level -> [N,D], on the device of the network.

    Its levels by default, or those that are named.
    """
    levels = network.levels() if levels is None else levels
    device = next(network.parameters()).device
    parts = [network.all_levels(preprocessing(change(chunk.to(device))), levels) for chunk in images.split(500)]
    return {level: torch.cat([part[level] for part in parts]) for level in levels}


def transformation_probe(
    encode: Encode,
    train: Tensor,
    test: Tensor,
    name: str,
    *,
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3),
) -> dict[str, Number]:
    """Accuracy at telling which case of a transformation was applied, from h alone; one probe per entry of `encode`.

    Learnt on images `train` [N,3,H,W], measured on `test` [M,3,H,W], which the intervals are over; null: chance among
    the cases. `name` is one of
    `transformations.TELLING`; `penalties` are those of `probes.linear_probe`.
    """
    transform, cases = TELLING[name]
    parts = []
    for images in (train, test):
        seen = [encode(transform(images, k)) for k in range(cases)]
        h = {key: torch.cat([part[key] for part in seen]) for key in seen[0]}
        labels = torch.arange(cases, device=next(iter(h.values())).device).repeat_interleave(len(images))
        parts.append((h, labels))
    (h_train, labels), (h_test, labels_test) = parts
    return {
        key: linear_probe(h_train[key], labels, h_test[key], labels_test, penalties=penalties, cases=cases)
        for key in h_train
    }
