"""A study's record: all that the command line, the report, the page and the figures need to know about it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from rcdm.diffusion.guidance_settings import in_words
from rcdm.figures import general
from rcdm.figures.result import StudyResult
from rcdm.figures.style import STYLE, Look, looks
from rcdm.studies.declared import Declared

COMMON = ("pipe", "images", "sources", "seeds", "num_inference_steps", "on_progress")
"""Parameters that all studies share."""

DATA = ("reference", "probe_images", "labels", "reference_labels", "backgrounds", "training")
"""Parameters for data, which whoever runs a study gives where it is at hand."""

INTERVAL = "Bars and bands: 95 % intervals over images."

Draw = Callable[[StudyResult, Mapping[str, Look]], dict[str, Figure]]
"""Result and looks of the sources -> figures: key "" is the main one, of the numbers; "images" and others beside it."""

Cost = Callable[[int, int, Mapping[str, Any]], int]
"""Pictures, numbers that are read off an image, values of the options -> draws per source and seed."""


@dataclass(frozen=True)
class Study(Declared):
    """A declaration, and what others ask about the study. Calling it runs the function.

    Args:
        run: `(pipe, images, *, sources, seeds, …) -> StudyResult`.
        options: one for each of its parameters but those of COMMON, DATA and `objects`, which Python alone can give.
        figures: the figures of its result.
        captions: key of a figure, or `*` for any, -> what it shows. captions_by_method: the same for one `method`.
        intervals: whether its figures of numbers have intervals.
        fewest: how many images it needs.
        most: how many it takes, if there is an end.
        cost: how much it draws, where that is known beforehand.
        shared: whether several processes can share its work (`measures.processes`).
        led: whether its draws are guided as the checkpoint says; those of `guidance` are not.
    """

    run: Callable[..., StudyResult]
    objects: tuple[str, ...] = ()
    figures: Draw = general.figures
    captions: Mapping[str, str] = field(default_factory=dict)
    captions_by_method: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    intervals: bool = True
    fewest: int = 1
    most: int | None = None
    cost: Cost | None = None
    shared: bool = False
    led: bool = True

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

    def figures_of(self, result: StudyResult, sources: Iterable[str]) -> dict[str, Figure]:
        """The figures of a result; `sources` are all that the checkpoint has, so that each keeps its colour."""
        with matplotlib.rc_context(STYLE):
            return self.figures(result, looks(sources))

    def captions_of(self, keys: Iterable[str], settings: Mapping[str, Any]) -> dict[str, str]:
        """Key of a figure -> what it shows, on how many images and seeds, with which settings."""
        known = self.captions_by_method.get(settings["options"].get("method"), self.captions)
        whole = f"{settings['checkpoint']}; {_of_what(settings, guided=self.draws and self.led)}."
        result = {}
        for key in keys:
            interval = f" {INTERVAL}" if self.intervals and "images" not in key else ""
            result[key] = f"{_shows(self.name, known, key)}{interval} {whole}"
        return result


def _of_what(settings: Mapping[str, Any], *, guided: bool) -> str:
    """Images, seeds, steps, data and options in words."""
    n, seeds = settings["images"]["n"], settings["seeds"]
    options = ", ".join(f"{k} {v}" for k, v in settings["options"].items() if isinstance(v, int | float) or v)
    drawn = f"seeds {seeds[0]}–{seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    data = ", ".join(f"{name.replace('_', ' ')} {given['n']}" for name, given in settings["data"].items())
    steps = f"{settings['steps']} denoising step{'s' * (settings['steps'] != 1)}" if settings["steps"] else ""
    led = in_words(settings.get("guidance", {}), settings.get("sources", ())) if guided else ""
    return ", ".join(part for part in (f"N {n} image{'s' * (n != 1)}", drawn, steps, led, data, options) if part)


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
