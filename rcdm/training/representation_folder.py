"""Representations in a folder, for data of any size: shards of 32,768 images, read through a memory map.

Below the folder each source has its own, with `source.json` (what it was made of) and a `.npy` file, fp16 [V,N,D], for
every shard. A shard is complete or not there: what was interrupted continues with those that are missing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from rcdm.data.dataset_protocol import Dataset, NumberedDataset
from rcdm.data.in_memory import Photographs
from rcdm.networks.sources import Sources
from rcdm.training.config import TrainingConfig
from rcdm.training.representation_cache import RepresentationCache, in_memory, representations

SHARD_ROWS = 2**15
_FORMAT = 1
_WHAT = {
    "images": "the number of images",
    "data": "the images",
    "source": "the network",
    "width": "the network",
    "mirrored": "random_flip",
}


def in_folder(folder: Path, sources: Sources, dataset: NumberedDataset, *, mirrored: bool) -> RepresentationCache:
    """The representations kept in a folder, after computing those that are missing there.

    Several processes share the work. Raises ValueError when the folder holds representations of something else, when a
    file is damaged, and when the disk is too small.
    """
    processes = PartialState()
    abouts = _abouts(sources, dataset, mirrored)
    for name, about in abouts.items():
        _check(_place(folder, name), about)
    n = dataset.n_train
    shards = [range(start, min(start + SHARD_ROWS, n)) for start in range(0, n, SHARD_ROWS)]
    missing = {k: [name for name in abouts if not _file(folder, name, k).is_file()] for k in range(len(shards))}
    todo = [k for k, names in missing.items() if names]
    numbers = sum((1 + mirrored) * len(shards[k]) * abouts[name]["width"] for k in todo for name in missing[k])
    _check_room(folder, 2 * numbers)
    processes.wait_for_everyone()
    if processes.is_main_process:
        _begin(folder, abouts)
    processes.wait_for_everyone()
    for k in todo[processes.process_index :: processes.num_processes]:
        _compute(folder, k, shards[k], missing[k], sources, dataset, mirrored)
    processes.wait_for_everyone()
    tables = {}
    for name, about in abouts.items():
        shapes = [(1 + mirrored, len(rows), about["width"]) for rows in shards]
        files = [_open(_file(folder, name, k), shape) for k, shape in enumerate(shapes)]
        tables[name] = _OnDisk(files, sources.device)
    return RepresentationCache(tables)


class _OnDisk:
    def __init__(self, shards: list[np.ndarray], device: torch.device) -> None:
        self._shards, self._device = shards, device
        views, _, width = shards[0].shape
        self.shape = (views, sum(shard.shape[1] for shard in shards), width)

    def take(self, views: Tensor, rows: Tensor) -> Tensor:
        """int64 [B] each -> fp16 [B,D], read from the shards in which they lie."""
        view, (shard, row) = views.cpu().numpy(), np.divmod(rows.cpu().numpy(), SHARD_ROWS)
        h = np.empty((len(row), self.shape[2]), np.float16)
        for k in np.unique(shard):
            mine = shard == k
            h[mine] = self._shards[k][view[mine], row[mine]]
        return torch.from_numpy(h).to(self._device)


def _compute(
    folder: Path, k: int, rows: range, names: list[str], sources: Sources, dataset: NumberedDataset, mirrored: bool
) -> None:
    """Write shard k of these sources; nothing is left of one that does not get finished."""
    pieces = representations(sources, dataset, rows, names, mirrored=mirrored)
    parts = [{name: h.cpu() for name, h in part.items()} for _, part in pieces]
    for name in names:
        target = _file(folder, name, k)
        partial = target.with_suffix(".partial")
        try:
            with open(partial, "wb") as file:
                np.save(file, torch.cat([part[name] for part in parts], 1).numpy())
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ValueError(f"{target} cannot be written: {error}. What is there is kept for the next try.") from error
        partial.replace(target)


def _abouts(sources: Sources, dataset: NumberedDataset, mirrored: bool) -> dict[str, dict[str, Any]]:
    """Name of each source -> what its representations are made of."""
    widths = sources.widths()
    about = {"format": _FORMAT, "images": dataset.n_train, "mirrored": mirrored, "data": dataset.fingerprint()}
    return {name: about | {"source": sources.fingerprint(name), "width": widths[name]} for name in sources.names}


def _check(place: Path, made_of: dict[str, Any]) -> None:
    """Raises ValueError when a source's folder says that it was made of something else."""
    if not any(place.glob("*.npy")):
        return
    try:
        kept = dict(json.loads((place / "source.json").read_text()))
    except (OSError, ValueError, TypeError):
        kept = {}
    if differences := [key for key in made_of if kept.get(key) != made_of[key]]:
        what = ", ".join(dict.fromkeys(_WHAT.get(key, "the format") for key in differences))
        raise ValueError(
            f"{place} was computed for something else ({what} differs): name another folder, or delete this one."
        )


def _check_room(folder: Path, size: int) -> None:
    """Raises ValueError when so many bytes do not fit on the folder's disk."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise ValueError(
            f"The representations take another {size / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left: "
            "name a folder on a larger disk, or fewer sources."
        )


def _begin(folder: Path, abouts: dict[str, dict[str, Any]]) -> None:
    """Make the sources' folders and say in each what it is made of."""
    try:
        for name, about in abouts.items():
            _place(folder, name).mkdir(parents=True, exist_ok=True)
            (_place(folder, name) / "source.json").write_text(json.dumps(about, indent=1) + "\n")
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error}.") from error


def _open(file: Path, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        shard = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: delete it, then it is computed again.") from error
    if shard.shape != shape or shard.dtype != np.float16:
        raise ValueError(f"{file} is damaged: delete it, then it is computed again.")
    return shard


def _place(folder: Path, name: str) -> Path:
    return folder / name.replace("/", "--")


def _file(folder: Path, name: str, shard: int) -> Path:
    return _place(folder, name) / f"{shard:05d}.npy"


def cache_for(config: TrainingConfig, sources: Sources, dataset: Dataset) -> RepresentationCache | None:
    """Representations that are computed beforehand; None where the networks run with every batch."""
    if config.representations_dir is not None:
        if not isinstance(dataset, NumberedDataset):
            raise ValueError(f"The images of {dataset.name} have no end: leave representations_dir out.")
        return in_folder(Path(config.representations_dir), sources, dataset, mirrored=config.random_flip)
    if config.cache_representations and isinstance(dataset, Photographs):
        return in_memory(sources, dataset, mirrored=config.random_flip)
    return None
