"""Finished work, found again by what was asked: bounded in bytes, forgotten after a while."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import fields, is_dataclass
from typing import Any

from PIL import Image


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
    """Values by key, each for `seconds`, all together at most `max_bytes`: the oldest go first."""

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self._max_bytes, self._seconds = max_bytes, seconds
        self._items: OrderedDict[str, tuple[float, int, Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def put(self, key: str, value: Any) -> None:
        """Keep a value; one that alone passes the limit is not kept."""
        size = size_of(value)
        with self._lock:
            self._drop(key)
            if size > self._max_bytes:
                return
            self._items[key] = (time.monotonic(), size, value)
            self._bytes += size
            self._forget()
            self._look_again()

    def get(self, key: str) -> Any | None:
        """The value, or None when there is none any more."""
        with self._lock:
            self._forget()
            item = self._items.get(key)
            return None if item is None else item[2]

    @property
    def bytes(self) -> int:
        """Of all that is kept."""
        return self._bytes

    def _forget(self) -> None:
        while self._items:
            key, (born, _, _) = next(iter(self._items.items()))
            if self._bytes <= self._max_bytes and time.monotonic() - born <= self._seconds:
                return
            self._drop(key)

    def _look_again(self) -> None:
        """Forget the oldest in time also when nobody asks for anything."""
        if self._timer is None and self._items:
            born = next(iter(self._items.values()))[0]
            self._timer = threading.Timer(max(born + self._seconds - time.monotonic(), 0) + 0.05, self._sweep)
            self._timer.daemon = True
            self._timer.start()

    def _sweep(self) -> None:
        with self._lock:
            self._timer = None
            self._forget()
            self._look_again()

    def _drop(self, key: str) -> None:
        if key in self._items:
            self._bytes -= self._items.pop(key)[1]
