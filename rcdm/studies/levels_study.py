"""What does each level of a network hold, from its first stage to the end of its projector (guillotine)?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.data.transformations import TELLING
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures.result import StudyResult
from rcdm.measures.attributes import Attributes, constant_in_words, varying_in
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.information import measure_bits, noise_ladder
from rcdm.measures.levels import levels_of, levels_with, transformation_probe
from rcdm.measures.metrics import cycle_error, effective_rank, jackknife, mean
from rcdm.measures.parts import json_part
from rcdm.measures.probes import linear_probe, ridge_probe
from rcdm.measures.readers import attributes_of
from rcdm.measures.retention import below_zero, draw_each, read_unconditional, retention_numbers
from rcdm.networks.sources import CONTROL
from rcdm.studies.declared import Entry, Option
from rcdm.studies.levels_figures import CAPTIONS, figures
from rcdm.studies.record import Study

LOWEST, HIGHEST = -8.0, 6.0  # of the bits, ln SNR; as in the study of information


@dataclass(frozen=True)
class _Labelled:
    """Images [N,3,S,S] with their attributes and, where they are known, classes int64 [N]."""

    images: Tensor
    phi: Mapping[str, Tensor]
    labels: Tensor | None


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int],
    reference: Tensor | Sequence[Image.Image],
    labels: Tensor | None = None,
    reference_labels: Tensor | None = None,
    drawn_images: int = 32,
    noise_levels: int = 24,
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Probe every level of the networks of `sources`, and draw from those that the checkpoint has a decoder for.

    Networks of the checkpoint that no source reads, such as the label-aligned control (`sources.CONTROL`), stand beside
    them without draws. Probes learn on `reference` images and are measured on `images` (N), all at the size of the
    drawn ones; draws are made of the first `drawn_images`. Numbers: `networks` -> network -> `objective` where it is
    known, `levels` and `best` (measure -> level). Per level: `width`, `effective_rank` (of `reference`), `ridge`
    (attribute -> R²), `transformation_probe` (name -> accuracy), with labels `linear_top1`; where there is a decoder
    `retention`, `cycle_error` and `bits` (form 1 over `noise_levels`, null: h of the next image), else `no_decoder` or
    `not_asked_for`.
    Raises ValueError for fewer than 8 images, 20 reference images, 2 seeds or 2 `drawn_images`.
    """
    if len(images) < 8 or len(reference) < 20:
        raise ValueError(
            f"Probes need at least 8 images, better 500, and 20 reference images, better 2000; they got {len(images)} "
            f"and {len(reference)}."
        )
    if len(seeds) < 2 or drawn_images < 2:
        raise ValueError("Retention at each level needs at least two seeds and two drawn_images, better 32.")
    x = pixels_of(pipe, images).to(pipe.device)
    attributes, constant = varying_in(attributes_of(pipe), x[:drawn_images])
    test, train = (
        _labelled(pipe, attributes, pictures, known)
        for pictures, known in ((images, labels), (reference, reference_labels))
    )
    few = test.images[:drawn_images]
    ladder = noise_ladder(pipe, noise_levels, LOWEST, HIGHEST) if pipe.unet.config.has_unconditional else []
    drawn, shown = _drawn(pipe, few, sources, seeds, attributes, ladder, num_inference_steps, on_progress)
    numbers: dict[str, Any] = {}
    for name in dict.fromkeys([*(source.partition("/")[0] for source in sources), *pipe.sources.beside]):
        on_progress(f"{name}: probes at every level")
        levels = _probed(pipe, name, [s.partition("/")[2] for s in sources if s.startswith(f"{name}/")], train, test)
        for level, measures in levels.items():
            known = f"{name}/{level}" in pipe.sources.names
            measures |= drawn.get(f"{name}/{level}", {"not_asked_for" if known else "no_decoder": True})
        objective = pipe.sources.config_of(name).get("training", {}).get("objective")
        numbers[name] = {"objective": objective} if objective else {}
        numbers[name] |= {"levels": levels, "best": _best(levels)}
    grid, rows = _pictures(few[:1], shown)
    setting: dict[str, Any] = {"images": len(test.images), "reference": len(train.images), "drawn_images": len(few)}
    if constant:
        setting["constant"] = constant
    result = {**setting, "seeds": list(seeds), "logsnr": [LOWEST, HIGHEST], "networks": numbers}
    return StudyResult(grid, rows, ("given", *(f"draw {k}" for k in range(len(seeds)))), result, _summary(result))


