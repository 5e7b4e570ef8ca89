"""Everything a checkpoint is measured by, written as its metrics.json."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcdm.data.dataset_protocol import Dataset, first_images
from rcdm.diffusion.guidance_settings import OFF, unguided
from rcdm.diffusion.guided import GuidedPipeline
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.attributes import Attributes
from rcdm.measures.faithfulness import encode_all, faithfulness_of
from rcdm.measures.judge import Evaluator, is_sister
from rcdm.measures.metrics import cycle_error, finite, variance
from rcdm.measures.readers import attributes_of
from rcdm.measures.realism import realism
from rcdm.measures.shares import seed_told, variance_shares
from rcdm.studies import guidance_scale, retention_study
from rcdm.studies.evaluation_size import EvaluationSize

SHARED_IMAGES, SHARED_SEEDS = 32, 4
"""How many images and seeds the shares of the variance are measured on."""


def evaluate(
    pipe: RCDMPipeline,
    dataset: Dataset,
    size: EvaluationSize | None = None,
    *,
    evaluator: Evaluator | None = None,
    class_readers: Sequence[Evaluator] = (),
    num_inference_steps: int | None = None,
    images: tuple[Tensor, Tensor] | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure every source on images that nothing was trained on; the result is what metrics.json holds.

    Per source: `cycle_error` with `cycle_error_shuffled` (null) and `cycle_error_shifted` (floor: the image moved by a
    pixel instead of drawn), `mrr`, `recall_at_1`, `similarity_floor` (below it an image is foreign to the checkpoint),
    and per attribute `retention` with probe and calibration. With an evaluator also `kid`, `fid`, `copying`,
    `copied` and `spread_perceptual` (of two draws of an image), to be compared with those of unconditional draws
    (`unconditional`, where the denoiser can make them), the retention of the `class` that it reads, and `sister` where
    the network of the source is of the evaluator's own family; `class_readers` read the class, too. With
    `realism_draws` KID and FID are of so many draws against training images. `differences` and `agreement` are those
    of `studies.retention`, the differences of a network whose levels are guided differently those without guidance.
    Raises ValueError for too few images, before anything is drawn; `images` is what `enough_images` gave whoever asked
    before. `shares`: of the variance of the pixels, those that image, source and seed decide, and `seed_told`, as in
    `measures.shares`.
    First guidance is chosen for every source on images after the gallery (`guidance`, as `studies.guidance_scale` has
    it; its regression is learnt on the images of the probes), and left with the pipeline: all draws are guided so
    (`guidance_scale`, `guidance_strength`), and what they are worth without is in `unguided`.
    """
    size = size or EvaluationSize()
    begun = time.monotonic()
    held_out, probe_images = images or enough_images(dataset, size)
    attributes = _attributes(pipe, evaluator, class_readers)
    result = _setting(size, len(held_out), dataset.name, num_inference_steps or pipe.config.default_steps)
    result["probe_images"] = len(probe_images)
    result["scheduler"] = type(pipe.scheduler).__name__
    result["mixed_precision"] = pipe.unet.mixed_precision
    result["spread"] = {name: float(variance(phi)) for name, phi in attributes.read(held_out).items()}

    if size.guidance_images:
        result |= _guided_by_truth(pipe, dataset, probe_images, attributes, size, num_inference_steps, on_progress)
    judged = _Judged(pipe, dataset, held_out, size, num_inference_steps, on_progress)
    if evaluator is not None:
        result["evaluator"] = evaluator.name
        if pipe.unet.config.has_unconditional:
            result["unconditional"] = judged.unconditional(evaluator)
    numbers: dict[str, Any] = {}
    for source in pipe.sources.names:
        on_progress(f"{source}: one draw of each of {len(held_out)} images")
        h = encode_all(pipe, held_out, source)
        drawn, numbers[source] = _followed(pipe, h, source, num_inference_steps)
        numbers[source] |= _references(pipe, held_out, source)
        if evaluator is not None:
            numbers[source] |= judged.of_source(evaluator, source, h, drawn)
    result["shares"] = _shares(pipe, held_out[:SHARED_IMAGES], num_inference_steps, on_progress)
    result |= _retained(pipe, numbers, held_out, probe_images, attributes, size, num_inference_steps, on_progress)
    return {**result, "seconds": round(time.monotonic() - begun), "sources": numbers}


def _followed(pipe: RCDMPipeline, h: Tensor, source: str, steps: int | None) -> tuple[Tensor, dict[str, Any]]:
    """A draw of each row of h [N,D], and how far they follow it; where they are guided, without guidance, too."""
    seeds = range(len(h))

    def found(drawn: Tensor) -> dict[str, Any]:
        return {name: number.to_json() for name, number in faithfulness_of(pipe, h, drawn, source).items()}

    drawn, guidance = pipe.draw(h, source, seeds, num_inference_steps=steps), pipe.guidance_of(source)
    numbers = found(drawn) | guidance.to_json()
    if guidance != OFF:
        numbers["unguided"] = found(pipe.draw(h, source, seeds, num_inference_steps=steps, guidance_scale=1))
    return drawn, numbers


