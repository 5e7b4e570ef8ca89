"""Data sets by name: the drawn world, photographs in memory, tar shards on disk, or a stream from the hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch

from rcdm.data import images as im
from rcdm.data.dataset_protocol import Dataset
from rcdm.data.in_memory import Photographs, Pixels, decode_all, mixed, split
from rcdm.data.sprites import Sprites

log = logging.getLogger(__name__)

HELD_OUT_FOLDERS = ("val", "validation", "valid", "test", "dev")
"""Beside a folder `train`; the first that is there."""


def load_dataset(name: str, size: int, *, seed: int = 0) -> Dataset:
    """`sprites`, a folder of images (sub-folders are classes), parquet files or .tar shards, or `hf://datasets/…`.

    Images and parquet files are decoded into memory, and those that cannot be are left out, which is said; .tar shards
    (`shards`) and data sets of the hub (`hub_stream`) are read as they are needed. Held out are the shards whose names
    begin with val, test or dev, or the folder `val`, `validation`, `valid`, `test` or `dev` (the first of them that
    holds images, where its classes are those of `train`) beside a folder `train`; otherwise a tenth of the images.
    Held-out images that lie in the order of their labels are mixed, always alike.
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
    """Sub-folders are classes; `train` and a folder that is held out are split first where both are there."""
    parts: dict[Path, list[tuple[Path, str]]] = {}
    if (folder / "train").is_dir():
        others = ((folder / name, _with_classes(folder / name)) for name in HELD_OUT_FOLDERS)
        if (held_out_part := next((part for part in others if part[1]), None)) is not None:
            parts = {folder / "train": _with_classes(folder / "train")} | dict([held_out_part])
            training, held_out_classes = ({name for _, name in part} for part in parts.values())
            if not held_out_classes <= training:
                other, _ = parts.popitem()
                log.warning("%s has other classes than train: it is left out, and a tenth of train held out.", other)
    parts = parts or {folder: _with_classes(folder)}
    for part, files in parts.items():
        if not files:
            raise ValueError(f"{part} holds no image files, no .parquet files and no .tar files.")
    names = sorted({name for files in parts.values() for _, name in files})
    pixels, left_out = [], list[str]()
    for files in parts.values():
        images, kept, broken = decode_all([file for file, _ in files], size)
        pixels.append(Pixels(images, torch.tensor([names.index(files[k][1]) for k in kept])))
        left_out += broken
    train, held_out = (pixels[0], mixed(pixels[1])) if len(pixels) == 2 else split(pixels[0])
    return Photographs(train, held_out, name=folder.name, classes=len(names), seed=seed, left_out=left_out)


def _with_classes(folder: Path) -> list[tuple[Path, str]]:
    """The image files below a folder, by name, each with its class: where it lies."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in im.IMAGE_EXTENSIONS)
    return [(file, str(file.parent.relative_to(folder))) for file in files]


def _from_parquet(shards: list[Path], held_out_shards: list[Path], size: int, seed: int) -> Dataset:
    """Without shards that are named as held out, a tenth of the images is."""
    train, left_out = _read_parquet(shards, size)
    if held_out_shards:
        held_out, broken = _read_parquet(held_out_shards, size)
        held_out = mixed(held_out)
        left_out += broken
    else:
        train, held_out = split(train)
    name = shards[0].parent.name if len(shards) + len(held_out_shards) > 1 else shards[0].stem
    classes = 1 + int(max(train.labels.max(), held_out.labels.max()))
    return Photographs(train, held_out, name=name, classes=classes, seed=seed, left_out=left_out)


def _read_parquet(shards: list[Path], size: int) -> tuple[Pixels, list[str]]:
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
    images, kept, broken = decode_all(encoded, size)
    return Pixels(images, torch.tensor(labels)[kept]), broken
