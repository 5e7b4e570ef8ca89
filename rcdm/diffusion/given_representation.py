"""A representation that somebody gives, checked before anything is drawn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def checked(representation: Any, source: str | Sequence[str], widths: Mapping[str, int]) -> Tensor:
    """[B,D] of any float type, with its source or one per row -> float32 [B,D].

    `widths` are those of the sources that there are; narrower rows are padded to the widest. Raises ValueError, saying
    what it needs, for anything that is no matrix of finite numbers of the width of its source.
    """
    if not isinstance(representation, Tensor):
        kind = type(representation).__name__
        raise ValueError(f"representation must be a torch tensor [B,D], not {kind}: `torch.as_tensor(h)` makes one.")
    if representation.ndim != 2:
        row = ": `h[None]` makes a row of it" if representation.ndim == 1 else ""
        raise ValueError(f"representation must have the shape [B,D], not {list(representation.shape)}{row}.")
    h = representation.float()
    if not bool(torch.isfinite(h).all()):
        raise ValueError("representation holds NaN or infinite numbers: nothing can be drawn from it.")
    names = [source] * len(h) if isinstance(source, str) else list(source)
    if len(names) != len(h):
        raise ValueError(f"representation has {len(h)} rows and came with {len(names)} names of sources.")
    if unknown := [name for name in names if name not in widths]:
        raise ValueError(f"There is no source {unknown[0]!r}; choose one of {', '.join(widths)}.")
    widest = max(names, key=lambda name: widths[name], default="")
    if widest and h.shape[1] != widths[widest]:
        raise ValueError(
            f"representation has {h.shape[1]} numbers a row, and {widest} has {widths[widest]}: it is another source's."
        )
    return h