def _retained(
    pipe: RCDMPipeline,
    numbers: dict[str, Any],
    images: Tensor,
    probe_images: Tensor,
    attributes: Attributes,
    size: EvaluationSize,
    steps: int | None,
    on_progress: Callable[[str], None],
) -> dict[str, Any]:
    """Put the retention of every source into its `numbers`; returns `differences` and `agreement`."""
    retained = partial(
        retention_study.study,
        pipe,
        images[: size.retention_images],
        seeds=range(size.retention_draws),
        attributes=attributes,
        num_inference_steps=steps,
        on_progress=lambda name: on_progress(f"retention: {name}"),
    )
    kept = retained(sources=pipe.sources.names, probe_images=probe_images).numbers
    for source, of_attributes in kept["sources"].items():
        numbers[source]["retention"] = of_attributes
    result: dict[str, Any] = {name: kept[name] for name in ("differences", "agreement") if name in kept}
    if led := list(pipe.guided_sources):
        on_progress("the same without guidance")
        others = [name for name in pipe.sources.names if name.partition("/")[0] in kept.get("not_compared", {})]
        with unguided(pipe):
            plain = retained(sources=list(dict.fromkeys([*led, *others]))).numbers
        _beside(numbers, {source: plain["sources"][source] for source in led})
        unlike = {network: plain["differences"][network] for network in kept.get("not_compared", {})}
        result["differences"] = result.get("differences", {}) | unlike
    return result


def _beside(numbers: dict[str, Any], plain: Mapping[str, Any]) -> None:
    """Put retention without guidance, source -> attribute -> cell, beside that with it; the probe is the same."""
    for source, cells in plain.items():
        read = numbers[source]["retention"]
        numbers[source]["unguided"]["retention"] = {
            name: cell | {"probe": read[name]["probe"]} for name, cell in cells.items()
        }


def enough_images(dataset: Dataset, size: EvaluationSize) -> tuple[Tensor, Tensor]:
    """Held-out images and those that probes learn from. ValueError where there are too few for any number."""
    if 0 < size.realism_draws < 4:
        raise ValueError(f"realism_draws must be at least 4, better 50000, and is {size.realism_draws}.")
    held_out = dataset.held_out(size.gallery).images.cpu()
    if len(held_out) < 2:
        raise ValueError(
            f"{dataset.name} holds out {len(held_out)} of its images, and evaluation needs at least 2, better 1000: "
            "give more images."
        )
    probe_images = first_images(dataset, size.probe_images).images.cpu()
    retention_study.refuse_too_few(min(size.retention_images, len(held_out)), size.retention_draws, len(probe_images))
    return held_out, probe_images


def _guided_by_truth(
    pipe: RCDMPipeline,
    dataset: Dataset,
    probe_images: Tensor,
    attributes: Attributes,
    size: EvaluationSize,
    steps: int | None,
    on_progress: Callable[[str], None],
) -> dict[str, Any]:
    """Choose guidance for every source, on held-out images that nothing is reported of; none where there are none."""
    others = dataset.held_out(size.gallery + size.guidance_images).images[size.gallery :].cpu()
    if len(others) < 2 or isinstance(pipe, GuidedPipeline):
        on_progress("no guidance is chosen: no further held-out images, or a prior that is guided already")
        return {}
    pipe.use_regressor(None)  # one of another denoiser, perhaps
    found = guidance_scale.study(
        pipe,
        others,
        sources=pipe.sources.names,
        seeds=range(size.guidance_draws),
        reference=probe_images,
        attributes=attributes,
        num_inference_steps=steps,
        on_progress=on_progress,
        **({} if pipe.unet.config.has_unconditional else {"scales": "1"}),
    )
    chosen = found.numbers["sources"]
    scales, strengths = (
        {source: own[f"guidance_{name}"] for source, own in chosen.items()} for name in ("scale", "strength")
    )
    pipe.use_guidance(scales, pipe.config.guidance_interval, strengths)
    return {"guidance": dict(found.numbers)}


def _setting(size: EvaluationSize, n: int, data: str, steps: int) -> dict[str, Any]:
    """What the numbers depend on, of n held-out images."""
    return {
        "n": n,
        "data": data,
        "num_inference_steps": steps,
        "retention_images": min(size.retention_images, n),
        "retention_draws": size.retention_draws,
        "torch_threads": torch.get_num_threads(),
    }


