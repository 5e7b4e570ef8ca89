"""Finished work, found again by what was asked: bounded in bytes, forgotten after a while."""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

from cachetools import TTLCache
from PIL import Image

SWEEPS = 20
"""How often what is too old is looked for in the time that values may stay."""


def key_of(*parts: Any) -> str:
    """A name for a request: equal for equal pictures and settings, and not to be guessed without the picture."""
    digest = hashlib.sha256()
    for part in parts:
        _feed(digest, part)
    return digest.hexdigest()


def _feed(digest: Any, part: Any) -> None:
    if isinstance(part, Image.Image):
        digest.update(f"{part.mode}{part.size}".encode() + part.tobytes())
    elif is_dataclass(part) and not isinstance(part, type):
        digest.update(type(part).__name__.encode())
        for item in fields(part):
            _feed(digest, getattr(part, item.name))
    elif isinstance(part, list | tuple):
        digest.update(f"[{len(part)}".encode())
        for item in part:
            _feed(digest, item)
    else:
        digest.update(repr(part).encode() + b"\0")


def size_of(value: Any) -> int:
    """Bytes of the images in a value, and a guess for the rest."""
    if isinstance(value, Image.Image):
        return value.width * value.height * len(value.getbands())
    if is_dataclass(value) and not isinstance(value, type):
        return sum(size_of(getattr(value, item.name)) for item in fields(value))
    if isinstance(value, dict):
        return sum(size_of(item) + 64 for item in value.values())
    if isinstance(value, list | tuple):
        return sum(size_of(item) + 8 for item in value)
    return 64


class Store:
    """Values by key, each for at most `seconds`, all together at most `max_bytes`: the least recently used go first."""

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self._pause = seconds / SWEEPS
        self._values: TTLCache[str, Any] = TTLCache(max_bytes, seconds - self._pause, getsizeof=size_of)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def put(self, key: str, value: Any) -> None:
        """Keep a value; one that alone passes the limit is not kept."""
        with self._lock:
            self._values.pop(key, None)
            with suppress(ValueError):  # too large
                self._values[key] = value
            self._sweep_later()

    def get(self, key: str) -> Any | None:
        """The value, or None when there is none any more."""
        with self._lock:
            return self._values.get(key)

    @property
    def bytes(self) -> int:
        """Of all that is kept."""
        return int(self._values.currsize)

    def _sweep_later(self) -> None:
        """A TTLCache forgets when it is asked; this forgets also when nobody asks for anything."""
        if self._timer is None and self._values.currsize:
            self._timer = threading.Timer(self._pause, self._sweep)
            self._timer.daemon = True
            self._timer.start()

    def _sweep(self) -> None:
        with self._lock:
            self._timer = None
            self._values.expire()
            self._sweep_later()
