"""How strongly should draws be held to the representation? Guidance, chosen by what a probe reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.diffusion.guidance_settings import OFF, Guidance
from rcdm.diffusion.guided import GuidedPipeline
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.process import Process
from rcdm.diffusion.regression import LEVELS, Regression, directions_of, features_of
from rcdm.diffusion.regressor import DEAR, Regressor, learn_source
from rcdm.figures import general
from rcdm.figures.result import StudyResult
from rcdm.figures.style import DOUBLE, Look, figure
from rcdm.measures.attributes import Attributes, constant_in_words, varying_in
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.metrics import Number, bootstrap, cycle_error, variance
from rcdm.measures.parts import part
from rcdm.measures.processes import over_processes
from rcdm.measures.readers import attributes_of
from rcdm.measures.retention import FEWEST_TO_LEARN, draw_each, probed, retention_numbers
from rcdm.studies.declared import Option
from rcdm.studies.record import Study

HONEST = (0.8, 1.25)
"""Calibration within these is that of draws which are as uncertain as they should be."""

UNSTABLE = 0.9
"""Retention above which calibration is a ratio of two small numbers, and is not counted."""

SHOWN = 4
"""Images whose draws are shown with every guidance."""

LEARNT_FROM = 1024
"""Images of `reference` that regression learns from."""

_RING: Any = {"marker": "o", "markersize": 7, "markerfacecolor": "none", "markeredgecolor": "0.3", "linewidth": 0}


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int],
    reference: Tensor | Sequence[Image.Image],
    attributes: Attributes | None = None,
    scales: str = "1 1.5 2",
    strengths: str = "1 2",
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Draw every image with every seed and each guidance, and compare what the draws keep with what a probe reads.

    A denoiser that had too little training follows h too little: guidance mends that, and too much of it makes draws
    agree on what h does not say. By a scale, 1 is off; by regression, each of `strengths` (learnt on `reference` where
    the pipeline has none, and kept with it). Numbers: `sources` -> source -> `guidance_scale` and `guidance_strength`,
    the chosen ones, and `tried`: guidance in words, or `off` -> `off` (mean |R − R² of the probe| over the attributes),
    `gain` (that without guidance minus it, paired on images and noise), `uncalibrated` (attributes of at most 0.9
    retention whose calibration leaves 0.8–1.25, and of how many), `cycle_error` and `retention`. Chosen is the guidance
    with the smallest `off` among those with no more uncalibrated attributes than without; none unless the interval of
    the gain lies above 0. The images chose it, so what is reported with it should be of others. Image i and seed k
    share their noise over sources and guidance. The probe, the better of a ridge and a small network and at least 0,
    learns on `reference`. Raises ValueError for fewer than 20 of
    these, for fewer than two images or seeds, for numbers that are none, and for a denoiser that cannot be guided.
    """
    tried = _tries(scales, strengths)
    _refuse(pipe, len(images), len(seeds), len(reference), tried)
    if isinstance(pipe, GuidedPipeline) and any(one.strength for one in tried):
        on_progress("strengths are left out: a guided prior has one of its own")
        tried = [one for one in tried if not one.strength]
    if any(one.strength for one in tried):
        _learn(pipe, reference, sources, on_progress)
    attributes, constant = varying_in(attributes or attributes_of(pipe), pixels_of(pipe, images))
    given, learnt = (attributes.read(pixels_of(pipe, some)) for some in (images, reference))
    numbers: dict[str, Any] = {}
    grid: list[Image.Image] = []
    rows: list[str] = []
    shown = im.to_pil(pixels_of(pipe, images[:SHOWN]))
    for source in sources:
        h = encode_all(pipe, images, source)
        readings, _ = probed(pipe, reference, learnt, images, given, source)
        probe = {name: max(reading["probe"], reading["ridge"], 0.0) for name, reading in readings.items()}
        found: dict[Guidance, _Tried] = {}
        for guidance in tried:
            on_progress(f"{source}: {_words(guidance)}")
            drawn = draw_each(pipe, h, source, seeds, num_inference_steps, guidance)
            found[guidance] = _tried(pipe, attributes, source, h, drawn, given, probe, len(seeds))
            for i, image in enumerate(shown):
                grid += [image, *im.to_pil(drawn[i * len(seeds) : i * len(seeds) + min(len(seeds), SHOWN)])]
                rows.append(f"{source}, image {i}, {_words(guidance)}")
        numbers[source] = _chosen(found)
    columns = ("given", *(f"draw {k}" for k in range(min(len(seeds), SHOWN))))
    result: dict[str, Any] = {"sources": numbers, "images": len(images), "draws": len(seeds)}
    if constant:
        result["constant"] = constant
    return StudyResult(grid, tuple(rows), columns, result, _summary(result))