def _attributes(pipe: RCDMPipeline, evaluator: Evaluator | None, class_readers: Sequence[Evaluator]) -> Attributes:
    """Those of the checkpoint, and the class that the evaluator and further networks read."""
    own = attributes_of(pipe)
    readers = {} if evaluator is None else {"class": evaluator}
    readers |= {f"class by {reader.name.partition('/')[0]}": reader for reader in class_readers}
    if not readers:
        return own
    return Attributes(
        lambda images: {**own.read(images), **{name: reader.classes(images) for name, reader in readers.items()}},
        own.spread,
    )


@dataclass(frozen=True)
class _Judged:
    """What an evaluator says of the draws of a pipeline, beside held-out images."""

    pipe: RCDMPipeline
    dataset: Dataset
    held_out: Tensor
    size: EvaluationSize
    steps: int | None
    on_progress: Callable[[str], None]

    def unconditional(self, evaluator: Evaluator) -> dict[str, Any]:
        """Of as many draws of nothing as there are held-out images; halves of them are the pairs."""
        self.on_progress("unconditional draws")
        free = self.pipe.draw(None, None, range(len(self.held_out)), num_inference_steps=self.steps)
        half = torch.stack(free[: len(free) // 2 * 2].split(len(free) // 2), 1)
        return _realism(evaluator, free, self.held_out, half) | self._streamed(evaluator, None, None)

    def of_source(self, evaluator: Evaluator, source: str, h: Tensor, drawn: Tensor) -> dict[str, Any]:
        """Of one draw per row of h [N,D], and of a second one of some."""
        n = min(self.size.retention_images, len(h))
        again = self.pipe.draw(h[:n], source, range(len(h), len(h) + n), num_inference_steps=self.steps)
        found = _realism(evaluator, drawn, self.held_out, torch.stack([drawn[:n], again], 1))
        network = source.partition("/")[0]
        found["sister"] = is_sister(evaluator.name, network, self.pipe.sources.config_of(network))
        return found | self._streamed(evaluator, h, source)

    def _streamed(self, evaluator: Evaluator, h: Tensor | None, source: str | None) -> dict[str, Any]:
        """FID and KID of `realism_draws` draws, where they are asked for."""
        n = self.size.realism_draws
        if not n:
            return {}
        self.on_progress(f"{source or 'unconditional'}: {n} draws for FID and KID")
        return realism(self.pipe, evaluator, h, source, self.dataset, n, num_inference_steps=self.steps)


def _realism(evaluator: Evaluator, drawn: Tensor, real: Tensor, pairs: Tensor) -> dict[str, Any]:
    """Draws [N,3,H,W] beside held-out images, and pairs [n,2,3,H,W] of draws that share an image."""
    return {
        "kid": evaluator.kid(drawn, real),
        "fid": evaluator.fid(drawn, real),
        **evaluator.copying(drawn, real),
        "spread_perceptual": evaluator.spread(pairs, real).to_json(),
    }


def _shares(
    pipe: RCDMPipeline, images: Tensor, steps: int | None, on_progress: Callable[[str], None]
) -> dict[str, Any]:
    """What of the pixels image, source and seed decide, and how often a draw tells its seed."""
    on_progress("shares of image, source and seed")
    seeds = list(range(SHARED_SEEDS)) * len(images)
    draws = []
    for source in pipe.sources.names:
        h = encode_all(pipe, images, source).repeat_interleave(SHARED_SEEDS, 0)
        drawn = pipe.draw(h, source, seeds, num_inference_steps=steps).cpu()
        draws.append(drawn.flatten(1).unflatten(0, (len(images), SHARED_SEEDS)))
    values = torch.stack(draws, 1)  # [N,S,K,P]
    shares = {name: number.to_json() for name, number in variance_shares(values).items()}
    return {**shares, "seed_told": seed_told(values).to_json(), "seeds": SHARED_SEEDS}


def _references(pipe: RCDMPipeline, images: Tensor, source: str) -> dict[str, Any]:
    """Cycle error of the wrong image (null) and of the right one moved by a pixel (floor)."""
    given = pipe.unet.standardise(encode_all(pipe, images, source), source).cpu()
    moved = pipe.unet.standardise(encode_all(pipe, images.roll(1, 3), source), source).cpu()
    shuffled = cycle_error(given.roll(1, 0), given).to_json()
    shuffled.pop("null")
    floor = cycle_error(moved, given).to_json()
    floor.pop("null")
    return {"cycle_error_shuffled": shuffled, "cycle_error_shifted": floor}


def write_metrics(metrics: dict[str, Any], folder: Path) -> Path:
    """Write metrics.json into a checkpoint folder; a number that too few images have left without a value is absent."""
    target = folder / "metrics.json"
    target.write_text(json.dumps(finite(metrics), indent=1, allow_nan=False) + "\n")
    return target
