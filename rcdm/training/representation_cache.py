"""Representations of all training images, computed once: training then reads vectors instead of running networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from rcdm.data.dataset_protocol import NumberedDataset
from rcdm.networks.sources import Sources, runs

_BATCH = 256
_STATISTICS_ROWS = 2**16
LARGEST = torch.finfo(torch.float16).max


class Table(Protocol):
    """fp16 [V,N,D], in memory or in files: the N training images as they are and, with V = 2, mirrored."""

    shape: tuple[int, int, int]

    def take(self, views: Tensor, rows: Tensor) -> Tensor:
        """int64 [B] each, on any device -> fp16 [B,D] on the device of the sources."""


class RepresentationCache:
    """Representations by source, view and row; `in_memory` or `representation_folder.in_folder` makes one."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = dict(tables)

    def __call__(self, names: Sequence[str], rows: Tensor, flipped: Tensor | None = None) -> Tensor:
        """One name and one row of the training images per entry -> [B, widest] float32, padded with zeros.

        `flipped` [B] bool takes the mirrored image.
        """
        widest = max(self._tables[name].shape[2] for name in set(names))
        h = torch.zeros(len(rows), widest, device=rows.device)
        views = torch.zeros_like(rows) if flipped is None else flipped.long()
        for name, part in runs(names):
            h[part, : self._tables[name].shape[2]] = self._tables[name].take(views[part], rows[part]).float()
        return h

    def sample(self, name: str) -> Tensor:
        """Representations [N,D] of the training images: of 65,536 spread evenly where there are more.

        Both views of each where there are two.
        """
        table = self._tables[name]
        views, n, _ = table.shape
        rows = torch.linspace(0, n - 1, min(n, _STATISTICS_ROWS), dtype=torch.float64).round().long()
        return torch.cat([table.take(torch.full_like(rows, view), rows).float() for view in range(views)])


class _InMemory:
    def __init__(self, table: Tensor) -> None:
        self._table = table
        self.shape = (table.shape[0], table.shape[1], table.shape[2])

    def take(self, views: Tensor, rows: Tensor) -> Tensor:
        return self._table[views.to(self._table.device), rows.to(self._table.device)]


def in_memory(sources: Sources, dataset: NumberedDataset, *, mirrored: bool) -> RepresentationCache:
    """All representations of the training images, on the device of the sources."""
    shape = (1 + mirrored, dataset.n_train)
    tables = {
        name: torch.empty(*shape, width, dtype=torch.float16, device=sources.device)
        for name, width in sources.widths().items()
    }
    for rows, parts in representations(sources, dataset, range(dataset.n_train), sources.names, mirrored=mirrored):
        for name, h in parts.items():
            tables[name][:, rows.start : rows.stop] = h
    return RepresentationCache({name: _InMemory(table) for name, table in tables.items()})


def representations(
    sources: Sources, dataset: NumberedDataset, rows: range, names: Sequence[str], *, mirrored: bool
) -> Iterator[tuple[range, dict[str, Tensor]]]:
    """(rows, name -> fp16 [V,B,D]) for these training images, in pieces; the next ones are read meanwhile.

    Raises ValueError for numbers that half precision does not hold.
    """
    pieces = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(dataset.take, torch.tensor(pieces[0]))
        for k, piece in enumerate(tqdm(pieces, desc="before training, all images are read", unit="batch", leave=False)):
            images = ahead.result().images
            if k + 1 < len(pieces):
                ahead = reader.submit(dataset.take, torch.tensor(pieces[k + 1]))
            views = [sources.encode_all(x, names) for x in ([images, images.flip(3)] if mirrored else [images])]
            by_name = {name: torch.stack([view[name] for view in views]) for name in names}
            for name, h in by_name.items():
                if not (h.abs() <= LARGEST).all():
                    raise ValueError(f"{name} gives numbers that half precision does not hold: it cannot be cached.")
            yield piece, {name: h.half() for name, h in by_name.items()}
