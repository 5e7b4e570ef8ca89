"""Representations of all training images, computed once: training then reads vectors instead of running networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from rcdm.datasets import Photographs
from rcdm.sources import Sources, runs


class RepresentationCache:
    """fp16 [V,N,D] per source on a device: the N training images as they are and, with `mirrored`, mirrored (V = 2)."""

    def __init__(self, sources: Sources, dataset: Photographs, *, mirrored: bool, batch_size: int = 256) -> None:
        views = 2 if mirrored else 1
        shape = (views, dataset.n_train)
        self._tables = {
            name: torch.empty(*shape, width, dtype=torch.float16, device=sources.device)
            for name, width in sources.widths().items()
        }
        rows = torch.arange(dataset.n_train)
        for chunk in tqdm(rows.split(batch_size), desc="representations", unit="batch", leave=False):
            images = dataset.take(chunk).images.to(sources.device)
            for view in range(views):
                for name, h in sources.encode_all(images.flip(3) if view else images).items():
                    self._tables[name][view, chunk[0] : chunk[-1] + 1] = h

    def __call__(self, names: Sequence[str], rows: Tensor, flipped: Tensor | None = None) -> Tensor:
        """One name and one row of the training images per entry -> [B, widest] float32, padded with zeros.

        `flipped` [B] bool takes the mirrored image; rows and flipped lie on the cache's device.
        """
        widest = max(self._tables[name].shape[2] for name in set(names))
        h = torch.zeros(len(rows), widest, device=rows.device)
        view = torch.zeros_like(rows) if flipped is None else flipped.long()
        for name, part in runs(names):
            table = self._tables[name]
            h[part, : table.shape[2]] = table[view[part], rows[part]].float()
        return h

    def statistics(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and deviation [D] of a source over all training images."""
        table = self._tables[name].flatten(0, 1).float()
        return table.mean(0), table.std(0)
