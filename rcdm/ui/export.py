"""What a tab has drawn, as files that people use elsewhere: PNG at print size, PDF, JSON, link and command."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import urlencode

from matplotlib.figure import Figure
from PIL import Image

import rcdm
from rcdm.figures import general
from rcdm.figures.grids import grid_png
from rcdm.figures.result import StudyResult
from rcdm.figures.style import looks
from rcdm.studies import STUDIES
from rcdm.ui.columns_figure import columns_figure
from rcdm.ui.drawing import Column, Job
from rcdm.ui.exploring import Bits, Study
from rcdm.ui.ladders import MAIN, Attacked, Edited, Ladders, Transformed

CELL = 256  # pixels of an image in the PNG: 2 cm at 300 dots per inch
FIRST_TAB = "Compare"
PHOTO, OTHER = "PHOTO", "OTHER"  # in commands: the user's files


@dataclass(frozen=True)
class Result:
    """Finished work of a tab.

    Args:
        checkpoint, job: what was done with what.
        given: the image as the networks see it; `photo`: the name of the example that it is, or "".
        value: what the job returned: list of Column, StudyResult or Ladders.
        words: of a command line, that load the checkpoint; `--checkpoint NAME` if none are given.
        tab, own: the tab, and what its own controls said, as (name in the link, value); `number`: images per source.
    """

    checkpoint: str
    job: Job
    given: Image.Image
    value: Any
    photo: str = ""
    tab: str = FIRST_TAB
    own: tuple[tuple[str, Any], ...] = ()
    number: int = 1
    words: tuple[str, ...] = ()

    @property
    def columns(self) -> list[Column]:
        """The columns of Compare and of the Sprite lab; empty elsewhere."""
        return self.value if isinstance(self.value, list) else []

    @property
    def sources(self) -> tuple[str, ...]:
        """What it was drawn from."""
        sources: tuple[str, ...] = self._of_job("sources", ())
        return sources

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the draws."""
        seeds: tuple[int, ...] = self._of_job("seeds", (0,))
        return seeds

    @property
    def steps(self) -> int | None:
        """Denoising steps; None where nothing is drawn."""
        steps: int | None = self._of_job("steps", None)
        return steps

    def _of_job(self, name: str, default: Any) -> Any:
        return getattr(self.job, name, default)

    @property
    def study(self) -> StudyResult:
        """Its images and numbers as those of a study."""
        if isinstance(self.value, Ladders):
            return self.value.as_study(self.seeds)
        assert isinstance(self.value, StudyResult)
        return self.value


def as_png(result: Result) -> bytes:
    """Columns with their similarities and bars; else all images with labels, or the figure where there are none."""
    if result.columns:
        return _saved(columns_figure(result.given, result.columns, result.seeds), "png")
    study = result.study
    if not study.images:
        return _saved(next(iter(_figures(result).values())), "png")
    return grid_png(study.images, study.rows, study.columns, pixels=CELL)


def as_pdf(result: Result) -> bytes:
    """The same with lettering that scales, a page per figure; pixels stay squares."""
    from matplotlib.backends.backend_pdf import PdfPages

    file = io.BytesIO()
    with PdfPages(file, metadata={"Creator": f"rcdm {rcdm.__version__}", "CreationDate": None}) as pages:
        for figure in _figures(result).values():
            pages.savefig(figure, dpi=300)
    return file.getvalue()


def _figures(result: Result) -> dict[str, Figure]:
    if result.columns:
        return {"": columns_figure(result.given, result.columns, result.seeds)}
    name = _study_of(result.job)
    if name and isinstance(result.value, StudyResult):
        return STUDIES[name].figures_of(result.value, result.sources)
    return general.figures(result.study, looks(result.sources))


def _study_of(job: Job) -> str:
    """The study that a job is, or that asks the same of many images; '' for none."""
    if isinstance(job, Study):
        return job.name
    return {Bits: "information", Transformed: "invariance", Attacked: "adversarial", Edited: "manipulation"}.get(
        type(job), ""
    )


def _saved(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=300)
    return file.getvalue()


def as_json(result: Result) -> bytes:
    """Every setting, version and number."""
    return (json.dumps(record_of(result), indent=1) + "\n").encode()


