"""The probe table of a pretrained network: ridge R² per attribute and level, on held-out images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rcdm.data import sprites
from rcdm.data.dataset_protocol import Dataset, first_images
from rcdm.data.sprites import HELD_OUT_SEED, Sprites
from rcdm.measures.probes import ridge_probe
from rcdm.networks.representation import OpenNetwork, Preprocessing, RepresentationSource, SSLNetwork


def probe_table(
    network: SSLNetwork | OpenNetwork,
    dataset: Dataset,
    *,
    levels: tuple[str, ...] = ("backbone", "projector"),
    n: int = 4096,
) -> dict[str, Any]:
    """Level -> attribute -> R² (value, low, high, n, null 0), trained on n images, read on n / 4 held-out ones.

    On the drawn world the attributes are its factors, on photographs the one-hot label.
    """
    (images, phi), (images_test, phi_test) = _truth(dataset, n, held_out=False), _truth(dataset, n // 4, held_out=True)
    table: dict[str, Any] = {}
    for level in levels:
        source = RepresentationSource(level, network, level, Preprocessing(dataset.size))
        h, h_test = _encode(source, images), _encode(source, images_test)
        mean, std = h.mean(0), h.std(0).clamp(min=1e-6)
        h, h_test = (h - mean) / std, (h_test - mean) / std
        table[level] = {name: ridge_probe(h, phi[name], h_test, phi_test[name]).to_json() for name in phi}
    return table


def format_table(table: dict[str, Any]) -> str:
    """The values of `probe_table` as text, one row per level."""
    names = list(next(iter(table.values())))
    width = max(len(name) for name in names) + 2
    lines = [" " * 12 + "".join(name.rjust(width) for name in names)]
    for level, numbers in table.items():
        lines.append(level.ljust(12) + "".join(f"{numbers[name]['value']:{width}.3f}" for name in names))
    return "\n".join(lines)


@torch.no_grad()
def _encode(source: RepresentationSource, images: Tensor) -> Tensor:
    device = next(source.parameters()).device
    return torch.cat([source(chunk.to(device)).cpu() for chunk in images.split(256)])


def _truth(dataset: Dataset, n: int, *, held_out: bool) -> tuple[Tensor, dict[str, Tensor]]:
    if isinstance(dataset, Sprites):
        factors = sprites.sample_factors(n, HELD_OUT_SEED if held_out else dataset.seed)
        return sprites.render(factors, dataset.size), sprites.phi(factors)
    images, labels, _ = dataset.held_out(n) if held_out else first_images(dataset, n)
    return images, {"label": F.one_hot(labels, dataset.classes).float()}
