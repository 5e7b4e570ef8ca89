"""What comes from outside is looked at here first: files, settings, and how often somebody asks."""

from __future__ import annotations

import os
import stat
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
from gradio.utils import get_upload_folder
from PIL import Image

from rcdm.data import images as im
from rcdm.diffusion.memory import give_back_freed_memory

LARGEST_SEED = 2**31 - 1
MOST_CLIENTS = 10_000
LONGEST = 600  # characters of a sentence: it may repeat what a client has sent


@contextmanager
def in_a_sentence() -> Iterator[None]:
    """A ValueError reaches the user as its sentence alone."""
    try:
        yield
    except ValueError as error:
        raise refusal(str(error)) from error


def refusal(sentence: str) -> gr.Error:
    """What shows a sentence to whoever asked, and writes nothing into the server's log."""
    cut = sentence if len(sentence) <= LONGEST else f"{sentence[:LONGEST]} …"
    return gr.Error(escape(cut, quote=False), print_exception=False)


_NOT_HERE = "The image is no longer on the server: give it again."
_DECODING = threading.BoundedSemaphore(1)  # one after the other: a picture of 50 megapixels takes 150 MB, and copies
_LARGE = 4_000_000  # pixels: decoding more takes some 50 MB that nothing else needs
_KEPT_SIDE = 512  # pixels of the short side above which a picture is halved, unless a network sees more


def read_photo(path: str | None, side: int = _KEPT_SIDE) -> Image.Image:
    """The uploaded file as an upright RGB picture; ValueError when there is none or it cannot be read.

    Large ones are halved as centre crops are, so that crops of up to `side` pixels are those of the file itself.
    """
    if path is None:
        raise ValueError("Give an image first: upload or paste one, take an example, or draw a sprite.")
    data = received(path)
    with _DECODING:
        picture = im.decode(data)
        large = picture.width * picture.height > _LARGE
        picture = im.halved(picture, max(side, _KEPT_SIDE))
        if large:
            give_back_freed_memory()
        return picture


def received_file(path: str, most: int) -> Path:
    """The place of an uploaded file that a library opens itself. ValueError as in `received`, or for a larger one."""
    try:
        place = Path(path)
        if not stat.S_ISREG(os.lstat(_upload(place)).st_mode):
            raise ValueError(_NOT_HERE)
        size = place.stat().st_size
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(_NOT_HERE.replace("image", "file")) from error
    if size > most:
        raise ValueError(f"The file has {size >> 20} MiB, and at most {most >> 20} are taken: send weights alone.")
    return place


def _upload(place: Path) -> Path:
    """The same, where it lies in a folder of the uploads, and no link is on the way. Raises ValueError or OSError."""
    whole_path = place.resolve(strict=True)
    inside = whole_path.parent.parent == Path(get_upload_folder()).resolve(strict=True)
    if not inside or whole_path.parts[-2:] != place.parts[-2:]:
        raise ValueError(_NOT_HERE)
    return whole_path


def received(path: str) -> bytes:
    """What lies in an uploaded file, at most a byte more than may be decoded. Nothing else on the server is opened.

    Gradio puts an upload into UPLOADS/DIGEST/NAME, with the SHA-256 of its content: who can name it, has it. For all
    else, whether it exists or not, ValueError with one sentence.
    """
    try:
        with open(
            os.open(_upload(Path(path)), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
        ) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe or a device would never end
                raise ValueError(_NOT_HERE)
            return file.read(im.MAX_BYTES + 1)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(_NOT_HERE) from error


def is_here(path: str) -> bool:
    """Whether an upload of this name is still on the server."""
    try:
        return bool(received(path))
    except ValueError:
        return False


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
    """The address of whoever asks: that of the socket, or what a proxy says that the server trusts.

    Headers are not read here, as anybody can send them: uvicorn does where `trusted_proxies` names who may.
    """
    return "" if request is None or request.client is None else str(request.client.host)
