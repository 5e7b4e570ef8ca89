"""Everything a checkpoint is measured by, written as its metrics.json."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcdm.attributes import Attributes, attributes_of
from rcdm.datasets import Dataset
from rcdm.evaluator import Evaluator
from rcdm.faithfulness import encode_all, faithfulness_of
from rcdm.metrics import cycle_error, variance
from rcdm.pipeline import RCDMPipeline
from rcdm.studies import retention


@dataclass(frozen=True)
class EvaluationSize:
    """How much is drawn; the defaults are what the published tables use."""

    gallery: int = 1000
    retention_images: int = 128
    retention_draws: int = 16
    probe_images: int = 4096


def evaluate(
    pipe: RCDMPipeline,
    dataset: Dataset,
    size: EvaluationSize | None = None,
    *,
    evaluator: Evaluator | None = None,
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure every source on images that nothing was trained on; the result is what metrics.json holds.

    Per source: `cycle_error` with `cycle_error_shuffled` (null) and `cycle_error_shifted` (floor: the image moved by a
    pixel instead of drawn), `mrr`, `recall_at_1`, `similarity_floor` (below it an image is foreign to the checkpoint),
    and per attribute `retention` with probe and calibration. With an evaluator also `kid`, `copying` and
    `spread_perceptual` (of two draws of an image), to be compared with those of unconditional draws (`unconditional`),
    and the retention of the `class` that it reads.
    """
    size = size or EvaluationSize()
    begun = time.monotonic()
    held_out = dataset.held_out(size.gallery).images.cpu()
    attributes = _attributes(pipe, evaluator)
    result: dict[str, Any] = {
        "n": len(held_out),
        "data": dataset.name,
        "num_inference_steps": num_inference_steps or pipe.config.default_steps,
        "retention_images": min(size.retention_images, len(held_out)),
        "retention_draws": size.retention_draws,
        "torch_threads": torch.get_num_threads(),
        "spread": {name: float(variance(phi)) for name, phi in attributes.read(held_out).items()},
    }
    if evaluator is not None:
        on_progress("unconditional draws")
        free = pipe.draw(None, None, range(len(held_out)), num_inference_steps=num_inference_steps)
        half = torch.stack(free[: len(free) // 2 * 2].split(len(free) // 2), 1)
        result |= {"evaluator": evaluator.name, "unconditional": _realism(evaluator, free, held_out, half)}
    numbers: dict[str, Any] = {}
    for source in pipe.sources.names:
        on_progress(f"{source}: one draw of each of {len(held_out)} images")
        h = encode_all(pipe, held_out, source)
        drawn = pipe.draw(h, source, range(len(h)), num_inference_steps=num_inference_steps)
        found = faithfulness_of(pipe, h, drawn, source)
        numbers[source] = {name: number.to_json() for name, number in found.items()}
        numbers[source] |= _references(pipe, held_out, source)
        if evaluator is not None:
            n = min(size.retention_images, len(h))
            again = pipe.draw(h[:n], source, range(len(h), len(h) + n), num_inference_steps=num_inference_steps)
            numbers[source] |= _realism(evaluator, drawn, held_out, torch.stack([drawn[:n], again], 1))
    kept = retention.study(
        pipe,
        held_out[: size.retention_images],
        sources=pipe.sources.names,
        seeds=range(size.retention_draws),
        probe_images=dataset.batch(0, size.probe_images).images.cpu(),
        attributes=attributes,
        num_inference_steps=num_inference_steps,
        on_progress=lambda name: on_progress(f"retention: {name}"),
    )
    for source, of_attributes in kept.numbers["sources"].items():
        numbers[source]["retention"] = of_attributes
    return {**result, "seconds": round(time.monotonic() - begun), "sources": numbers}


def _attributes(pipe: RCDMPipeline, evaluator: Evaluator | None) -> Attributes:
    """Those of the checkpoint, and the class that the evaluator reads."""
    own = attributes_of(pipe)
    if evaluator is None:
        return own
    return Attributes(lambda images: {**own.read(images), "class": evaluator.classes(images)}, own.spread)


def _realism(evaluator: Evaluator, drawn: Tensor, real: Tensor, pairs: Tensor) -> dict[str, Any]:
    """Draws [N,3,H,W] beside held-out images, and pairs [n,2,3,H,W] of draws that share an image."""
    return {
        "kid": evaluator.kid(drawn, real),
        "copying": evaluator.copying(drawn, real).to_json(),
        "spread_perceptual": evaluator.spread(pairs, real).to_json(),
    }


def _references(pipe: RCDMPipeline, images: Tensor, source: str) -> dict[str, Any]:
    """Cycle error of the wrong image (null) and of the right one moved by a pixel (floor)."""
    given = pipe.unet.standardise(encode_all(pipe, images, source), source).cpu()
    moved = pipe.unet.standardise(encode_all(pipe, images.roll(1, 3), source), source).cpu()
    shuffled = cycle_error(given.roll(1, 0), given).to_json()
    shuffled.pop("null")
    floor = cycle_error(moved, given).to_json()
    floor.pop("null")
    return {"cycle_error_shuffled": shuffled, "cycle_error_shifted": floor}


def markdown_tables(metrics: dict[str, Any]) -> str:
    """metrics.json as two Markdown tables: source x faithfulness, and source x attribute."""
    sources = metrics["sources"]
    lines = [
        f"Gallery of {metrics['n']} held-out images, one draw each; retention on {metrics['retention_images']} images "
        f"x {metrics['retention_draws']} draws; {metrics['num_inference_steps']} steps.",
        "",
        "| source | cycle error (95 %) | shuffled | shifted 1 px | MRR (95 %) | R@1 | chance MRR |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, m in sources.items():
        lines.append(
            f"| {name} | {_interval(m['cycle_error'])} | {m['cycle_error_shuffled']['value']:.2f} "
            f"| {m['cycle_error_shifted']['value']:.3f} | {_interval(m['mrr'])} "
            f"| {m['recall_at_1']['value']:.2f} | {m['mrr']['null']:.4f} |"
        )
    if "unconditional" in metrics:
        lines += [
            "",
            f"Judged by {metrics['evaluator']} (never a source): KID x 1000; copying, the distance of the draws to the "
            "nearest training image over that of held-out images (1: none); spread, the distance of two draws of an "
            "image over that of two images.",
            "",
        ]
        lines += ["| source | KID (± deviation) | copying (95 %) | spread (95 %) |", "|---|---|---|---|"]
        for name, m in {**sources, "*unconditional draws*": metrics["unconditional"]}.items():
            kid = f"{m['kid']['value']:.2f} ± {m['kid']['deviation']:.2f}"
            lines.append(f"| {name} | {kid} | {_interval(m['copying'])} | {_interval(m['spread_perceptual'])} |")
    attributes = list(next(iter(sources.values()))["retention"])
    lines += ["", "| source | " + " | ".join(attributes) + " |", "|---" * (len(attributes) + 1) + "|"]
    for name, m in sources.items():
        cells = []
        for attribute in attributes:
            r = m["retention"][attribute]
            honest = f"ρ {r['calibration']:.2f}" if r["value"] <= 0.9 else f"δ {r['calibration_difference']:.2f}"
            cells.append(f"{r['value']:.2f} · {r['probe']:.2f} · {honest}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    null = [f"{next(iter(sources.values()))['retention'][attribute]['null']:.2f}" for attribute in attributes]
    lines.append("| *unconditional draws (null of retention)* | " + " | ".join(null) + " |")
    return "\n".join(lines)


def _interval(number: dict[str, Any]) -> str:
    return f"{number['value']:.3f} ({number['low']:.3f}–{number['high']:.3f})"


def write_metrics(metrics: dict[str, Any], folder: Path) -> Path:
    """Write metrics.json into a checkpoint folder."""
    target = folder / "metrics.json"
    target.write_text(json.dumps(metrics, indent=1) + "\n")
    return target
