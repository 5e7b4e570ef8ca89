"""What a study says of itself before it is run: its question, its settings, its sizes. Nothing heavy is imported."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcdm.diffusion.pipeline import RCDMPipeline

OTHERS = 64
"""How many images are taken of data that an option names."""


def _image(file: str, pipe: RCDMPipeline) -> Any:
    from rcdm.data import images

    return images.decode(file)


def _sources(folder: str, pipe: RCDMPipeline) -> Any:
    from rcdm.networks.sources import read_sources

    return read_sources(Path(folder))


def _images_of(data: str, pipe: RCDMPipeline) -> Any:
    from rcdm.data.dataset_protocol import first_images
    from rcdm.data.datasets import load_dataset

    return first_images(load_dataset(data, pipe.image_size), OTHERS).images


KINDS: dict[str, Callable[[str, RCDMPipeline], Any]] = {"file": _image, "folder": _sources, "data": _images_of}
"""What a text can name that is neither number nor word (an image, sources, images of data) -> what reads it."""


@dataclass(frozen=True)
class Option:
    """A setting that is a study's own, a parameter of its function, which also says its default.

    Args:
        meaning: one line. choices: the only words that it may be; any value of the default's type if empty.
        kind: a key of KINDS, where it is neither a number nor a word.
    """

    name: str
    meaning: str
    choices: tuple[str, ...] = ()
    kind: str = ""

    def read(self, text: str, default: Any, pipe: RCDMPipeline) -> Any:
        """A value from text: in the type of the default, or what a path names. ValueError with what it may be."""
        return KINDS[self.kind](text, pipe) if self.kind else self.parse(text, default)

    def parse(self, text: str, default: Any) -> Any:
        """A number, a word or a truth value from text, in the type of the default. ValueError with what it may be."""
        if isinstance(default, bool):
            if text not in ("true", "false"):
                raise self._unlike(default, text)
            return text == "true"
        try:
            value = type(default)(text)
        except ValueError:
            raise self._unlike(default, text) from None
        return self._chosen(value)

    def accept(self, value: Any, default: Any) -> Any:
        """A number, a word or a truth value, as JSON has it, in the type of the default. ValueError for another."""
        if self.kind:
            raise ValueError(f"{self.name} names a {self.kind}, which has no place among settings.")
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default) or (isinstance(value, float) and not math.isfinite(value)):
            raise self._unlike(default, value)
        return self._chosen(value)

    def _chosen(self, value: Any) -> Any:
        if self.choices and value not in self.choices:
            raise ValueError(f"There is no {self.name} {str(value)[:80]!r}; choose one of {', '.join(self.choices)}.")
        return value

    def _unlike(self, default: Any, value: Any) -> ValueError:
        return ValueError(f"{self.name} takes a value like {default!r}, not {str(value)[:80]!r}.")

    def in_words(self, default: Any) -> str:
        """What stands in `--help`: `NAME=DEFAULT: meaning (choices)`."""
        shown = self.kind.upper() if self.kind else f"{default:g}" if isinstance(default, float) else default
        return f"{self.name}={shown}: {self.meaning}" + (f" ({', '.join(self.choices)})" if self.choices else "")


@dataclass(frozen=True)
class Entry:
    """A run of the study in the report. `quick`: images, samples where time is short; `only` chooses sources."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    quick: tuple[int | None, int | None] = (None, None)
    quick_settings: Mapping[str, Any] = field(default_factory=dict)
    only: Callable[[str], bool] = lambda source: True


@dataclass(frozen=True)
class Declared:
    """A question, the function that answers it, and how it is asked.

    Args:
        question: in one sentence or two.
        run: its function; where it was read from a file (`unrun`), one that has its parameters and does nothing.
        options: one for each setting that is the study's own.
        images: how many are usual.
        samples: how many draws of an image are usual.
        draws: whether it draws; where not, a number of denoising steps means nothing.
        report: name of its files -> how it is run in the report; once as it is, if empty.
    """

    name: str
    question: str
    run: Callable[..., Any]
    options: tuple[Option, ...] = ()
    images: int = 4
    samples: int = 2
    draws: bool = True
    report: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Those of its function."""
        return inspect.signature(self.run).parameters

    @property
    def defaults(self) -> dict[str, Any]:
        """Name of each option -> its default."""
        return {option.name: self.parameters[option.name].default for option in self.options}

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Name of its files -> how it is run in the report."""
        return self.report or {self.name: Entry()}

    def option(self, name: str) -> Option:
        """The option of this name. ValueError that lists those that there are."""
        known = {option.name: option for option in self.options}
        if name not in known:
            names = f"choose one of {', '.join(known)}." if known else "it has none of its own."
            raise ValueError(f"{self.name} has no setting {name[:80]!r}; {names}")
        return known[name]

    def accept(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Values of options as JSON has them, checked. ValueError with the remedy."""
        return {name: self.option(name).accept(value, self.defaults.get(name)) for name, value in settings.items()}

    def setting(self, text: str) -> tuple[Option, str]:
        """`NAME=VALUE` -> the option and the text of its value. ValueError where it cannot be, a path aside."""
        name, equals, value = text.partition("=")
        if not self.options:
            raise ValueError(f"{self.name} has no settings besides those in `rcdm study --help`.")
        if not equals or name not in self.defaults:
            names = ", ".join(self.defaults)
            raise ValueError(f"{self.name} has no setting {text!r}; write NAME=VALUE with one of {names}.")
        option = self.option(name)
        if not option.kind:
            option.parse(value, self.defaults[name])
        return option, value

    def in_words(self) -> str:
        """What stands in `--help`: a line of its sizes, and a line per option."""
        many = f"{self.images} image{'s' * (self.images > 1)}, {self.samples} sample{'s' * (self.samples > 1)}"
        lines = [f"{self.name}: {self.question} (usually {many}{'' if self.draws else '; draws nothing'})"]
        return "\n".join(lines + [f"  {option.in_words(self.defaults[option.name])}" for option in self.options])
