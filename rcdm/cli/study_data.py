"""What a study is given: its images, and whatever of training images, labels … its parameters ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from inspect import Parameter
from pathlib import Path
from typing import Any

from rcdm.cli.options import announce
from rcdm.data import images as im
from rcdm.data.dataset_protocol import Batch, Dataset, digest_of, first_images, training_images
from rcdm.data.datasets import load_dataset
from rcdm.data.sprites import Sprites
from rcdm.diffusion.checkpoints import folder_of
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.directions import has_directions
from rcdm.measures.retention import FEWEST_TO_LEARN
from rcdm.networks.checked_files import read_object

TRAINING = 20_000
"""How many training images, at most, the nearest ones are looked for in."""

MORE_THAN_NEEDED = 8
"""Photographs of a list are kept at up to so many times the size that is drawn, or what a network is fed if larger."""


class StudyData:
    """The images of a study, and by name what else its parameters may ask for; data are read when something does.

    Args:
        photos: image files and folders of them; where there are none, images of `data` are taken.
        data: 'sprites', a folder or a parquet file; what the checkpoint has seen, where it is the drawn world.
        split: of the data: `held_out` or `train`.
        count: how many images; where None, up to `usual` of those that there are.
        reference: how many training images directions are found in and probes learn from.
    """

    def __init__(
        self,
        pipe: RCDMPipeline,
        *,
        photos: Sequence[str] = (),
        data: str | None = None,
        split: str = "held_out",
        count: int | None = None,
        usual: int = 4,
        reference: int = 2000,
    ) -> None:
        if count is not None and count < 1:
            raise ValueError(f"--images must be at least 1, and is {count}.")
        self._pipe, self._data, self._split, self._count, self._usual = pipe, data, split, count, usual
        self._files = [file for photo in photos for file in _files_of(photo)]
        self._reference = reference

    @cached_property
    def images(self) -> Any:
        """The photographs as PIL images, or images of the data [N,3,S,S]. ValueError for fewer than `count`."""
        if self._files:
            pipe, names = self._pipe, self._chosen(self._files)
            fed = (pipe.sources[source].preprocessing.size for source in pipe.sources.names)
            side = max([MORE_THAN_NEEDED * pipe.image_size, *fed])
            return [im.halved(im.decode(file), side) for file in names]
        return self._chosen(self._taken.images)

    @cached_property
    def names(self) -> list[str]:
        """Of the images: file names, or the data with a number."""
        if self._files:
            return [str(file) for file in self._chosen(self._files)]
        return [f"{self.data}, {self._split.replace('_', ' ')}, {i}" for i in range(len(self.images))]

    @property
    def data(self) -> str:
        """Where training and held-out images come from. ValueError where nobody said."""
        if self._nobody_said:
            raise ValueError(
                f"This checkpoint has learned from {self._pipe.config.trained_on}: name image files or folders, or say "
                "where its data is with --data FOLDER."
            )
        return self._data or "sprites"

    @property
    def _nobody_said(self) -> bool:
        return self._data is None and self._pipe.config.trained_on not in ("", "sprites")

    def extras(self, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
        """Those of the parameters of a study that stand for data -> the data; absent where there is none.

        Where nobody said where the data is, reference images that a study can do without are left out if the checkpoint
        ships directions, which stand in for them.
        """
        classes = "labels" in parameters and not self._files and self._dataset.classes > 1
        optional = "reference" in parameters and parameters["reference"].default is None
        can_do_without = optional and self._nobody_said and has_directions(self._pipe)
        makers: dict[str, Callable[[], Any]] = {
            "reference": lambda: None if can_do_without else self._training.images,
            "probe_images": lambda: None if self._files and self._data is None else self._training.images,
            "labels": lambda: self._taken.labels[: len(self.images)] if classes else None,
            "reference_labels": lambda: self._training.labels if classes else None,
            "backgrounds": self._backgrounds,
            "training": self._all_training,
        }
        made = {name: make() for name, make in makers.items() if name in parameters}
        return {name: value for name, value in made.items() if value is not None}

    @cached_property
    def _dataset(self) -> Dataset:
        dataset = load_dataset(self.data, self._pipe.image_size)
        if words := other_images(self._pipe, dataset):
            announce(words)
        return dataset

    @cached_property
    def _training(self) -> Any:
        """Training images to learn from; where training images are looked at, too, those that follow them."""
        if not self._files and self._split == "train":
            shown = len(self._taken.images)
            batch = first_images(self._dataset, shown + self._reference)
            if len(batch.images) >= shown + min(FEWEST_TO_LEARN, self._reference):
                return Batch(batch.images[shown:], batch.labels[shown:])
            announce("what is learnt from training images is learnt from those that are looked at, too: there are few")
        return training_images(self._dataset, self._reference)

    @cached_property
    def _taken(self) -> Any:
        n = self._count or self._usual
        if self._split == "held_out":
            return self._dataset.held_out(n)
        return first_images(self._dataset, n)

    def _backgrounds(self) -> Any:
        """The same images with other backgrounds, which are known on the drawn world alone."""
        if self._files or self._split != "held_out" or not isinstance(self._dataset, Sprites):
            return None
        return self._dataset.held_out_on_other_grounds(len(self.images))

    def _all_training(self) -> Any:
        """What draws might be copied from, where there is an end to it and somebody said where it is."""
        if self._data is None or self._dataset.n_train is None:
            return None
        return first_images(self._dataset, TRAINING).images

    def _chosen(self, images: Any) -> Any:
        """The first `count`, or all, of the photographs; of the data the number that is usual."""
        if self._count is not None and len(images) < self._count:
            if self._files or self._split == "train":
                raise ValueError(f"--images asks for {self._count}, and there are {len(images)}: lower it.")
            raise ValueError(
                f"--images asks for {self._count}, and {self.data} holds out {len(images)}: lower it, or take images "
                "that the checkpoint may have seen, with --split train."
            )
        return images if self._count is None else images[: self._count]


def other_images(pipe: RCDMPipeline, dataset: Dataset) -> str:
    """A sentence where the training images of its data set are no longer those that a checkpoint learnt from.

    Which images are held out depends on how many there are.
    """
    folder = folder_of(pipe)
    file = None if folder is None else folder / "training.json"
    about = read_object(file) if file is not None and file.is_file() else {}
    known = str(about.get("images_digest", ""))
    if about.get("data") != dataset.name or known.partition(":")[0] != type(dataset).__name__:
        return ""  # other data, or kept otherwise
    if known == digest_of(dataset):
        return ""
    return (
        f"{dataset.name}: these are not the training images that the checkpoint learnt from, or not all of them and no "
        "others, so it may have seen some of those that are held out now"
    )


def _files_of(photo: str) -> list[Path]:
    """An image file, or those in a folder and below, by name. ValueError for a folder without any."""
    path = Path(photo)
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in im.IMAGE_EXTENSIONS)
    if not found:
        raise ValueError(f"{photo} holds no image files.")
    return found