def record_of(result: Result) -> dict[str, Any]:
    """What the JSON file holds."""
    job = result.job
    picture: Image.Image = getattr(job, "picture", None) or job.pictures[0]  # type: ignore[attr-defined]
    pixels = hashlib.sha256(picture.tobytes()).hexdigest()
    versions = {"rcdm": rcdm.__version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("torch", "diffusers", "gradio", "pillow")}
    record = {
        "checkpoint": result.checkpoint,
        "tab": result.tab,
        "photo": {"example": result.photo, "width": picture.width, "height": picture.height, "sha256": pixels},
        "seeds": list(result.seeds),
        "steps": result.steps,
        "settings": dict(result.own),
        "sources": numbers_of(result.columns) if result.columns else result.study.numbers.get("sources", {}),
        "versions": versions,
        "command": command_of(result),
        "link": link_of(result),
    }
    if not result.columns:
        record["numbers"] = {key: value for key, value in result.study.numbers.items() if key != "sources"}
    return record


def numbers_of(columns: list[Column]) -> dict[str, Any]:
    """Source -> similarity of each draw, what the draws keep of each attribute, and whether the image is foreign."""
    numbers: dict[str, Any] = {}
    for column in columns:
        kept = {name: number.to_json() for name, number in column.kept.items()}
        numbers[column.source] = {"guidance": column.guidance, "similarity": column.similarity, "kept": kept}
        if column.foreign is not None:
            numbers[column.source]["foreign"] = column.foreign
    return numbers


def command_of(result: Result) -> str:
    """The line that does the same from a shell; '' where there is none. PHOTO and OTHER stand for the user's files."""
    photo = f"rcdm/examples/{result.photo}" if result.photo else PHOTO
    if result.columns:
        if result.tab != FIRST_TAB:
            return ""
        parts: list[Any] = ["rcdm", "sample", photo, *_common(result)]
        return shlex.join(str(part) for part in (*parts, "--out", "drawing.png"))
    name = _study_of(result.job)
    if not name:
        return ""
    others = [OTHER] * (max(2, STUDIES[name].fewest) - 1) if STUDIES[name].fewest > 1 else []
    if second := dict(result.own).get("second"):
        others = [f"rcdm/examples/{second}"]
    own: list[Any] = []
    for key, value in _options(result.job).items():
        own += ["--option", f"{key}={value}"]
    return shlex.join(str(part) for part in ("rcdm", "study", name, photo, *others, *_common(result), *own))


def words_of(command: str) -> str:
    """What a command does, and what stands in it for the user's files."""
    words = shlex.split(command)
    more = words.count(OTHER)
    whole = more == 0 or STUDIES[words[2]].most == 2  # which takes the visitor's two, and no more
    first = "The same from a shell, with the same seeds" if whole else "From a shell, over as many images as you like"
    yours = [f"{PHOTO}, your file"] * (PHOTO in words) + [f"{OTHER}, another" + " each" * (more > 1)] * (more > 0)
    return first + (f" (in place of {'; of '.join(yours)})" if yours else "")


def _common(result: Result) -> list[Any]:
    steps = [] if result.steps is None else ["--steps", result.steps]
    seeds = ["--samples", len(result.seeds), "--seed", result.seeds[0]]
    loading = result.words or ("--checkpoint", result.checkpoint)
    strength = getattr(result.job, "strength", None)
    guidance = [] if strength is None else ["--guidance-strength", f"{strength:g}"]
    return [*loading, "--source", *result.sources, *seeds, *steps, *guidance]


def _options(job: Job) -> Mapping[str, Any]:
    """Settings of the study that a job is, or that asks the same of many images."""
    if isinstance(job, Study):
        return dict(job.settings)
    if isinstance(job, Transformed):
        return {"only": job.name}
    if isinstance(job, Attacked):
        return {"steps": job.attack_steps}
    if isinstance(job, Edited):
        main = {"directions": MAIN} if job.method == "principal" else {}
        return {"method": job.method, "reach": f"{job.reach:g}", **main}
    return {}


def link_of(result: Result) -> str:
    """Query parameters that open the page with the same settings; of the pictures only examples are in it."""
    query: list[tuple[str, Any]] = [("checkpoint", result.checkpoint), *(("source", name) for name in result.sources)]
    query += [("images", result.number)] + ([("steps", result.steps)] if result.steps is not None else [])
    query += [("seed", result.seeds[0])]
    query += [("example", result.photo)] if result.photo else []
    query += [] if result.tab == FIRST_TAB else [("tab", result.tab)]
    query += result.own
    return "?" + urlencode(query, safe="/")


KINDS: dict[str, tuple[Callable[[Result], bytes], str]] = {
    "png": (as_png, "image/png"),
    "pdf": (as_pdf, "application/pdf"),
    "json": (as_json, "application/json"),
}
"""Ending of a file -> (how it is made, its media type)."""
