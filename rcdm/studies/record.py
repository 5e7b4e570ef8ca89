"""A study's record: all that the command line, the report, the page and the figures need to know about it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from rcdm.data import images as im
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures import general
from rcdm.figures.result import StudyResult
from rcdm.figures.style import STYLE, Look, looks
from rcdm.networks.sources import read_sources

COMMON = ("pipe", "images", "sources", "seeds", "num_inference_steps", "on_progress")
"""Parameters that all studies share."""

DATA = ("reference", "probe_images", "labels", "reference_labels", "backgrounds", "training")
"""Parameters for data, which whoever runs a study gives where it is at hand."""

INTERVAL = "Bars and bands: 95 % bootstrap intervals over images."
OTHERS = 64
"""How many images are taken of data that an option names."""

Draw = Callable[[StudyResult, Mapping[str, Look]], dict[str, Figure]]
"""Result and looks of the sources -> figures: key "" is the main one, of the numbers; "images" and others beside it."""

Cost = Callable[[int, int, Mapping[str, Any]], int]
"""Pictures, numbers that are read off an image, values of the options -> draws per source and seed."""


def _images_of(data: str, pipe: RCDMPipeline) -> Any:
    dataset = load_dataset(data, pipe.image_size)
    return dataset.batch(0, min(OTHERS, dataset.n_train or OTHERS)).images


KINDS: dict[str, Callable[[str, RCDMPipeline], Any]] = {
    "file": lambda file, pipe: im.decode(file),
    "folder": lambda folder, pipe: read_sources(Path(folder)),
    "data": _images_of,
}
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
        if self.kind:
            return KINDS[self.kind](text, pipe)
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
class Study:
    """A question, the function that answers it, and what others ask about it. Calling it runs the function.

    Args:
        question: in one sentence or two.
        run: `(pipe, images, *, sources, seeds, …) -> StudyResult`.
        options: one for each of its parameters but those of COMMON, DATA and `objects`, which Python alone can give.
        figures: the figures of its result.
        captions: key of a figure, or `*` for any, -> what it shows. captions_by_method: the same for one `method`.
        intervals: whether its figures of numbers have intervals.
        images: how many are usual.
        samples: how many draws of an image are usual.
        fewest: how many images it needs.
        most: how many it takes, if there is an end.
        draws: whether it draws; where not, a number of denoising steps means nothing.
        cost: how much it draws, where that is known beforehand.
        shared: whether several processes can share its work (`measures.processes`).
        report: name of its files -> how it is run in the report; once as it is, if empty.
    """

    name: str
    question: str
    run: Callable[..., StudyResult]
    options: tuple[Option, ...] = ()
    objects: tuple[str, ...] = ()
    figures: Draw = general.figures
    captions: Mapping[str, str] = field(default_factory=dict)
    captions_by_method: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    intervals: bool = True
    images: int = 4
    samples: int = 2
    fewest: int = 1
    most: int | None = None
    draws: bool = True
    cost: Cost | None = None
    shared: bool = False
    report: Mapping[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """ValueError where options and parameters differ, or nobody says how an option is read."""
        named = {name for name, p in self.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        own = named - {*COMMON, *DATA}
        if wrong := own ^ {*self.objects, *(option.name for option in self.options)}:
            raise ValueError(f"The record of {self.name} and its function differ in {', '.join(sorted(wrong))}.")
        for option in self.options:
            if not option.kind and not isinstance(self.defaults[option.name], bool | int | float | str):
                raise ValueError(f"{self.name} does not say how {option.name} is read: give its option a kind.")

    def __call__(self, *given: Any, **named: Any) -> StudyResult:
        return self.run(*given, **named)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.run)

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Those of its function."""
        return self.__signature__.parameters

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

    def in_words(self) -> str:
        """What stands in `--help`: a line of its sizes, and a line per option."""
        many = f"{self.images} image{'s' * (self.images > 1)}, {self.samples} sample{'s' * (self.samples > 1)}"
        lines = [f"{self.name}: {self.question} (usually {many}{'' if self.draws else '; draws nothing'})"]
        return "\n".join(lines + [f"  {option.in_words(self.defaults[option.name])}" for option in self.options])

    def figures_of(self, result: StudyResult, sources: Iterable[str]) -> dict[str, Figure]:
        """The figures of a result; `sources` are all that the checkpoint has, so that each keeps its colour."""
        with matplotlib.rc_context(STYLE):
            return self.figures(result, looks(sources))

    def captions_of(self, keys: Iterable[str], settings: Mapping[str, Any]) -> dict[str, str]:
        """Key of a figure -> what it shows, on how many images and seeds, with which settings."""
        known = self.captions_by_method.get(settings["options"].get("method"), self.captions)
        whole = f"{settings['checkpoint']}; {_of_what(settings)}."
        result = {}
        for key in keys:
            interval = f" {INTERVAL}" if self.intervals and "images" not in key else ""
            result[key] = f"{_shows(self.name, known, key)}{interval} {whole}"
        return result


def _of_what(settings: Mapping[str, Any]) -> str:
    """Images, seeds, steps, data and options in words."""
    n, seeds = settings["images"]["n"], settings["seeds"]
    options = ", ".join(f"{k} {v}" for k, v in settings["options"].items() if isinstance(v, int | float) or v)
    drawn = f"seeds {seeds[0]}–{seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    data = ", ".join(f"{name.replace('_', ' ')} {given['n']}" for name, given in settings["data"].items())
    steps = f"{settings['steps']} steps" if settings["steps"] else ""
    return ", ".join(part for part in (f"N {n} images", drawn, steps, data, options) if part)


def _shows(study: str, known: Mapping[str, str], key: str) -> str:
    """The caption of this key, or of the pattern that it fits."""
    name = key.replace("-images", "").replace("-", " ").capitalize()
    if key in known:
        return known[key]
    if key.startswith("images-"):
        return f"{known.get('images', 'Images')[:-1]}, continued."
    pattern = "*-images" if key.endswith("-images") else "*"
    if pattern in known:
        return known[pattern].format(key=name)
    if key.startswith("images"):
        return "The images of the study."
    return f"{study.capitalize()}{': ' + name if name else ''}."
