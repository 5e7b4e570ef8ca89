"""Images in tar shards (WebDataset): indexed once, then read from disk as they are needed, in any order.

A sample is the files of one name: `0001.jpg`, and `0001.cls` with its class as a number where there is one. Shards are
taken in a new order in every epoch, and images are shuffled within windows of neighbouring shards: reading stays near
one place. Which image comes when depends on (seed, place) alone: nothing has to be saved to continue.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rcdm.data import images as im
from rcdm.data.dataset_protocol import Batch, Epochs
from rcdm.data.downloads import cache_folder
from rcdm.data.in_memory import decode_square

log = logging.getLogger(__name__)

WINDOW = 2**15
"""Images among which is shuffled: those of the shards that are being read."""

_AHEAD = 2
"""Batches that are decoded before they are asked for."""

_DAMAGED_IN_A_ROW = 10


class TarShards:
    """Images of .tar files, decoded by threads while the device works.

    An image that cannot be decoded is named once in the log, and the next one stands in for it. Raises ValueError for
    shards that are no tar files, or hold no two images.
    """

    def __init__(self, shards: Sequence[Path], held_out_shards: Sequence[Path], size: int, *, seed: int = 0) -> None:
        self._files = [*shards, *held_out_shards]
        self._index = _index(self._files)
        if left_out := int(self._index.get("left_out", 0)):
            log.warning(
                "%d images are left out: up to the first dot of its name each is called as another one, as parts of a "
                "sample are. Rename them if they are samples of their own.",
                left_out,
            )
        self.name, self.size, self.seed = shards[0].resolve().parent.name, size, seed
        self.classes = 1 + int(self._index["label"].max())
        shard = torch.from_numpy(self._index["shard"]).long()
        if held_out_shards:
            training = shard < len(shards)
            self._rows = training.nonzero()[:, 0]
            held_out = (~training).nonzero()[:, 0]
            self._held_out = held_out[torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))]
        else:
            order = torch.randperm(len(shard), generator=torch.Generator().manual_seed(0))
            n_train = min(len(order) - 1, round(0.9 * len(order)))
            self._rows, self._held_out = order[:n_train].sort().values, order[n_train:]
        self.n_train = len(self._rows)
        self._epochs = Epochs(self.n_train, seed, shuffle_in_windows(shard[self._rows]))
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._ahead: dict[tuple[int, int], list[Future[np.ndarray]]] = {}
        self._last: int | None = None
        self._device = torch.device("cpu")

    def to(self, device: torch.device | str) -> TarShards:
        self._device = torch.device(device)
        return self

    def batch(self, step: int, batch_size: int) -> Batch:
        """Every image once per epoch; the batches that will follow, by the last two, are decoded meanwhile."""
        stride = step - self._last if self._last is not None else 0
        self._last = step
        keys = [(step + k * stride, batch_size) for k in range(1 + _AHEAD * (stride > 0))]
        ahead = {key: self._ahead.pop(key, []) or self._start(self._epochs.rows(*key)) for key in keys}
        for given_up in (future for futures in self._ahead.values() for future in futures):
            given_up.cancel()
        now = ahead.pop(keys[0])
        self._ahead = ahead
        return self._collect(self._epochs.rows(step, batch_size), now)

    def take(self, rows: Tensor) -> Batch:
        """Training images by number, int64 [B] below `n_train`."""
        rows = rows.cpu()
        return self._collect(rows, self._start(rows))

    def held_out(self, n: int) -> Batch:
        """The first n of the held-out images, in a fixed mixed order; fewer where there are not so many."""
        n = min(n, len(self._held_out))
        return self._stack(
            self._held_out[:n], [self._pool.submit(self._decode, self._held_out, row) for row in range(n)]
        )

    def fingerprint(self) -> str:
        """SHA-256 of where and how long each training image and each file is."""
        made_of = hashlib.sha256(self._rows.numpy().tobytes())
        for name in ("shard", "offset", "length"):
            made_of.update(self._index[name].tobytes())
        for file in self._files:
            made_of.update(f"{file.name} {file.stat().st_size}\n".encode())
        return made_of.hexdigest()

    def _start(self, rows: Tensor) -> list[Future[np.ndarray]]:
        return [self._pool.submit(self._decode, self._rows, row) for row in rows.tolist()]

    def _collect(self, rows: Tensor, pixels: list[Future[np.ndarray]]) -> Batch:
        return self._stack(self._rows[rows], pixels)._replace(rows=rows.to(self._device))

    def _stack(self, places: Tensor, pixels: list[Future[np.ndarray]]) -> Batch:
        labels = torch.from_numpy(self._index["label"])[places]
        images = torch.from_numpy(np.stack([future.result() for future in pixels]))
        return Batch(images.to(self._device).float() / 127.5 - 1, labels.to(self._device))

    def _decode(self, places: Tensor, row: int) -> np.ndarray:
        """Pixels of one of these places in the index, uint8 [3,S,S]; of the next that can be decoded."""
        for k in range(row, row + _DAMAGED_IN_A_ROW):
            place = int(places[k % len(places)])
            file = self._files[self._index["shard"][place]]
            offset, length = int(self._index["offset"][place]), int(self._index["length"][place])
            with open(file, "rb", buffering=0) as shard:
                shard.seek(offset)
                encoded = shard.read(min(length, im.MAX_BYTES + 1))
            try:
                return decode_square(encoded, self.size)
            except ValueError as error:
                log.warning("%s, byte %d: %s Another image stands in for it.", file, offset, error)
        raise ValueError(f"{file} holds {_DAMAGED_IN_A_ROW} images in a row that cannot be decoded.")


def shuffle_in_windows(shard: Tensor, window: int = WINDOW) -> Callable[[torch.Generator], Tensor]:
    """For rows whose shards are `shard` int64 [N], ascending: a stream -> an order of the rows, int64 [N].

    Shards are permuted, then rows within windows of that sequence.
    """
    _, counts = shard.unique_consecutive(return_counts=True)
    of_shard = torch.arange(len(shard)).split(counts.tolist())

    def order(stream: torch.Generator) -> Tensor:
        rows = torch.cat([of_shard[int(k)] for k in torch.randperm(len(of_shard), generator=stream)])
        return torch.cat([part[torch.randperm(len(part), generator=stream)] for part in rows.split(window)])

    return order


def _index(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """`shard`, `offset`, `length` and `label` of every image, in the order of the files; kept in the user's cache."""
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    kept = cache_folder() / "shards" / f"{hashlib.sha256(repr(stamps).encode()).hexdigest()[:32]}.npz"
    if kept.is_file():
        with np.load(kept) as arrays:
            return dict(arrays)
    with ThreadPoolExecutor() as pool:
        read = list(tqdm(pool.map(_read_headers, files), total=len(files), desc="indexing shards", leave=False))
    parts = [entries for entries, _ in read]
    columns = np.array([(k, *entry) for k, part in enumerate(parts) for entry in part], np.int64).reshape(-1, 4)
    if len(columns) < 2:
        raise ValueError(f"{files[0].parent} holds {len(columns)} images in .tar files; at least 2 are needed.")
    index = dict(zip(("shard", "offset", "length", "label"), np.ascontiguousarray(columns.T), strict=True))
    index["left_out"] = np.array(sum(left_out for _, left_out in read))
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, **index)
    partial.replace(kept)
    return index


def _read_headers(file: Path) -> tuple[list[tuple[int, int, int]], int]:
    """(offset, length, label) of every sample of a tar file, and how many images are left out. Nothing is extracted.

    A sample is what has one name up to the first dot, of which the first image is taken; the label is 0 where none is
    given.
    """
    left_out = 0
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                key, _, extension = base.partition(".")
                if not member.isreg() or member.issparse() or not key:
                    continue
                if extension == "cls":
                    labels[f"{folder}/{key}"] = _label(archive.extractfile(member), file, member)
                elif os.path.splitext(base)[1].lower() in im.IMAGE_EXTENSIONS:
                    left_out += f"{folder}/{key}" in images
                    images.setdefault(f"{folder}/{key}", (member.offset_data, member.size))
                archive.members = []  # type: ignore[attr-defined]  # else millions of headers stay in memory
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{file} is no whole, uncompressed tar file: {error}") from error
    return [(*where, labels.get(key, 0)) for key, where in images.items()], left_out


def _label(content: Any, file: Path, member: tarfile.TarInfo) -> int:
    text = content.read(32)
    try:
        return max(0, int(text))
    except ValueError as error:
        raise ValueError(f"{file}: {member.name} must hold the class as a number, not {text[:20]!r}.") from error
