"""What the page begins with: pictures that a checkpoint knows the like of, and sources that differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rcdm.ui.loaded import EXAMPLES_FOLDER, Loaded

_OF_SPRITES, _OF_PHOTOS = ("arrow.png", "heart.png"), ("plane.jpg", "cat.jpg", "ship.jpg")
EXAMPLES = {name: EXAMPLES_FOLDER / name for name in (*_OF_SPRITES, *_OF_PHOTOS)}
"""Name in a link -> file."""


def examples_of(loaded: Loaded) -> list[Path]:
    """The examples of a checkpoint, at least two, the one that the page begins with first."""
    names = _OF_SPRITES if loaded.pipe.config.trained_on == "sprites" else _OF_PHOTOS
    return [EXAMPLES[name] for name in names]


def default_sources(names: Sequence[str]) -> list[str]:
    """The first backbone, its projector and the supervised backbone beside them, or else the first two names."""
    network = next((name.removesuffix("/backbone") for name in names if name.endswith("/backbone")), "")
    wanted = dict.fromkeys((f"{network}/backbone", f"{network}/projector", "supervised/backbone"))
    return [name for name in wanted if name in names] or list(names[:2])
