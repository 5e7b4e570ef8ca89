"""How much of each attribute does a representation keep? Retention, calibration and a probe beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures.result import StudyResult
from rcdm.measures.attributes import Attributes, constant_in_words, varying_in
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.metrics import variance
from rcdm.measures.readers import attributes_of
from rcdm.measures.retention import (
    FEWEST_TO_LEARN,
    agreement,
    below_zero,
    cross_check,
    draw_each,
    gaps,
    guided_apart,
    probed,
    read_unconditional,
    retention_numbers,
)
from rcdm.studies.declared import Entry
from rcdm.studies.record import Study
from rcdm.studies.retention_figures import retention_figures


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int],
    probe_images: Tensor | None = None,
    attributes: Attributes | None = None,
    guided: RCDMPipeline | None = None,
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Draw every image with every seed from every source and read the attributes of the draws.

    Images: N PIL images, or [N,3,H,W] in [-1,1].

    Numbers: `sources` -> source -> attribute -> retention (`value`, `low`, `high`, `n`, `null`) with `calibration`,
    `calibration_difference`, and, where `probe_images` [M,3,H,W] are given to train them on, `ridge` and `probe` (MLP).
    The null of retention is the same number for unconditional draws, where the denoiser can make them. `differences`:
    network -> attribute -> backbone minus projector, paired on images and noise, with `p` of a sign-flip test over
    images and `p_holm`, corrected for all differences of the study; `not_compared`: network -> why, where draws of the
    two levels are guided differently. `agreement`: Spearman correlation of retention with the R² of each probe over all
    sources and attributes. With `guided`, a second pipeline for the same sources that learnt nothing from them
    (`rcdm.guided`), `cross_check`: source -> attribute -> what both say (`trained`, `guided`), and whether they are
    `apart`: their intervals do not meet. `constant`: attributes that are left out, as no two images differ in them.
    Draw k of image i has the noise of seed `i * len(seeds) + k` after the first of `seeds`, whatever the source.
    Raises ValueError when there are fewer than two seeds or images, or too few images for probes.
    """
    refuse_too_few(len(images), len(seeds), None if probe_images is None else len(probe_images))
    attributes, constant = varying_in(attributes or attributes_of(pipe), pixels_of(pipe, images))
    given = attributes.read(pixels_of(pipe, images))
    learnt = {} if probe_images is None else attributes.read(pixels_of(pipe, probe_images))
    on_progress("unconditional draws")
    free = read_unconditional(pipe, attributes, len(images), seeds, num_inference_steps)
    numbers: dict[str, Any] = {}
    shown: dict[str, Tensor] = {}
    within: dict[str, dict[str, Tensor]] = {}
    errors: dict[str, dict[str, dict[str, Tensor]]] = {}
    checked: dict[str, Any] = {}
    for source in sources:
        on_progress(source)
        h = encode_all(pipe, images, source)
        draws = draw_each(pipe, h, source, seeds, num_inference_steps)
        shown[source] = draws[: 4 * len(seeds)]
        read = attributes.read(draws)
        numbers[source] = retention_numbers(read, free, given, len(seeds))
        within[source] = {name: variance(read[name].unflatten(0, (-1, len(seeds))), 1) for name in given}
        if probe_images is not None:
            probes, errors[source] = probed(pipe, probe_images, learnt, images, given, source)
            for name, found in probes.items():
                numbers[source][name] |= found
        if guided is not None:
            on_progress(f"{source}, guided")
            second = attributes.read(pixels_of(pipe, draw_each(guided, h, source, seeds, num_inference_steps)))
            checked[source] = cross_check(numbers[source], retention_numbers(second, {}, given, len(seeds)))
    more = _differences(pipe, within, given) | {"agreement": _agreement(within, errors, given), "cross_check": checked}
    result: dict[str, Any] = {"sources": numbers, "images": len(images), "draws": len(seeds)}
    result |= {name: found for name, found in (more | {"constant": constant}).items() if found}
    grid, rows = _pictures(im.to_pil(pixels_of(pipe, images[:4])), shown, len(seeds))
    return StudyResult(grid, rows, ("given", *(f"draw {k}" for k in range(len(seeds)))), result, _summary(result))


def refuse_too_few(images: int, seeds: int, probe_images: int | None) -> None:
    """ValueError for what cannot be measured; `probe_images` None is without probes."""
    if seeds < 2:
        raise ValueError("Retention needs at least two seeds: it is about what varies over the draws.")
    if images < 2:
        raise ValueError(f"Retention needs at least 2 images, better 128, and got {images}.")
    if probe_images is not None and probe_images < FEWEST_TO_LEARN:
        raise ValueError(
            f"Probes need at least {FEWEST_TO_LEARN} training images, better 2000, and got {probe_images}."
        )


def _differences(
    pipe: RCDMPipeline, within: Mapping[str, Mapping[str, Tensor]], given: Mapping[str, Tensor]
) -> dict[str, Any]:
    """`differences` of the networks whose levels are guided alike, and `not_compared` of the others."""
    apart = guided_apart(pipe, list(within))
    alike = {source: found for source, found in within.items() if source.partition("/")[0] not in apart}
    return {"differences": gaps(alike, given), "not_compared": apart}


