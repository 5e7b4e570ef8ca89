"""Photographs as a data set in memory: decoded once, every image once per epoch."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rcdm.data import images as im
from rcdm.data.dataset_protocol import Batch, Epochs

log = logging.getLogger(__name__)


class Photographs:
    """Images decoded once into one uint8 array [N,3,S,S]; `labels` int64 [N]. `held_out` is not trained on.

    `left_out` has a sentence for every image that could not be decoded.
    """

    def __init__(
        self,
        train: Pixels,
        held_out: Pixels,
        *,
        name: str,
        classes: int,
        seed: int = 0,
        left_out: Sequence[str] = (),
    ) -> None:
        self._train, self._held_out, self.left_out = train, held_out, tuple(left_out)
        self.name, self.size, self.classes, self.seed = name, train.images.shape[-1], classes, seed
        self.n_train = len(train.images)
        self._epochs = Epochs(self.n_train, seed, lambda stream: torch.randperm(self.n_train, generator=stream))
        self._device = torch.device("cpu")
        self._digest: str | None = None

    def to(self, device: torch.device | str) -> Photographs:
        """Batches come on the device; pixels that would fill a third of a GPU's memory stay behind until then."""
        self._device = torch.device(device)
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            if self._train.images.nbytes > free / 3:
                return self
        self._train, self._held_out = self._train.to(device), self._held_out.to(device)
        return self

    def batch(self, step: int, batch_size: int) -> Batch:
        """Every image once per epoch, in an order that (seed, epoch) fixes."""
        return self.take(self._epochs.rows(step, batch_size))

    def take(self, rows: Tensor) -> Batch:
        """Training images by number, int64 [B] below `n_train`."""
        return self._train.take(rows, self._device)

    def fingerprint(self) -> str:
        """SHA-256 of the training pixels, in their order; computed once."""
        if self._digest is None:
            self._digest = hashlib.sha256(self._train.images.cpu().contiguous().numpy().data).hexdigest()
        return self._digest

    def held_out(self, n: int) -> Batch:
        """The first n of the held-out images, fewer where there are not so many."""
        return self._held_out.take(torch.arange(min(n, len(self._held_out.images))), self._device)


class Pixels(NamedTuple):
    """Decoded images, uint8 [N,3,S,S], with their labels, int64 [N]."""

    images: Tensor
    labels: Tensor

    def take(self, rows: Tensor, device: torch.device) -> Batch:
        """The images of these rows, float32 in [-1,1], on a device."""
        rows = rows.to(self.images.device)
        return Batch(self.images[rows].to(device).float() / 127.5 - 1, self.labels[rows].to(device), rows.to(device))

    def to(self, device: torch.device | str) -> Pixels:
        return Pixels(self.images.to(device), self.labels.to(device))


def split(pixels: Pixels, *, held_out_share: float = 0.1) -> tuple[Pixels, Pixels]:
    """Training images and held-out ones by a fixed shuffle. Raises ValueError for fewer than 2 images."""
    n = len(pixels.images)
    if n < 2:
        raise ValueError(f"There are {n} images; at least 2 are needed, better thousands.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    n_train = min(n - 1, round(n * (1 - held_out_share)))
    train, held_out = order[:n_train], order[n_train:]
    return Pixels(pixels.images[train], pixels.labels[train]), Pixels(pixels.images[held_out], pixels.labels[held_out])


def mixed(pixels: Pixels) -> Pixels:
    """In a fixed mixed order, where they lie in the order of their labels: the first n are then of every class.

    They do where neighbours differ in their labels less than half as often as by chance.
    """
    labels = pixels.labels
    by_chance = 1 - (labels.unique(return_counts=True)[1] / len(labels)).square().sum()
    if by_chance == 0 or float((labels.diff() != 0).float().mean()) > 0.5 * float(by_chance):
        return pixels
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return Pixels(pixels.images[order], labels[order])


def decode_square(source: Path | bytes, size: int) -> np.ndarray:
    """An encoded image -> its centre crop, uint8 [3,size,size]. Raises ValueError for what is no whole image."""
    return np.asarray(im.centre_crop(im.decode(source), size)).transpose(2, 0, 1)


def decode_all(sources: list[Path] | list[bytes], size: int) -> tuple[Tensor, list[int], list[str]]:
    """Centre crops, uint8 [N,3,size,size]; the places of their sources; a sentence for each that cannot be decoded.

    Those are left out, which is said in the log. Raises ValueError where none is left.
    """
    pixels = np.empty((len(sources), 3, size, size), np.uint8)
    kept: list[int] = []
    broken: list[str] = []

    def decoded(source: Path | bytes) -> np.ndarray | str:
        try:
            return decode_square(source, size)
        except ValueError as error:
            return f"{source}: {error}" if isinstance(source, Path) else str(error)

    with ThreadPoolExecutor() as pool:
        arrays = pool.map(decoded, sources)
        for k, array in enumerate(tqdm(arrays, total=len(sources), desc="decoding images", leave=False)):
            if isinstance(array, str):
                broken.append(array if isinstance(sources[k], Path) else f"image {k}: {array}")
            else:
                pixels[len(kept)] = array
                kept.append(k)
    if broken and not kept:
        raise ValueError(f"None of {len(sources)} images can be read; the first: {broken[0]}")
    if broken:
        log.warning(
            "%d of %d images cannot be read and are left out; the first: %s", len(broken), len(sources), broken[0]
        )
    return torch.from_numpy(pixels[: len(kept)]), kept, broken
