"""What a data set is: batches to train on, and images that are held out.

A data set is a pure function of (step, batch size): nothing has to be saved to continue an interrupted run. Step k of
batches of b gives the images k b … k b + b - 1 of the run, so that one process with a large batch and several with
small ones see the same images. (A stream alone is sequential: see `hub_stream`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Batch(NamedTuple):
    images: Tensor  # float32 [B,3,S,S] in [-1,1]
    labels: Tensor  # int64 [B]
    rows: Tensor | None = None  # int64 [B]: which training images these are, where there is an end to them


class Dataset(Protocol):
    """`batch` gives training images; `held_out` gives images that `batch` never gives.

    `to` moves the data, so that batches are made on the device that trains.
    """

    name: str
    size: int
    classes: int

    @property
    def n_train(self) -> int | None:
        """How many different training images there are; None where there is no end."""

    def batch(self, step: int, batch_size: int) -> Batch: ...

    def held_out(self, n: int) -> Batch: ...

    def to(self, device: torch.device | str) -> Dataset: ...


def first_images(dataset: Dataset, n: int) -> Batch:
    """The first n training images of the order, or all where there are fewer: none of them twice."""
    return dataset.batch(0, min(n, dataset.n_train or n))


def training_images(dataset: Dataset, n: int) -> Batch:
    """n different training images, or all where there are fewer: the second n of the order, or the first.

    The first are those that are often looked at, so that others stand beside them where there are enough.
    """
    known = dataset.n_train
    if known is None or 2 * n <= known:
        return dataset.batch(1, n)
    return first_images(dataset, n)


@runtime_checkable
class NumberedDataset(Dataset, Protocol):
    """A dataset whose training images have numbers: their representations can be kept (`representation_cache`)."""

    @property
    def n_train(self) -> int: ...

    def take(self, rows: Tensor) -> Batch:
        """Training images by number, int64 [B] below `n_train`."""

    def fingerprint(self) -> str:
        """A digest of the training images and of their order."""


def digest_of(dataset: Dataset) -> str:
    """KIND:DIGEST of the training images and their order; the name of a data set whose images have no numbers.

    Only digests of one kind, such as `Photographs`, can be compared.
    """
    return f"{type(dataset).__name__}:" + (
        dataset.fingerprint()[:32] if isinstance(dataset, NumberedDataset) else dataset.name
    )


class Epochs:
    """Each of n rows once per epoch, in an order that (seed, epoch) fixes; `permute(stream)` draws it, int64 [n]."""

    def __init__(self, n: int, seed: int, permute: Callable[[torch.Generator], Tensor]) -> None:
        self._n, self._seed, self._permute = n, seed, permute
        self._orders: dict[int, Tensor] = {}

    def rows(self, step: int, batch_size: int) -> Tensor:
        """The rows of batch `step`, int64 [B]; it may reach into the next epochs."""
        places = torch.arange(step * batch_size, (step + 1) * batch_size)
        epochs = places // self._n
        parts = [self._order(e)[places[epochs == e] % self._n] for e in range(int(epochs[0]), int(epochs[-1]) + 1)]
        return torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            stream = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            newest = list(self._orders.items())[-1:]
            self._orders = dict([*newest, (epoch, self._permute(stream))])
        return self._orders[epoch]
