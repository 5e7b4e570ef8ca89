"""What a study is given beside its images: whatever of training images, labels … its parameters ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cached_property
from typing import Any

from rcdm import images as im
from rcdm.datasets import Dataset, Sprites, load_dataset
from rcdm.pipeline import RCDMPipeline

REFERENCE = 2000
"""How many training images directions are found in and probes learn from."""

TRAINING = 20_000
"""How many training images, at most, the nearest ones are looked for in."""


class StudyData:
    """The images of a study, and by name what else its parameters may ask for; data are read when something does.

    Args:
        options: `photos`, `data`, `images` of the command line.
        count: how many held-out images, where no photos are given.
    """

    def __init__(self, options: argparse.Namespace, pipe: RCDMPipeline, count: int) -> None:
        self._options, self._pipe, self._count = options, pipe, count

    @cached_property
    def _dataset(self) -> Dataset:
        return load_dataset(self._options.data, self._pipe.image_size)

    @cached_property
    def images(self) -> Any:
        """The photographs that were named, or held-out images of the data."""
        if self._options.photos:
            return [im.decode(path) for path in self._options.photos]
        return self._dataset.held_out(self._count).images

    def extras(self, parameters: Any) -> dict[str, Any]:
        """Those of the parameters of a study that stand for data -> the data; absent where there is none."""
        makers: dict[str, Callable[[], Any]] = {
            "reference": lambda: self._dataset.batch(0, REFERENCE).images,
            "probe_images": lambda: self._dataset.batch(0, REFERENCE).images,
            "labels": self._labels,
            "reference_labels": lambda: self._dataset.batch(0, REFERENCE).labels if self._has_classes else None,
            "backgrounds": self._backgrounds,
            "training": self._training,
        }
        made = {name: make() for name, make in makers.items() if name in parameters}
        return {name: value for name, value in made.items() if value is not None}

    @property
    def _has_classes(self) -> bool:
        return self._dataset.classes > 1 and not self._options.photos

    def _labels(self) -> Any:
        return self._dataset.held_out(self._count).labels if self._has_classes else None

    def _backgrounds(self) -> Any:
        """The same images with other backgrounds, which are known on the drawn world alone."""
        if self._options.photos or not isinstance(self._dataset, Sprites):
            return None
        return self._dataset.held_out_on_other_grounds(self._count)

    def _training(self) -> Any:
        """What draws might be copied from, where there is an end to it."""
        n = self._dataset.n_train
        return None if n is None else self._dataset.batch(0, min(n, TRAINING)).images


DATA = ("reference", "probe_images", "labels", "reference_labels", "backgrounds", "training")
"""Names of parameters that `StudyData.extras` fills."""
