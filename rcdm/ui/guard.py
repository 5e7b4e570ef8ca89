"""What comes from outside is looked at here first: files, settings, and how often somebody asks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from cachetools import LRUCache
from PIL import Image

from rcdm.data import images as im

LARGEST_SEED = 2**31 - 1
MOST_CLIENTS = 10_000


@contextmanager
def in_a_sentence() -> Iterator[None]:
    """A ValueError reaches the user as its sentence alone."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(escape(str(error), quote=False), print_exception=False) from error


def read_photo(path: str | None) -> Image.Image:
    """The uploaded file as an upright RGB picture. Raises ValueError when there is none or it cannot be read."""
    if path is None:
        raise ValueError("Give an image first: upload or paste one, take an example, or draw a sprite.")
    try:
        data = Path(path).read_bytes()  # as bytes, so that no error names the server's folders
    except OSError as error:
        raise ValueError("The image is no longer on the server: give it again.") from error
    return im.decode(data)


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number within its limits. Raises ValueError otherwise."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or value != int(value):
        raise ValueError(f"{name} must be a whole number from {low} to {high}.")
    return int(value)


def chosen(sources: Any, known: Sequence[str]) -> tuple[str, ...]:
    """The sources, each once. Raises ValueError for none, or for one that there is not."""
    if not isinstance(sources, list | tuple) or not sources:
        raise ValueError("Choose at least one source.")
    if unknown := [source for source in sources if source not in known]:
        raise ValueError(f"There is no source {str(unknown[0])[:80]!r} here; choose one of {', '.join(known)}.")
    return tuple(dict.fromkeys(sources))


class Rate:
    """At most `limit` calls in a minute per client; 0 is any number."""

    def __init__(self, limit: int, *, seconds: float = 60) -> None:
        self._limit, self._seconds = limit, seconds
        self._calls: LRUCache[str, deque[float]] = LRUCache(MOST_CLIENTS)
        self._lock = threading.Lock()

    def check(self, request: gr.Request | None) -> None:
        """Count a call. Raises ValueError, saying how long to wait, when there were too many."""
        if not self._limit:
            return
        client, now = client_of(request), time.monotonic()
        with self._lock:
            calls = self._calls.setdefault(client, deque())
            while calls and now - calls[0] > self._seconds:
                calls.popleft()
            if len(calls) >= self._limit:
                wait = int(self._seconds - (now - calls[0])) + 1
                raise ValueError(f"You have started {self._limit} drawings within a minute: wait {wait} seconds.")
            calls.append(now)


def client_of(request: gr.Request | None) -> str:
    """The address of whoever asks; behind a proxy, what the last proxy says (the others can be made up)."""
    if request is None or request.client is None:
        return ""
    forwarded = request.headers.get("x-forwarded-for", "")
    return forwarded.rpartition(",")[2].strip() or str(request.client.host)
