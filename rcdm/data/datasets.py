"""Images to train on: the drawn world, photographs in memory, tar shards on disk, or a stream from the hub.

A dataset is a pure function of (step, batch size): nothing has to be saved to continue an interrupted run. Step k of
batches of b gives the images k b … k b + b - 1 of the run, so that one process with a large batch and several with
small ones see the same images. (A stream alone is sequential: see `hub_stream`.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rcdm.data import images as im
from rcdm.data import sprites

HELD_OUT_SEED = 2**31
"""Sprites drawn from this seed on are never trained on: every held-out number uses them."""


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


@runtime_checkable
class NumberedDataset(Dataset, Protocol):
    """A dataset whose training images have numbers: their representations can be kept (`representation_cache`)."""

    @property
    def n_train(self) -> int: ...

    def take(self, rows: Tensor) -> Batch:
        """Training images by number, int64 [B] below `n_train`."""

    def fingerprint(self) -> str:
        """A digest of the training images and of their order."""


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


_BLOCK = 256
"""Sprites of a run are sampled so many at a time; a batch is cut from these blocks."""


class Sprites:
    """The drawn world: endless fresh images; the label is the shape."""

    n_train = None

    def __init__(self, size: int, *, seed: int = 0) -> None:
        self.name, self.size, self.classes, self.seed = "sprites", size, len(sprites.SHAPES), seed
        self._device = torch.device("cpu")

    def to(self, device: torch.device | str) -> Sprites:
        self._device = torch.device(device)
        return self

    def batch(self, step: int, batch_size: int) -> Batch:
        first, stop = step * batch_size, (step + 1) * batch_size
        parts = []
        for block in range(first // _BLOCK, -(-stop // _BLOCK)):
            factors = sprites.sample_factors(_BLOCK, (self.seed * 1_000_003 + block) % HELD_OUT_SEED)
            start = block * _BLOCK
            parts.append(self._draw(factors[max(first - start, 0) : stop - start]))
        return Batch(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))

    def held_out(self, n: int) -> Batch:
        return self._draw(sprites.sample_factors(n, HELD_OUT_SEED))

    def held_out_on_other_grounds(self, n: int) -> Tensor:
        """The shapes of `held_out`, each on the ground of another image: [n,3,S,S]."""
        factors = sprites.sample_factors(n, HELD_OUT_SEED).to(self._device)
        return sprites.render(sprites.exchange_grounds(factors), self.size)

    def _draw(self, factors: sprites.Factors) -> Batch:
        factors = factors.to(self._device)
        return Batch(sprites.render(factors, self.size), factors.shape)


class Photographs:
    """Images decoded once into one uint8 array [N,3,S,S]; `labels` int64 [N]. `held_out` is not trained on."""

    def __init__(self, train: Pixels, held_out: Pixels, *, name: str, classes: int, seed: int = 0) -> None:
        self._train, self._held_out = train, held_out
        self.name, self.size, self.classes, self.seed = name, train.images.shape[-1], classes, seed
        self.n_train = len(train.images)
        self._epochs = Epochs(self.n_train, seed, lambda stream: torch.randperm(self.n_train, generator=stream))
        self._device = torch.device("cpu")

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
        """SHA-256 of the training pixels, in their order."""
        return hashlib.sha256(self._train.images.cpu().contiguous().numpy().data).hexdigest()

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


def load_dataset(name: str, size: int, *, seed: int = 0) -> Dataset:
    """`sprites`, a folder of images (sub-folders are classes), parquet files or .tar shards, or `hf://datasets/…`.

    Images and parquet files are decoded into memory; .tar shards (`shards`) and data sets of the hub (`hub_stream`) are
    read as they are needed. Held out are the shards whose names begin with val, test or dev, or the folder `val` where
    it stands beside a folder `train`; otherwise a tenth of the images.
    A parquet file has a column `image` (encoded bytes, or a struct with `bytes`) and may have an integer `label`.
    Raises ValueError, saying what was looked for, when no image is found.
    """
    if name == "sprites":
        return Sprites(size, seed=seed)
    if name.startswith("hf://"):
        from rcdm.data.hub_stream import HubStream

        return HubStream.open(name, size, seed=seed)
    path = Path(name)
    if path.suffix == ".parquet" and path.is_file():
        return _from_parquet([path], [], size, seed)
    if not path.is_dir():
        raise ValueError(
            f"{name} is neither 'sprites' nor a folder of images, .parquet or .tar files nor hf://datasets/NAME."
        )
    for extension, read in ((".parquet", _from_parquet), (".tar", _from_tar)):
        shards = sorted(path.glob(f"*{extension}"))
        held_out = [s for s in shards if re.match(r"val|test|dev", s.name)]
        training = [s for s in shards if s not in held_out]
        if shards:
            return read(training or shards, held_out if training else [], size, seed)
    return _from_folder(path, size, seed)


def _from_tar(shards: list[Path], held_out_shards: list[Path], size: int, seed: int) -> Dataset:
    from rcdm.data.shards import TarShards

    return TarShards(shards, held_out_shards, size, seed=seed)


def _from_folder(folder: Path, size: int, seed: int) -> Photographs:
    """Sub-folders are classes; `train` and `val` are split first where both are there."""
    parts = [folder / "train", folder / "val"]
    parts = parts if all(part.is_dir() for part in parts) else [folder]
    by_part = [sorted(f for f in part.rglob("*") if f.suffix.lower() in im.IMAGE_EXTENSIONS) for part in parts]
    for part, files in zip(parts, by_part, strict=True):
        if not files:
            raise ValueError(f"{part} holds no image files, no .parquet files and no .tar files.")
    classes = [[str(f.parent.relative_to(part)) for f in files] for part, files in zip(parts, by_part, strict=True)]
    names = sorted({name for part in classes for name in part})
    pixels = [
        Pixels(_decode_all(files, size), torch.tensor([names.index(c) for c in of_files]))
        for files, of_files in zip(by_part, classes, strict=True)
    ]
    train, held_out = pixels if len(pixels) == 2 else split(pixels[0])
    return Photographs(train, held_out, name=folder.name, classes=len(names), seed=seed)


def _from_parquet(shards: list[Path], held_out_shards: list[Path], size: int, seed: int) -> Dataset:
    """Without shards that are named as held out, a tenth of the images is."""
    train = _read_parquet(shards, size)
    train, held_out = (train, _read_parquet(held_out_shards, size)) if held_out_shards else split(train)
    name = shards[0].parent.name if len(shards) > 1 else shards[0].stem
    classes = 1 + int(max(train.labels.max(), held_out.labels.max()))
    return Photographs(train, held_out, name=name, classes=classes, seed=seed)


def _read_parquet(shards: list[Path], size: int) -> Pixels:
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
    return Pixels(_decode_all(encoded, size), torch.tensor(labels))


def decode_square(source: Path | bytes, size: int) -> np.ndarray:
    """An encoded image -> its centre crop, uint8 [3,size,size]. Raises ValueError for what is no whole image."""
    return np.asarray(im.centre_crop(im.decode(source), size)).transpose(2, 0, 1)


def _decode_all(sources: list[Path] | list[bytes], size: int) -> Tensor:
    """Centre crops, uint8 [N,3,size,size]."""
    pixels = np.empty((len(sources), 3, size, size), np.uint8)
    with ThreadPoolExecutor() as pool:
        arrays = pool.map(lambda source: decode_square(source, size), sources)
        for k, array in enumerate(tqdm(arrays, total=len(sources), desc="decoding images", leave=False)):
            pixels[k] = array
    return torch.from_numpy(pixels)
