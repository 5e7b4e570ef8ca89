"""Images of a data set on the Hugging Face hub, streamed: `hf://datasets/OWNER/NAME[@REVISION][/FOLDER]`.

Nothing is downloaded beforehand, and nothing can be looked up by number. Each process reads its own shards. Images are
shuffled within a buffer, and shards at every pass. The order depends on (seed, first step) alone: a run that is resumed
goes on with freshly shuffled shards instead of reading everything again up to the place where it stopped.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from typing import Any

import fsspec
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rcdm.data import images as im
from rcdm.data.dataset_protocol import Batch
from rcdm.data.in_memory import decode_square

log = logging.getLogger(__name__)

BUFFER = 4096
"""Encoded images among which is shuffled."""

_HELD_OUT_SPLITS = ("validation", "val", "valid", "test", "dev")
_ADDRESS = re.compile(r"hf://datasets/(?P<name>[^/@]+(/[^/@]+)?)(@(?P<revision>[^/]+))?(/(?P<folder>.+))?")


class HubStream:
    """The images of a split; held out is the split `validation`, `val`, `test` or `dev`, else a tenth by digest.

    Args:
        train, held_out: `datasets.IterableDataset` of encoded images; held_out may be None.
    """

    n_train = None

    def __init__(self, train: Any, held_out: Any | None, size: int, *, name: str, seed: int = 0) -> None:
        import datasets

        self.name, self.size, self.seed = name, size, seed
        features = train.features or {}
        columns = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
        if not columns:
            raise ValueError(f"{name} has no column of images; its columns are {', '.join(features)}.")
        self._column = columns[0]
        labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        self._label = labels[0] if labels else None
        self.classes = features[self._label].num_classes if self._label else 1
        encoded = datasets.Image(decode=False)
        self._train = train.cast_column(self._column, encoded)
        self._held_out = None if held_out is None else held_out.cast_column(self._column, encoded)
        self._decoders, self._reader = ThreadPoolExecutor(), ThreadPoolExecutor(1)
        self._samples: Iterator[dict[str, Any]] = iter(())
        self._next: tuple[int, int] | None = None
        self._ahead: Future[tuple[Tensor, Tensor]] | None = None
        self._looked_at: tuple[Tensor, Tensor] = torch.empty(0), torch.empty(0)
        self._device = torch.device("cpu")

    @classmethod
    def open(cls, address: str, size: int, *, seed: int = 0) -> HubStream:
        """`hf://datasets/OWNER/NAME` -> stream. Raises ValueError when it cannot be had."""
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise ValueError(
                "Streaming from the hub needs datasets: install it with `pip install -e '.[hub]'`."
            ) from error
        parts = _ADDRESS.fullmatch(address)
        if parts is None:
            raise ValueError(f"Write a data set as hf://datasets/OWNER/NAME[@REVISION][/FOLDER], not {address}.")
        name, revision, folder = parts["name"], parts["revision"], parts["folder"]
        try:
            splits = datasets.load_dataset(name, data_dir=folder, revision=revision, streaming=True)
        except Exception as error:  # of the network, the hub, or the data set
            raise ValueError(f"{address} cannot be opened: {error}") from error
        held_out = next((splits[split] for split in _HELD_OUT_SPLITS if split in splits), None)
        if "train" not in splits:
            raise ValueError(f"{address} has no split 'train'; it has {', '.join(splits)}.")
        return cls(splits["train"], held_out, size, name=name.rpartition("/")[2], seed=seed)

    def to(self, device: torch.device | str) -> HubStream:
        self._device = torch.device(device)
        return self

    def batch(self, step: int, batch_size: int) -> Batch:
        """The next images of this process where `step` follows on its last one; else a freshly shuffled stream.

        While the calls follow on one another, the next batch is read and decoded meanwhile.
        """
        processes = dist.get_world_size() if dist.is_initialized() else 1
        follows = (step, batch_size) == self._next
        if not follows:
            self._samples, self._ahead = self._endless(step // processes), None
        now = self._ahead or self._reader.submit(self._read, self._samples, batch_size)
        loaded = now.result()
        self._next = (step + processes, batch_size)
        self._ahead = self._reader.submit(self._read, self._samples, batch_size) if follows else None
        return self._on_device(*loaded)

    def held_out(self, n: int) -> Batch:
        """n held-out images, always the same, fewer where there are not so many.

        They are mixed within a buffer, as they often lie in the order of their classes.
        """
        if len(self._looked_at[0]) < n:
            if self._held_out is None:
                mixed = self._train.shuffle(seed=0, buffer_size=BUFFER)
                self._looked_at = self._read((sample for sample in mixed if self._is_held_out(sample)), n)
            else:  # filling the buffer is what costs: once is enough
                mixed = self._held_out.shuffle(seed=0, buffer_size=BUFFER)
                self._looked_at = self._read(iter(mixed), max(n, BUFFER // 4))
        return self._on_device(*(part[:n] for part in self._looked_at))

    def _endless(self, first: int) -> Iterator[dict[str, Any]]:
        """Training samples, pass after pass; `first` is the step that they begin with."""
        from datasets.distributed import split_dataset_by_node

        for epoch in count():
            seed = ((self.seed + 1) * 1_000_003 + first) * 1009 + epoch
            shuffled = self._train.shuffle(seed=seed, buffer_size=BUFFER)
            if dist.is_initialized():
                shuffled = split_dataset_by_node(shuffled, dist.get_rank(), dist.get_world_size())
            empty = True
            for sample in shuffled:
                if self._held_out is not None or not self._is_held_out(sample):
                    empty = False
                    yield sample
            if empty:
                raise ValueError(f"{self.name} has no images for this process to train on: use fewer processes.")

    def _is_held_out(self, sample: dict[str, Any]) -> bool:
        return zlib.crc32(self._encoded(sample)) % 10 == 0

    def _encoded(self, sample: dict[str, Any]) -> bytes:
        """The bytes of a sample's image file, at most one more than may be decoded."""
        cell = sample[self._column] or {}
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"][: im.MAX_BYTES + 1])
        path = cell.get("path") or ""
        if not path.startswith("hf://"):
            raise ValueError(f"{self.name} has an image without its bytes ({path or 'nothing'}).")
        with fsspec.open(path, "rb") as file:
            return bytes(file.read(im.MAX_BYTES + 1))

    def _read(self, samples: Iterator[dict[str, Any]], n: int) -> tuple[Tensor, Tensor]:
        """The next n images that can be decoded, uint8 [N,3,S,S], and their labels [N]; fewer at the end."""
        squares: list[np.ndarray] = []
        labels: list[int] = []
        while len(squares) < n and (batch := list(islice(samples, n - len(squares)))):
            for sample, square in zip(batch, self._decoders.map(self._square, batch), strict=True):
                if square is not None:
                    squares.append(square)
                    labels.append(sample[self._label] if self._label else 0)
        if not squares:
            raise ValueError(f"{self.name} has no images in this split.")
        return torch.from_numpy(np.stack(squares)), torch.tensor(labels)

    def _square(self, sample: dict[str, Any]) -> np.ndarray | None:
        try:
            return decode_square(self._encoded(sample), self.size)
        except ValueError as error:
            log.warning("%s: %s It is left out.", self.name, error)
            return None

    def _on_device(self, pixels: Tensor, labels: Tensor) -> Batch:
        return Batch(pixels.to(self._device).float() / 127.5 - 1, labels.to(self._device))
