"""How much of each attribute does a representation keep? Retention, calibration and a probe beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from rcdm import images as im
from rcdm.attributes import Attributes, attributes_of
from rcdm.faithfulness import encode_all, pixels_of
from rcdm.metrics import calibration, calibration_difference, retention
from rcdm.pipeline import RCDMPipeline
from rcdm.probes import mlp_probe, ridge_probe
from rcdm.studies.result import StudyResult


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int],
    probe_images: Tensor | None = None,
    attributes: Attributes | None = None,
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Draw every image with every seed from every source and read the attributes of the draws.

    Images: N PIL images, or [N,3,H,W] in [-1,1].

    Numbers: `sources` -> source -> attribute -> retention (`value`, `low`, `high`, `n`, `null`) with `calibration`,
    `calibration_difference`, and, where `probe_images` [M,3,H,W] are given to train them on, `ridge` and `probe` (MLP).
    The null of retention is the same number for unconditional draws, where the denoiser can make them. Image i and
    seed k share their noise over all sources: the noise of draw k of image i is that of seed `i * len(seeds) + k` after
    the first of `seeds`.
    Raises ValueError when there are fewer than two seeds.
    """
    if len(seeds) < 2:
        raise ValueError("Retention needs at least two seeds: it is about what varies over the draws.")
    attributes = attributes or attributes_of(pipe)
    given = attributes.read(pixels_of(pipe, images))
    noise = [seeds[0] + i * len(seeds) + k for i in range(len(images)) for k in range(len(seeds))]
    free: dict[str, Tensor] = {}
    if pipe.unet.config.has_unconditional:
        on_progress("unconditional draws")
        free = attributes.read(pipe.draw(None, None, noise, num_inference_steps=num_inference_steps))
    numbers: dict[str, Any] = {}
    shown: dict[str, Tensor] = {}
    for source in sources:
        on_progress(source)
        h = encode_all(pipe, images, source)
        draws = pipe.draw(h.repeat_interleave(len(seeds), 0), source, noise, num_inference_steps=num_inference_steps)
        shown[source] = draws[: 4 * len(seeds)]
        read = attributes.read(draws)
        probes = {} if probe_images is None else _probes(pipe, attributes, probe_images, images, source)
        numbers[source] = {
            name: {**_numbers(read[name], free.get(name), given[name], len(seeds)), **probes.get(name, {})}
            for name in given
        }
    few = im.to_pil(pixels_of(pipe, images[:4]))
    grid = []
    for source in sources:
        drawn = im.to_pil(shown[source])
        for i, image in enumerate(few):
            grid += [image, *drawn[i * len(seeds) : (i + 1) * len(seeds)]]
    columns = ("given", *(f"draw {k}" for k in range(len(seeds))))
    rows = tuple(f"{source}, image {i}" for source in sources for i in range(len(few)))
    found = {"sources": numbers, "images": len(images), "draws": len(seeds)}
    return StudyResult(grid, rows, columns, found, _summary(numbers, len(images), len(seeds)))


def _summary(numbers: dict[str, Any], n: int, k: int) -> str:
    """A line per source and attribute: retention with its interval and null, then calibration."""
    lines = [f"Retention on {n} images x {k} draws: value (95 % interval), unconditional draws, calibration"]
    if n < 30:
        lines.append(f"With {n} images the intervals are wide; numbers worth quoting need about a hundred.")
    for source, attributes in numbers.items():
        for name, r in attributes.items():
            null = r.get("null", float("nan"))
            interval = f"({r['low']:.2f} … {r['high']:.2f})"
            lines.append(f"{source:24} {name:18} {r['value']:6.2f} {interval:18} {null:6.2f}  {r['calibration']:.2f}")
    return "\n".join(lines)


def _numbers(drawn: Tensor, free: Tensor | None, given: Tensor, k: int) -> dict[str, Any]:
    drawn = drawn.unflatten(0, (-1, k))
    kept = retention(drawn, given).to_json()
    if free is not None:
        kept["null"] = retention(free.unflatten(0, (-1, k)), given).value
    difference, ratio = calibration_difference(drawn, given), calibration(drawn, given)
    return kept | {
        "calibration": ratio.value,
        "calibration_interval": [ratio.low, ratio.high],
        "calibration_null": ratio.null,
        "calibration_difference": difference.value,
        "calibration_difference_interval": [difference.low, difference.high],
    }


def _probes(
    pipe: RCDMPipeline, attributes: Attributes, train: Tensor, test: Tensor | Sequence[Image.Image], source: str
) -> dict[str, dict[str, Any]]:
    """Held-out R² of a ridge and an MLP probe from standardised h to φ by the same reader."""
    h, h_test = (pipe.unet.standardise(encode_all(pipe, x, source), source).cpu() for x in (train, test))
    phi, phi_test = attributes.read(train), attributes.read(pixels_of(pipe, test))
    found: dict[str, dict[str, Any]] = {}
    for name in phi:
        ridge = ridge_probe(h, phi[name], h_test, phi_test[name])
        mlp = mlp_probe(h, phi[name], h_test, phi_test[name])
        found[name] = {"ridge": ridge.value, "probe": mlp.value, "probe_interval": [mlp.low, mlp.high]}
    return found
