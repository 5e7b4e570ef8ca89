"""The pictures that the page offers: those that a checkpoint knows the like of."""

from __future__ import annotations

from pathlib import Path

from rcdm.ui.guard import received
from rcdm.ui.loaded import EXAMPLES_FOLDER, Loaded

_OF_SPRITES, _OF_PHOTOS = ("heart.png", "arrow.png"), ("plane.jpg", "caps.jpg")
EXAMPLES = {name: EXAMPLES_FOLDER / name for name in (*_OF_SPRITES, *_OF_PHOTOS)}
"""Name in a link -> file."""


def examples_of(loaded: Loaded) -> list[Path]:
    """The examples of a checkpoint, at least two, the one that the page begins with first."""
    names = _OF_SPRITES if loaded.pipe.config.trained_on == "sprites" else _OF_PHOTOS
    return [EXAMPLES[name] for name in names]


def example_of(photo: str | None) -> str:
    """The name of the example that a file is a copy of, or ''."""
    if photo is None or (path := EXAMPLES.get(Path(photo).name)) is None:
        return ""
    return path.name if path.read_bytes() == received(photo) else ""