def _refuse(pipe: RCDMPipeline, images: int, seeds: int, reference: int, tried: Sequence[Guidance]) -> None:
    """ValueError for too few of each, and for scales where the denoiser cannot be guided by one."""
    if images < 2 or seeds < 2:
        raise ValueError("Guidance is chosen on at least 2 images, better 64, and 2 seeds, better 8.")
    if reference < FEWEST_TO_LEARN:
        raise ValueError(
            f"Guidance is chosen by what a probe reads, which needs at least {FEWEST_TO_LEARN} reference images, "
            f"better 2000, and got {reference}."
        )
    if any(one.scale != 1 for one in tried) and not pipe.unet.config.has_unconditional:
        raise ValueError("This denoiser never learned to draw without a representation: set scales to 1.")


@dataclass(frozen=True)
class _Tried:
    """What one guidance makes of a source.

    Args:
        off: the images it is taken over [n] -> mean |R − R² of the probe| over the attributes.
        wrong, counted: attributes whose calibration is off, and those that have one.
    """

    off: Callable[[Tensor], Tensor]
    wrong: int
    counted: int
    n: int
    numbers: dict[str, Any]


def _tried(
    pipe: RCDMPipeline,
    attributes: Attributes,
    source: str,
    h: Tensor,
    drawn: Tensor,
    given: Mapping[str, Tensor],
    probe: Mapping[str, float],
    k: int,
) -> _Tried:
    read = attributes.read(drawn)
    kept = retention_numbers(read, {}, given, k)
    within = {name: variance(read[name].unflatten(0, (-1, k)), 1) for name in given}

    def off(i: Tensor) -> Tensor:
        cells = [1 - within[name][i].mean() / variance(phi[i]) - probe[name] for name, phi in given.items()]
        return torch.stack(cells).abs().mean()

    ratios = [cell["calibration"] for cell in kept.values() if cell["value"] <= UNSTABLE]
    wrong = sum(not HONEST[0] <= ratio <= HONEST[1] for ratio in ratios)
    again, wanted = (pipe.unet.standardise(x, source).cpu() for x in (encode_all(pipe, drawn[::k], source), h))
    names = ("value", "low", "high", "calibration")
    numbers = {
        "cycle_error": cycle_error(again, wanted).to_json(),
        "retention": {name: {key: cell[key] for key in names} | {"probe": probe[name]} for name, cell in kept.items()},
    }
    return _Tried(off, wrong, len(ratios), len(h), numbers)


def _chosen(found: Mapping[Guidance, _Tried]) -> dict[str, Any]:
    """The guidance that is taken, with what was tried."""
    plain = found[OFF]
    gains = {guidance: _gain(plain, one) for guidance, one in found.items()}
    offs = {guidance: bootstrap(one.off, one.n) for guidance, one in found.items()}
    allowed = [guidance for guidance, one in found.items() if one.wrong <= plain.wrong]
    best = min(allowed, key=lambda guidance: offs[guidance].value)
    tried = {
        _words(guidance): {
            "off": offs[guidance].to_json(),
            "gain": gains[guidance].to_json(),
            "uncalibrated": [one.wrong, one.counted],
            **one.numbers,
        }
        for guidance, one in found.items()
    }
    return {**(best if gains[best].low > 0 else OFF).to_json(), "tried": tried}


def _gain(plain: _Tried, one: _Tried) -> Number:
    return bootstrap(lambda i: plain.off(i) - one.off(i), one.n, null=0.0)


def _learn(
    pipe: RCDMPipeline,
    reference: Tensor | Sequence[Image.Image],
    sources: Sequence[str],
    on_progress: Callable[[str], None],
) -> None:
    """Give the pipeline the regressions of these sources that it lacks; each is a part, of one of the processes."""
    known = {} if pipe.regressor is None else {name: pipe.regressor[name] for name in pipe.regressor.names}
    missing = [source for source in sources if source not in known]
    if not missing:
        return
    images = pixels_of(pipe, reference[:LEARNT_FROM]).cpu()

    def learnt(source: str) -> Tensor:
        on_progress(f"{source}: what noisy images say of it, learnt on {len(images)} images")

        def flat() -> Tensor:
            return learn_source(pipe.unet, pipe.sources, Process(pipe.scheduler), images, source).flat()

        return part("regression", {"images": images, "source": source}, flat)

    for source, flat in zip(missing, over_processes(missing, learnt), strict=True):
        known[source] = _blank(pipe, source, len(images)).filled(flat.cpu())
    pipe.use_regressor(Regressor.of(known, pipe.image_size))


