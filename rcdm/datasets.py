"""Images to train on: the drawn world, or photographs from a folder or parquet files.

A dataset is a pure function of (step, batch size): nothing has to be saved to continue an interrupted run.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rcdm import images as im
from rcdm import sprites

HELD_OUT_SEED = 2**31
"""Sprites drawn from this seed on are never trained on: every held-out number uses them."""


class Batch(NamedTuple):
    images: Tensor  # float32 [B,3,S,S] in [-1,1]
    labels: Tensor  # int64 [B]


class Dataset(Protocol):
    """`batch` gives training images; `held_out` gives images that `batch` never gives."""

    name: str
    size: int
    classes: int

    def batch(self, step: int, batch_size: int) -> Batch: ...

    def held_out(self, n: int) -> Batch: ...


class Sprites:
    """The drawn world: endless fresh images; the label is the shape."""

    def __init__(self, size: int, *, seed: int = 0) -> None:
        self.name, self.size, self.classes, self.seed = "sprites", size, len(sprites.SHAPES), seed

    def batch(self, step: int, batch_size: int) -> Batch:
        return self._draw(batch_size, (self.seed * 1_000_003 + step) % HELD_OUT_SEED)

    def held_out(self, n: int) -> Batch:
        return self._draw(n, HELD_OUT_SEED)

    def _draw(self, n: int, seed: int) -> Batch:
        factors = sprites.sample_factors(n, seed)
        return Batch(sprites.render(factors, self.size), factors.shape)


class Photographs:
    """Images decoded once into one uint8 array [N,3,S,S]; the last `held_out_share` of a fixed shuffle is held out."""

    def __init__(
        self, pixels: Tensor, labels: Tensor, *, name: str, classes: int, seed: int = 0, held_out_share: float = 0.1
    ) -> None:
        if len(pixels) < 2:
            raise ValueError(f"{name} holds {len(pixels)} images; at least 2 are needed, better thousands.")
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
        n_train = min(len(pixels) - 1, round(len(pixels) * (1 - held_out_share)))
        self._train, self._held_out = order[:n_train], order[n_train:]
        self._pixels, self._labels = pixels, labels
        self.name, self.size, self.classes, self.seed = name, pixels.shape[-1], classes, seed

    def batch(self, step: int, batch_size: int) -> Batch:
        """Every image once per epoch, in an order that (seed, epoch) fixes."""
        n = len(self._train)
        places = range(step * batch_size, (step + 1) * batch_size)
        orders = {epoch: self._order(epoch) for epoch in {place // n for place in places}}
        return self._take(self._train[torch.stack([orders[place // n][place % n] for place in places])])

    def held_out(self, n: int) -> Batch:
        return self._take(self._held_out[:n])

    def _order(self, epoch: int) -> Tensor:
        stream = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self._train), generator=stream)

    def _take(self, rows: Tensor) -> Batch:
        return Batch(self._pixels[rows].float() / 127.5 - 1, self._labels[rows])


def load_dataset(name: str, size: int, *, seed: int = 0) -> Dataset:
    """`sprites`, a folder of images (sub-folders are classes), a parquet file, or a folder of parquet files.

    A parquet file has a column `image` (encoded bytes, or a struct with `bytes`) and may have an integer `label`.
    Raises ValueError, saying what was looked for, when no image is found.
    """
    if name == "sprites":
        return Sprites(size, seed=seed)
    path = Path(name)
    if path.suffix == ".parquet" and path.is_file():
        return _from_parquet([path], size, seed)
    if not path.is_dir():
        raise ValueError(f"{name} is neither 'sprites' nor a folder of images nor a .parquet file.")
    shards = sorted(path.glob("*.parquet"))
    training = [s for s in shards if s.name.startswith("train")]
    return _from_parquet(training or shards, size, seed) if shards else _from_folder(path, size, seed)


def _from_folder(folder: Path, size: int, seed: int) -> Photographs:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in im.IMAGE_EXTENSIONS)
    if not files:
        raise ValueError(f"{folder} holds no image files and no .parquet files.")
    names = sorted({str(f.parent) for f in files})
    labels = torch.tensor([names.index(str(f.parent)) for f in files])
    pixels = _decode_all(files, size)
    return Photographs(pixels, labels, name=folder.name, classes=len(names), seed=seed)


def _from_parquet(shards: list[Path], size: int, seed: int) -> Photographs:
    import pyarrow.parquet as pq

    encoded: list[bytes] = []
    labels: list[int] = []
    for shard in shards:
        table = pq.read_table(shard)
        if "image" not in table.column_names:
            raise ValueError(f"{shard} has no column 'image'; its columns are {', '.join(table.column_names)}.")
        cells = table.column("image").to_pylist()
        encoded += [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
        labels += table.column("label").to_pylist() if "label" in table.column_names else [0] * len(cells)
    pixels = _decode_all(encoded, size)
    name = shards[0].parent.name if len(shards) > 1 else shards[0].stem
    return Photographs(pixels, torch.tensor(labels), name=name, classes=max(labels) + 1, seed=seed)


def _decode_all(sources: list[Path] | list[bytes], size: int) -> Tensor:
    """Centre crops, uint8 [N,3,size,size]."""

    def one(source: Path | bytes) -> np.ndarray:
        return np.asarray(im.centre_crop(im.decode(source), size)).transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        arrays = list(tqdm(pool.map(one, sources), total=len(sources), desc="decoding images", leave=False))
    return torch.from_numpy(np.stack(arrays))