def _labelled(
    pipe: RCDMPipeline, attributes: Attributes, images: Tensor | Sequence[Image.Image], labels: Tensor | None
) -> _Labelled:
    x = pixels_of(pipe, images).to(pipe.device)
    return _Labelled(x, attributes.read(x), labels)


def _probed(
    pipe: RCDMPipeline, name: str, drawn: Sequence[str], train: _Labelled, test: _Labelled
) -> dict[str, dict[str, Any]]:
    """Level, by default or `drawn`, -> what needs no decoder; finished parts are kept."""
    network, preprocessing = pipe.sources.network(name)
    levels = levels_with(network, drawn)
    inputs: dict[str, Any] = {"network": name, "levels": levels, "train": train.images, "test": test.images}
    inputs |= {f"{kind} {a}": phi for kind, of in (("train", train), ("test", test)) for a, phi in of.phi.items()}
    inputs |= {"labels": train.labels, "test labels": test.labels}

    def encode(images: Tensor) -> dict[str, Tensor]:
        return {level: h.cpu() for level, h in levels_of(network, preprocessing, images, levels=levels).items()}

    def read() -> dict[str, dict[str, Any]]:
        return _read(encode(train.images), encode(test.images), train, test)

    def tell(telling: str) -> dict[str, Any]:
        accuracies = transformation_probe(encode, train.images, test.images, telling, penalties=(1e-4,))
        return {level: number.to_json() for level, number in accuracies.items()}

    measures: dict[str, dict[str, Any]] = json_part("probes", inputs, read)
    for telling in TELLING:
        accuracies = json_part("telling", {**inputs, "telling": telling}, partial(tell, telling))
        for level, number in accuracies.items():
            measures[level].setdefault("transformation_probe", {})[telling] = number
    return measures


def _read(
    h: Mapping[str, Tensor], h_test: Mapping[str, Tensor], train: _Labelled, test: _Labelled
) -> dict[str, dict[str, Any]]:
    """Level -> width, rank, R² of each attribute and, with labels, the class; of representations by level, [M,D]."""
    measures: dict[str, dict[str, Any]] = {}
    for level in h:
        spread, centre = h[level].std(0).clamp(min=1e-6), h[level].mean(0)
        z, z_test = ((part[level] - centre) / spread for part in (h, h_test))
        rank = jackknife(lambda i, level=level: effective_rank(h[level][i]), len(z))  # type: ignore[misc]
        measures[level] = {
            "width": z.shape[1],
            "effective_rank": rank.to_json(),
            "ridge": {a: ridge_probe(z, phi, z_test, test.phi[a]).to_json() for a, phi in train.phi.items()},
        }
        if train.labels is not None and test.labels is not None:
            linear = linear_probe(z, train.labels.cpu(), z_test, test.labels.cpu())
            measures[level]["linear_top1"] = linear.to_json()
    return measures


