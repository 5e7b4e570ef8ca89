"""Checkpoints in memory: loaded once for everybody, together with what is read from their draws, within a budget."""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from cachetools import TLRUCache
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.checked_folder import read_metrics
from rcdm.diffusion.checkpoints import folder_of, load
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.places import checkpoint_folder
from rcdm.measures.attributes import Attributes
from rcdm.measures.faithfulness import encode_all
from rcdm.measures.readers import attributes_of
from rcdm.measures.shares import drawn_and_not, falls_short
from rcdm.ui.together import share
from rcdm.ui.watching import let_see

NO_DATA = "This needs training images: start the page with --data and their folder."
EXAMPLES_FOLDER = Path(__file__).parents[1] / "examples"
REFERENCES = 1000  # training images that directions and nearest images are looked for in


@dataclass(frozen=True)
class Abilities:
    """What a decoder draws as truly as a probe reads it from h, what not, in words and counted ("3 of 8" sources that
    hold it), and the `shares` of metrics.json."""

    well: str
    short: str
    counts: dict[str, str]
    shares: dict[str, Any]


class Loaded:
    """A checkpoint ready for work.

    Args:
        name: what it was loaded by.
        pipe: the pipeline.
        data: `sprites`, a folder of images or parquet files: where its training images are, if they are at hand.
        words: of a command line, that load the same; `--checkpoint NAME` if none are given.
    """

    def __init__(self, name: str, pipe: RCDMPipeline, data: str = "", words: Sequence[str] = ()) -> None:
        precision = pipe.unet.mixed_precision
        usual = () if precision == "no" else ("--mixed-precision", precision)
        self.name, self.pipe, self.words = name, pipe, (*(words or ("--checkpoint", name)), *usual)
        self.data = data or ("sprites" if pipe.config.trained_on == "sprites" else "")
        self._banks: dict[str, Tensor] = {}
        self.ways: dict[str, dict[str, Tensor]] = {}
        """`SOURCE|METHOD` -> directions that were looked up or found already."""

    @cached_property
    def attributes(self) -> Attributes:
        """What can be read off its images."""
        return attributes_of(self.pipe)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Its metrics.json; empty where it was never evaluated."""
        folder = folder_of(self.pipe) or checkpoint_folder(self.name)
        return {} if folder is None else read_metrics(folder)

    def similarity_floor(self, source: str) -> float | None:
        """What 95 % of held-out images reach in similarity to their own draw; None where it was not measured."""
        number = self.metrics.get("sources", {}).get(source, {}).get("similarity_floor")
        return None if number is None else float(number["value"])

    def weak_at(self, source: str) -> set[str]:
        """Attributes of which draws of a source keep less than a probe reads from h, as far as was measured."""
        kept = self.metrics.get("sources", {}).get(source, {}).get("retention", {})
        return {name for name, number in kept.items() if falls_short(number)}

    @cached_property
    def abilities(self) -> Abilities | None:
        """What its decoder can draw and what not yet, as far as `rcdm evaluate` has measured it."""
        well, short = drawn_and_not(self.metrics.get("sources", {}))
        shares = self.metrics.get("shares", {})
        return Abilities(_listed(well), _listed(list(short)), short, shares) if well or short or shares else None

    def views(self, source: str) -> dict[str, float] | None:
        """The view strengths that the network of a source was pretrained with, as its config has them; else None."""
        training = self.pipe.sources.config_of(source.partition("/")[0]).get("training", {})
        views: dict[str, float] | None = training.get("views")
        return views

    @cached_property
    def free_kept(self) -> dict[str, float]:
        """Attribute -> what draws without a representation keep of it; empty where that was not measured."""
        about: dict[str, Any] = next(iter(self.metrics.get("sources", {}).values()), {})
        return {name: float(k["null"]) for name, k in about.get("retention", {}).items() if "null" in k}

    def seen(self, picture: Image.Image, source: str) -> Image.Image:
        """The central square of a picture, as the network of a source is given it."""
        given = self.pipe.seen(picture)
        if not isinstance(given, Tensor):
            given = self.pipe.sources[source].preprocessing.to_tensor(picture)
        return im.to_pil(given)[0]

    @cached_property
    def references(self) -> Tensor:
        """Training images [N,3,S,S]. Raises ValueError where they are not at hand."""
        if not self.data:
            raise ValueError(NO_DATA)
        return load_dataset(self.data, self.pipe.image_size).batch(0, REFERENCES).images

    def companions(self, count: int, besides: Sequence[Image.Image]) -> list[Image.Image]:
        """Up to so many other images: training images where they are at hand, else the photographs of the page."""
        if self.data:
            return im.to_pil(self.references[:count]) if count else []
        own = {image.tobytes() for image in besides}
        photos = [im.decode(file) for file in sorted(EXAMPLES_FOLDER.glob("*.jpg"))]
        return [photo for photo in photos if photo.tobytes() not in own][:count]

    def bank(self, source: str) -> Tensor:
        """Standardised representations of the training images, [N,D]."""
        if source not in self._banks:
            h = encode_all(self.pipe, self.references, source)
            self._banks[source] = self.pipe.unet.standardise(h, source)
        return self._banks[source]

    def size(self) -> int:
        """Bytes of its weights."""
        modules = (self.pipe.unet, self.pipe.sources)
        return sum(t.nbytes for module in modules for t in (*module.parameters(), *module.buffers()))


def _listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`, as one reads them."""
    *before, last = [name.replace("_", " ") for name in names] or [""]
    return f"{', '.join(before)} and {last}" if before else last


class Shelf:
    """Loaded checkpoints by name, the least recently used given up when all together pass `max_bytes`.

    What visitors bring stays for `seconds` at most.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        max_bytes: int,
        seconds: float,
        data: str = "",
        device: torch.device | str | None = None,
        mixed_precision: str = "no",
    ) -> None:
        self.names, self._data, self._device, self._precision = tuple(names), data, device, mixed_precision
        self._seconds = seconds
        self._loaded: TLRUCache[str, Loaded] = TLRUCache(
            max_bytes,
            lambda name, _, now: math.inf if name in self.names else now + seconds,
            getsizeof=lambda loaded: min(loaded.size(), max_bytes),  # a larger one takes all of the limit, and stays
        )
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Loaded:
        """The checkpoint, loaded if need be. Raises ValueError for a name that is not on offer."""
        with self._lock:
            if not isinstance(name, str) or not (name in self.names or name in self._loaded):
                raise ValueError(f"There is no checkpoint {name!r} here; choose one of {', '.join(self.names)}.")
            if name not in self._loaded:
                pipe = load(name, device=self._device, mixed_precision=self._precision)
                share(pipe)
                let_see(pipe)
                self._loaded[name] = Loaded(name, pipe, self._data if name == self.names[0] else "")
            loaded: Loaded = self._loaded[name]
            return loaded

    def bring(self, name: str, pipe: RCDMPipeline, words: Sequence[str] = ()) -> str:
        """Keep a visitor's own, until others need the place or its time is over; returns a name that nobody can guess.

        `words` as in Loaded.
        """
        whole_name = f"{name} #{secrets.token_hex(4)}"
        let_see(pipe)
        with self._lock:
            self._loaded[whole_name] = Loaded(whole_name, pipe, words=words)
        end = threading.Timer(self._seconds, self._forget)  # also when nobody asks for anything
        end.daemon = True
        end.start()
        return whole_name

    def _forget(self) -> None:
        with self._lock:
            self._loaded.expire()

    def __len__(self) -> int:
        """How many are in memory."""
        return len(self._loaded)
