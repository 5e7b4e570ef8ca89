"""What shape has a representation, and what does the projector do to the differences between views?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.data.views import ViewStrengths, random_view
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures import general
from rcdm.figures.curves import level_legend
from rcdm.figures.intervals import interval_rows
from rcdm.figures.result import StudyResult
from rcdm.figures.style import DOUBLE, Look, band, figure, looks, null_line
from rcdm.measures.faithfulness import pixels_of
from rcdm.measures.geometry import Views, against_projector, removed_share, row_space, view_variance
from rcdm.measures.levels import levels_of
from rcdm.measures.metrics import effective_rank, jackknife, participation_ratio, rankme, singular_values
from rcdm.measures.retention import backbones_and_projectors
from rcdm.networks.sources import Sources
from rcdm.studies.declared import Entry, Option
from rcdm.studies.record import Study

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Factors of the view strengths."""

SHOWN = 4


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int] = (0,),
    networks: Sources | None = None,
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Spectrum of each source, and views of each network that has a projector, from weak to strong. Nothing is drawn.

    `networks`: more of them, for instance pretrained with other view strengths. Views are those of pretraining, the
    strongest of each kind that any of the networks has seen (`views`), times 0 … 1; their random numbers are those of
    `seeds[0]`. Numbers: `sources` -> source -> `effective_rank`, `participation_ratio`, `rankme`, `singular_values`
    (centred), `width`; `networks` -> network -> list over strengths of the view variance of `backbone` and `projector`
    (1: as between images), `removed`, and `heard`, `angle`, `angles` (see `geometry`); at strength 0 views do not
    differ and only the variances are there. Shown are images and a view at each strength.
    Raises ValueError for fewer than 8 images, or a name that two networks share.
    """
    if len(images) < 8:
        raise ValueError(f"The spectrum needs at least 8 images, better 1000, and got {len(images)}.")
    x = pixels_of(pipe, images).to(pipe.device)
    groups: dict[str, Sources] = {source: pipe.sources for source in sources}  # noqa: C420 (typed)
    if networks is not None:
        if both := {name.partition("/")[0] for name in groups} & {name.partition("/")[0] for name in networks}:
            raise ValueError(f"This checkpoint and the other networks both have a {min(both)}: rename one.")
        networks.to(pipe.device)
        groups |= {name: networks for name in networks}  # noqa: C420
    trained = {name.partition("/")[0]: _training_views(held, name) for name, held in groups.items()}
    views = strongest([each for each in trained.values() if each is not None])
    numbers: dict[str, Any] = {}
    for source, held in groups.items():
        on_progress(source)
        name, _, level = source.partition("/")
        numbers[source] = _spectrum(levels_of(*held.network(name), x, levels=[level])[level].cpu())
    compared: dict[str, Any] = {}
    for name, (backbone, _) in backbones_and_projectors(list(groups)).items():
        on_progress(f"{name}: views")
        own = trained[name]
        compared[name] = {"trained_with": vars(own)} if own is not None else {}
        compared[name]["strengths"] = _against_strength(groups[backbone], name, x, views, seeds[0])
    grid = _pictures(x[:SHOWN], views, seeds[0])
    rows, columns = tuple(f"image {i}" for i in range(len(x[:SHOWN]))), tuple(f"views x {s:g}" for s in STRENGTHS)
    result = {"images": len(x), "views": vars(views), "sources": numbers, "networks": compared}
    return StudyResult(grid, rows, columns, result, _summary(result))


def strongest(views: Sequence[ViewStrengths]) -> ViewStrengths:
    """The largest strength of each kind; the usual ones where none is known."""
    known = {f.name: max((getattr(each, f.name) for each in views), default=0.0) for f in fields(ViewStrengths)}
    return ViewStrengths(**known) if any(known.values()) else ViewStrengths()


def _training_views(held: Sources, source: str) -> ViewStrengths | None:
    """What a network was pretrained with, where its config.json says so."""
    views = held.config_of(source.partition("/")[0]).get("training", {}).get("views")
    return None if views is None else ViewStrengths(**{f.name: 0.0 for f in fields(ViewStrengths)} | views)


def _spectrum(h: Tensor) -> dict[str, Any]:
    ranks = {"effective_rank": effective_rank, "participation_ratio": participation_ratio, "rankme": rankme}
    spectra: dict[str, Any] = {
        name: jackknife(lambda i, rank=rank: rank(h[i]), len(h)).to_json()  # type: ignore[misc]
        for name, rank in ranks.items()
    }
    return spectra | {"singular_values": singular_values(h).tolist(), "width": h.shape[1]}


def _against_strength(held: Sources, name: str, x: Tensor, views: ViewStrengths, seed: int) -> list[dict[str, Any]]:
    """One entry per strength of the views."""
    network, preprocessing = held.network(name)
    given = levels_of(network, preprocessing, x)
    projector = getattr(network, "projector", None)
    hears = None if projector is None else row_space(projector, given["backbone"])
    steps: list[dict[str, Any]] = []
    for strength in STRENGTHS:
        stream = torch.Generator().manual_seed(seed)
        change = views.scaled(strength)
        first, second = (
            levels_of(network, preprocessing, x, lambda part: random_view(part, change, stream))  # noqa: B023
            for _ in range(2)
        )
        seen = {level: Views(given[level].cpu(), first[level].cpu(), second[level].cpu()) for level in given}
        backbone, projected = seen["backbone"], seen["projector"]
        step: dict[str, Any] = {"strength": strength}
        step |= {level: view_variance(seen[level]).to_json() for level in ("backbone", "projector")}
        if float(backbone.change.abs().max()) > 0:
            step["removed"] = removed_share(backbone, projected).to_json()
            step |= {} if hears is None else against_projector(hears, backbone)
        steps.append(step)
    return steps


def _pictures(x: Tensor, views: ViewStrengths, seed: int) -> list[Image.Image]:
    columns = []
    for strength in STRENGTHS:
        stream = torch.Generator().manual_seed(seed)
        columns.append(im.to_pil(random_view(x, views.scaled(strength), stream)))
    return [image for row in zip(*columns, strict=True) for image in row]


def _summary(result: Mapping[str, Any]) -> str:
    lines = [f"{result['images']} images: width, effective rank (95 %), participation ratio, RankMe"]
    for source, spectra in result["sources"].items():
        rank = spectra["effective_rank"]
        lines.append(
            f"{source:24} {spectra['width']:5} {rank['value']:7.1f} ({rank['low']:.1f} … {rank['high']:.1f}) "
            f"{spectra['participation_ratio']['value']:7.1f} {spectra['rankme']['value']:7.1f}"
        )
    lines.append(
        "Views by strength: variance over that between images, in the backbone and the projector; share that the "
        "projector removes; share it hears (of differences between images); mean principal angle (by chance)"
    )
    for network, spectra in result["networks"].items():
        for step in spectra["strengths"]:
            variances = " ".join(f"{step[level]['value']:6.2f}" for level in ("backbone", "projector"))
            line = f"{network:20} x {step['strength']:<5g} {variances}"
            if "removed" in step:
                line += f" {step['removed']['value']:7.2f}"
            if "heard" in step:
                heard, angle = step["heard"], step["angle"]
                line += f" {heard['value']:7.2f} ({heard['null']:.2f}) {angle['value']:5.0f}° ({angle['null']:.0f}°)"
            lines.append(line)
    return "\n".join(lines)


def _figures(result: StudyResult, given: Mapping[str, Look]) -> dict[str, Figure]:
    """Singular values and ranks of each source; then the views of each network against their strength."""
    spectra = result.numbers["sources"]
    look = looks([*given, *(source for source in spectra if source not in given)])
    drawn = {"": _spectra_figure(spectra, look)}
    if any(one["strengths"] for one in result.numbers["networks"].values()):
        drawn["views"] = _views_figure(result.numbers["networks"], look)
    return drawn | general.images(result)


def _spectra_figure(spectra: Mapping[str, Any], look: Mapping[str, Look]) -> Figure:
    drawn = figure(DOUBLE, max(2.1, 0.7 + 0.14 * len(spectra)))
    left, right = drawn.subplots(1, 2)
    for source, one in spectra.items():
        values = [
            value / one["singular_values"][0]
            for value in one["singular_values"]
            if value > 1e-6 * one["singular_values"][0]
        ]
        one_look = look[source]
        left.plot(range(1, len(values) + 1), values, color=one_look.colour, linestyle=one_look.line, linewidth=1)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_ylim(bottom=1e-4)
    left.set_xlabel("number of the singular value")
    left.set_ylabel("singular value, over the largest")
    interval_rows(right, {s: one["effective_rank"] | {"other": one["rankme"]["value"]} for s, one in spectra.items()},
                  list(spectra), look)  # fmt: skip
    right.set_xlim(left=0)
    right.set_xlabel("effective rank with 95 % interval; cross: RankMe")
    level_legend(drawn, list(spectra), look, networks=True)
    return drawn


def _views_figure(networks: Mapping[str, Any], look: Mapping[str, Look]) -> Figure:
    """Variance between views in backbone and projector, what the projector removes, hears, and at which angle."""
    shown = {name: one["strengths"] for name, one in networks.items() if one["strengths"]}
    drawn = figure(DOUBLE, 2.2)
    panels = drawn.subplots(1, 4)
    for network, steps in shown.items():
        own = {level: look[f"{network}/{level}"] for level in ("backbone", "projector")}
        for level, one in own.items():
            _over_strength(panels[0], steps, level, one)
        for axes, measure in zip(panels[1:], ("removed", "heard", "angle"), strict=True):
            _over_strength(axes, steps, measure, own["backbone"])
    labels = ("view variance", "removed by the projector", "heard by the projector", "mean principal angle (°)")
    for axes, label in zip(panels, labels, strict=True):
        axes.set_ylabel(label)
        axes.set_xlabel("strength of the views")
    null_line(panels[1], 0)
    sources = [f"{network}/{level}" for network in shown for level in ("backbone", "projector")]
    level_legend(drawn, sources, look, networks=True)
    return drawn


def _over_strength(axes: Axes, steps: list[Mapping[str, Any]], measure: str, look: Look) -> None:
    there = [step for step in steps if measure in step]
    if there:
        band(axes, [step["strength"] for step in there], [step[measure] for step in there], look)
        nulls = [step[measure].get("null") for step in there]
        if measure in ("heard", "angle") and None not in nulls:
            axes.add_line(
                Line2D([s["strength"] for s in there], nulls, color=look.colour, linestyle=":", linewidth=0.8)
            )


STUDY = Study(
    "spectrum",
    __doc__,
    study,
    options=(Option("networks", "more networks, such as those pretrained with other view strengths", kind="folder"),),
    figures=_figures,
    captions={
        "": "Singular values of the centred representations, and their effective ranks.",
        "views": "Two views of an image at growing strength: their variance (1: between images), the share that the "
        "projector removes, the share within the directions that it reads, and the angle between these and the "
        "changes; dotted: what differences between images, or random directions, would give.",
        "images": "Views of the first images at growing strength.",
    },
    images=1000,
    samples=1,
    fewest=8,
    draws=False,
    report={"spectrum": Entry(quick=(256, 1))},
)