def _agreement(
    within: Mapping[str, Mapping[str, Tensor]],
    errors: Mapping[str, Mapping[str, Mapping[str, Tensor]]],
    given: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Probe -> how retention goes with its R²; nothing for fewer than 4 pairs, or where all of them are alike."""
    if len(errors) * len(given) < 4:
        return {}
    found = {
        probe: agreement(within, {source: of[probe] for source, of in errors.items()}, given)
        for probe in ("ridge", "probe")
    }
    return {probe: rho.to_json() for probe, rho in found.items() if math.isfinite(rho.low)}


def _pictures(
    given: list[Image.Image], shown: Mapping[str, Tensor], k: int
) -> tuple[list[Image.Image], tuple[str, ...]]:
    grid = []
    for draws in shown.values():
        drawn = im.to_pil(draws)
        for i, image in enumerate(given):
            grid += [image, *drawn[i * k : (i + 1) * k]]
    return grid, tuple(f"{source}, image {i}" for source in shown for i in range(len(given)))


def _summary(result: dict[str, Any]) -> str:
    """A line per source and attribute, then the differences that are more than chance, and the agreement of probes."""
    n, k = result["images"], result["draws"]
    probed = any("probe" in r for attributes in result["sources"].values() for r in attributes.values())
    lines = [
        f"Retention on {n} images x {k} draws: value (95 % interval), unconditional draws, calibration"
        + (", R² of the probe" if probed else "")
    ]
    if n < 30:
        lines.append(f"With {n} images the intervals are wide; numbers worth quoting need about a hundred.")
    for source, attributes in result["sources"].items():
        for name, r in attributes.items():
            null = r.get("null", float("nan"))
            interval = f"({r['low']:.2f} … {r['high']:.2f})"
            probe = f"{r['probe']:6.2f}" if "probe" in r else ""
            numbers = f"{r['value']:6.2f} {interval:18} {null:6.2f} {r['calibration']:6.2f} {probe}"
            lines.append(f"{source:24} {name:18} {numbers}".rstrip())
    if caution := below_zero(result["sources"]):
        lines.append(caution)
    for network, attributes in result.get("differences", {}).items():
        lines.append(f"{network}, backbone − projector (Holm-corrected p of a sign-flip test over images):")
        lines += [
            f"  {name:18} {d['value']:+.2f} ({d['low']:+.2f} … {d['high']:+.2f})  p {d['p_holm']:.4f}"
            for name, d in attributes.items()
        ]
    lines += [
        f"{network}, backbone − projector: left out, as their draws are not guided alike ({held}); --guidance-scale 1 "
        "draws both without, --guidance-strength 1 leads both."
        for network, held in result.get("not_compared", {}).items()
    ]
    lines += constant_in_words(result)
    lines += _cross_check_in_words(result.get("cross_check", {}))
    for probe, rho in result.get("agreement", {}).items():
        name = {"ridge": "ridge", "probe": "MLP"}[probe]
        lines.append(
            f"Spearman correlation of retention with R² of the {name} probe, over all sources and attributes: "
            f"{rho['value']:.2f} ({rho['low']:.2f} … {rho['high']:.2f})"
        )
    return "\n".join(lines)


def _cross_check_in_words(found: Mapping[str, Any]) -> list[str]:
    """Where the two answers are apart, and where they are not."""
    cells = [(source, name, cell) for source, of in found.items() for name, cell in of.items()]
    apart = [cell for cell in cells if cell[2]["apart"]]
    if not cells:
        return []
    lines = [
        f"Two answers, of the trained decoder and of a guided prior: their intervals meet in "
        f"{len(cells) - len(apart)} of {len(cells)} cells." + (" They are apart in:" if apart else "")
    ]
    for source, name, cell in apart:
        one, two = cell["trained"], cell["guided"]
        nearer = f"; the probe ({cell['probe']:.2f}) is nearer to the {cell['nearer']}" if "nearer" in cell else ""
        lines.append(
            f"  {source:24} {name:18} trained {one['value']:.2f} ({one['low']:.2f} … {one['high']:.2f}), "
            f"guided {two['value']:.2f} ({two['low']:.2f} … {two['high']:.2f}){nearer}"
        )
    return lines


STUDY = Study(
    "retention",
    __doc__,
    study,
    objects=("attributes", "guided"),
    figures=retention_figures,
    captions={
        "": "Retention: the share of each attribute's variance that a source fixes. Grey ticks: unconditional draws; "
        "crosses: what a small network reads from the same representation (held-out R²).",
        "differences": "Retention in the backbone minus that in the projector, on the same images and noise; filled: "
        "different from 0 by a sign-flip test over images, p < 0.05 after Holm's correction for all of them.",
        "agreement": "Retention against what a probe reads from the same representation (R²), a point per source and "
        "attribute, with their Spearman correlation; on the line the draws keep just what the probe finds.",
        "cross-check": "Retention in the draws of the trained decoder and in those of a guided prior that learnt "
        "nothing from these sources, a point per source and attribute; on the line both say the same.",
        "calibration": "Calibration of the draws: 1 exact, above 1 too certain; unstable where retention is above 0.9.",
        "images": "Draws of the first images from every source; down a column an image has one noise.",
    },
    images=128,
    samples=16,
    fewest=2,
    shared=True,
    report={"retention": Entry(quick=(16, 4))},
)