def _drawn(
    pipe: RCDMPipeline,
    x: Tensor,
    sources: Sequence[str],
    seeds: Sequence[int],
    attributes: Attributes,
    ladder: list[int],
    steps: int | None,
    on_progress: Callable[[str], None],
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """Source -> what needs its decoder, and the draws of the first image [K,3,S,S]."""
    given = attributes.read(x)
    on_progress("unconditional draws")
    free = read_unconditional(pipe, attributes, len(x), seeds, steps)
    measures: dict[str, dict[str, Any]] = {}
    shown: dict[str, Tensor] = {}
    for source in sources:
        on_progress(f"{source}: draws")
        h = encode_all(pipe, x, source)
        draws = draw_each(pipe, h, source, seeds, steps)
        shown[source] = draws[: len(seeds)]
        kept, target = (
            pipe.unet.standardise(z, source).cpu() for z in (encode_all(pipe, draws[:: len(seeds)], source), h)
        )
        measures[source] = {
            "retention": retention_numbers(attributes.read(draws), free, given, len(seeds)),
            "cycle_error": cycle_error(kept, target).to_json(),
        }
        if ladder:
            bits, null = (measure_bits(pipe, x, each, source, ladder, seeds[0]).form_1 for each in (h, h.roll(1, 0)))
            measures[source]["bits"] = mean(bits, null=float(null.mean())).to_json()
    return measures, shown


def _best(levels: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Measure -> the level where it is largest: the class, and each attribute by its ridge probe."""
    measures: dict[str, dict[str, float]] = {}
    for level, found in levels.items():
        if "linear_top1" in found:
            measures.setdefault("linear_top1", {})[level] = found["linear_top1"]["value"]
        for name, number in found["ridge"].items():
            measures.setdefault(name, {})[level] = number["value"]
    return {measure: max(values, key=lambda level: values[level]) for measure, values in measures.items()}


def _pictures(given: Tensor, shown: Mapping[str, Tensor]) -> tuple[list[Image.Image], tuple[str, ...]]:
    grid = [image for draws in shown.values() for image in im.to_pil(torch.cat([given.cpu(), draws.cpu()]))]
    return grid, tuple(shown)


def _summary(result: dict[str, Any]) -> str:
    lines = [
        f"Probes learnt on {result['reference']} images, measured on {result['images']}; {result['drawn_images']} "
        f"images x {len(result['seeds'])} draws where the checkpoint has a decoder. Per level: width, effective rank, "
        "class (linear top-1), R² of each attribute, accuracy at telling transformations, retention of each, bits"
    ]
    measured = [levels for network in result["networks"].values() for levels in network["levels"].values()]
    for what, key in (("attributes", "ridge"), ("transformations", "transformation_probe")):
        if names := next((list(levels[key]) for levels in measured if levels.get(key)), []):
            lines.append(f"{what}: {', '.join(names)}")
    for name, network in result["networks"].items():
        control = ", the label-aligned control" if network.get("objective") == CONTROL else ""
        if all("no_decoder" in measures for measures in network["levels"].values()):
            control += "; the checkpoint has no decoder for it: no draws and no bits"
        lines.append(f"{name} ({network.get('objective', 'objective not known')}{control})")
        lines += [f"  {level:12} {_line(measures)}" for level, measures in network["levels"].items()]
        best = ", ".join(f"{measure} {level}" for measure, level in network["best"].items())
        lines.append(f"  best level: {best}")
    kept = {f"{n}/{k}": v.get("retention", {}) for n, m in result["networks"].items() for k, v in m["levels"].items()}
    if caution := below_zero(kept):
        lines.append(caution)
    partly = {
        n: m["levels"] for n, m in result["networks"].items() if any("retention" in v for v in m["levels"].values())
    }
    missing = [f"{n}/{k}" for n, levels in partly.items() for k, v in levels.items() if "no_decoder" in v]
    if missing:
        lines.append(f"This checkpoint has no decoder for {', '.join(missing)}: no draws and no bits there.")
    unasked = [f"{n}/{k}" for n, levels in partly.items() for k, v in levels.items() if "not_asked_for" in v]
    if unasked:
        lines.append(f"Without draws and bits, as nobody asked for them: {', '.join(unasked)} (--source).")
    return "\n".join([*lines, *constant_in_words(result)])


def _line(measures: Mapping[str, Any]) -> str:
    def numbers(name: str) -> str:
        return " ".join(f"{number['value']:5.2f}" for number in measures.get(name, {}).values())

    top = f"{100 * measures['linear_top1']['value']:5.1f}%" if "linear_top1" in measures else ""
    bits = f"{measures['bits']['value']:.0f} bits" if "bits" in measures else ""
    parts = [f"{measures['width']:5} {measures['effective_rank']['value']:6.1f}", top, numbers("ridge")]
    return " | ".join([*parts, numbers("transformation_probe"), numbers("retention"), bits]).rstrip(" |")


STUDY = Study(
    "levels",
    __doc__,
    study,
    options=(
        Option("drawn_images", "of how many images draws are made and bits measured"),
        Option("noise_levels", "noise levels that the bits are summed over"),
    ),
    figures=figures,
    captions=CAPTIONS,
    images=500,
    samples=8,
    fewest=8,
    report={"levels": Entry(quick=(64, 2), quick_settings={"drawn_images": 8, "noise_levels": 10})},
)
