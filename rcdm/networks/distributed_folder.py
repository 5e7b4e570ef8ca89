"""Folders of torch.distributed.checkpoint (FSDP), read without running what is pickled in them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcdm.networks.safe_load import InertUnpickler, load_inert

METADATA = ".metadata"
"""The file by which such a folder is known."""


def read_distributed(folder: Path) -> dict[str, Tensor]:
    """Name -> tensor, put together from its chunks; those of the optimizer are left aside.

    Raises ValueError for a folder that cannot be read so.
    """
    try:
        with open(folder / METADATA, "rb") as file:
            metadata = InertUnpickler(file).load()
        places = {
            (index["fqn"], tuple(index.get("offset") or ())): place for index, place in metadata["storage_data"].items()
        }
        return {
            name: _tensor(folder, name, entry, places)
            for name, entry in metadata["state_dict_metadata"].items()
            if "chunks" in entry and not re.match(r"optim", name)
        }
    except Exception as error:  # damaged files fail in many ways
        raise ValueError(f"{folder} cannot be read as a sharded checkpoint, it is damaged: {error}") from error


def _tensor(folder: Path, name: str, entry: Mapping[str, Any], places: Mapping[Any, Mapping[str, Any]]) -> Tensor:
    whole = None
    for chunk in entry["chunks"]:
        offsets = tuple(chunk["offsets"])
        place = places[name, offsets]
        with open(folder / Path(place["relative_path"]).name, "rb") as file:
            file.seek(place["offset"])
            part = load_inert(io.BytesIO(file.read(place["length"])))
        whole = torch.empty(entry["size"], dtype=part.dtype) if whole is None else whole
        rows = tuple(slice(start, start + size) for start, size in zip(offsets, chunk["sizes"], strict=True))
        whole[rows] = part
    assert whole is not None
    return whole