def _blank(pipe: RCDMPipeline, source: str, n: int) -> Regression:
    dim = pipe.unet.config.sources[source]
    directions = directions_of(n, dim)
    return Regression.blank(dim, directions, features_of(directions, pipe.image_size), len(LEVELS))


def _words(guidance: Guidance) -> str:
    return guidance.in_words() or "off"


def _tries(scales: str, strengths: str) -> list[Guidance]:
    """What is tried, none first."""
    by_scale = [Guidance(scale=scale) for scale in _numbers("scales", scales)]
    by_regression = [Guidance(strength=strength) for strength in _numbers("strengths", strengths)]
    return list(dict.fromkeys([OFF, *by_scale, *by_regression]))


def _numbers(what: str, text: str) -> list[float]:
    """The numbers of a text, perhaps none. ValueError where they are none."""
    try:
        numbers = sorted({float(word) for word in text.replace(",", " ").split()})
    except ValueError:
        numbers = [-1.0]
    if not all(0 <= number <= 100 for number in numbers):
        raise ValueError(f"{what} are numbers from 0 to 100 with spaces between, such as '1 2', and not {text[:80]!r}.")
    return numbers


def _summary(result: Mapping[str, Any]) -> str:
    """A line per source and guidance, and what is chosen."""
    lines = [
        f"Guidance on {result['images']} images x {result['draws']} draws: mean |retention − R² of the probe| (95 %), "
        "gain over none (95 %), attributes with calibration outside 0.8–1.25, cycle error"
    ]
    for source, own in result["sources"].items():
        for words, one in own["tried"].items():
            off, gain, (wrong, counted) = one["off"], one["gain"], one["uncalibrated"]
            lines.append(
                f"{source:24} {words:>14} {off['value']:.3f} ({off['low']:.3f} … {off['high']:.3f})  "
                f"{gain['value']:+.3f} ({gain['low']:+.3f} … {gain['high']:+.3f})  {wrong} of {counted}  "
                f"{one['cycle_error']['value']:.3f}" + ("  chosen" if words == chosen_words(own) else "")
            )
    return "\n".join([*lines, *constant_in_words(result)])


def chosen_words(own: Mapping[str, Any]) -> str:
    """What was chosen for a source, as `tried` names it."""
    return _words(Guidance(own["guidance_scale"], own["guidance_strength"]))


def _figures(result: StudyResult, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Distance from the probe for each guidance, a line per source; the chosen one is ringed."""
    drawn = figure(DOUBLE / 2, 2.4)
    axes = drawn.subplots()
    for source, own in result.numbers["sources"].items():
        look, words = looks[source], list(own["tried"])
        offs = [one["off"] for one in own["tried"].values()]
        values = [off["value"] for off in offs]
        axes.plot(words, values, color=look.colour, linestyle=look.line, label=source, **look.point)
        k = words.index(chosen_words(own))
        reach = [[values[k] - offs[k]["low"]], [offs[k]["high"] - values[k]]]
        axes.errorbar(words[k], values[k], reach, color=look.colour, elinewidth=0.8)
        axes.plot(words[k], values[k], **_RING)
    axes.tick_params(axis="x", rotation=30)
    axes.set_ylabel("mean |retention − probe R²|")
    drawn.legend(loc="outside right upper")
    return {"": drawn} | general.images(result)


STUDY = Study(
    "guidance",
    __doc__,
    study,
    options=(
        Option("scales", "scales of guidance to try, 1 is off"),
        Option("strengths", "strengths of guidance by regression to try, 0 is off"),
    ),
    objects=("attributes",),
    figures=_figures,
    captions={
        "": "Distance of retention in the draws from what a probe reads from the same representation (R², the better "
        "of a ridge and a small network, at least 0), mean over the attributes, for each guidance; ringed: the chosen "
        "one, with its interval.",
        "images": "Draws of the first images with each guidance; down a column an image has one noise.",
    },
    images=64,
    samples=8,
    fewest=2,
    cost=lambda pictures, numbers, settings: (
        pictures * sum(DEAR if one.strength else 1 for one in _tries(settings["scales"], settings["strengths"]))
    ),
    shared=True,
    led=False,
)
