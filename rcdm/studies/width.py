"""Fewer dimensions, or more invariance? The backbone is reduced to the projector's width and compared again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.data.transformations import TELLING
from rcdm.diffusion.guidance_settings import OFF
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures.result import StudyResult
from rcdm.measures.attributes import constant_in_words, varying_in
from rcdm.measures.faithfulness import encode_all, pixels_of
from rcdm.measures.information import measure_bits, noise_ladder
from rcdm.measures.levels import transformation_probe
from rcdm.measures.metrics import bootstrap, effective_rank, mean, variance
from rcdm.measures.parts import json_part
from rcdm.measures.probes import r_squared, ridge_prediction
from rcdm.measures.readers import attributes_of
from rcdm.measures.retention import (
    backbones_and_projectors,
    below_zero,
    draw_each,
    guided_apart,
    read_unconditional,
    retention_numbers,
)
from rcdm.studies.declared import Entry, Option
from rcdm.studies.record import Study
from rcdm.studies.width_figures import CAPTIONS, figures

LOWEST, HIGHEST = -8.0, 6.0  # of the bits, ln SNR; as in the study of information


@dataclass(frozen=True)
class Principal:
    """The first principal components of representations [N,D], centred, not standardised."""

    centre: Tensor  # [D]
    axes: Tensor  # [D,k], orthonormal

    @classmethod
    def fit(cls, h: Tensor, count: int) -> Principal:
        """Of h [N,D]; as many as h has dimensions at most."""
        centred = h - h.mean(0)
        _, axes = torch.linalg.eigh(centred.double().T @ centred.double())
        return cls(h.mean(0), axes.flip(1)[:, :count].to(h))

    def coordinates(self, h: Tensor) -> Tensor:
        """[N,D] -> [N,k]."""
        return (h - self.centre) @ self.axes

    def restore(self, h: Tensor) -> Tensor:
        """[N,D] -> [N,D] of which only the components are left."""
        return self.centre + self.coordinates(h) @ self.axes.T


@dataclass(frozen=True)
class _Variant:
    """A backbone, a reduced one or a projector: how it is probed, and what the denoiser is given."""

    source: str
    probed: Callable[[Tensor], Tensor] = lambda h: h
    given: Callable[[Tensor], Tensor] = lambda h: h


Losses = dict[str, dict[str, Tensor]]
"""Measure -> attribute -> what is lost of each image [N]: squared errors, variance over draws, negative bits."""


def study(
    pipe: RCDMPipeline,
    images: Tensor | Sequence[Image.Image],
    *,
    sources: Sequence[str],
    seeds: Sequence[int],
    reference: Tensor | Sequence[Image.Image],
    drawn_images: int = 32,
    noise_levels: int = 24,
    num_inference_steps: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Compare backbone, reduced backbones and projector of each network that has both among `sources`.

    A reduced backbone keeps its first principal components over `reference` images: as many as the projector is wide,
    and as many as the projector's effective rank. Probes read their coordinates; the denoiser is given h mapped back
    from them. Numbers: `sources` -> variant -> `width`, `ridge` (attribute -> R², learnt on `reference`, measured on
    `images`), `transformation_probe`, and of the first `drawn_images` `retention` and `bits` (form 1 over
    `noise_levels`, null: h of the next image). `networks` -> network -> reduced variant -> measure -> attribute ->
    `by_width` (backbone minus reduced) and `by_invariance` (reduced minus projector), paired on images and noise.
    A network whose two levels are guided differently is drawn without guidance: `unguided`, network -> why. Attributes
    that do not vary are left out (`constant`). Raises ValueError where no network has both levels, for fewer than 8
    images, 20 reference images, 2 seeds or 2 `drawn_images`.
    """
    pairs = backbones_and_projectors(sources)
    if not pairs:
        raise ValueError("The width control compares a backbone with its projector: name both of a network.")
    if len(images) < 8 or len(reference) < 20:
        raise ValueError(
            f"Probes need at least 8 images, better 500, and 20 reference images, better 2000; they got {len(images)} "
            f"and {len(reference)}."
        )
    if len(seeds) < 2 or drawn_images < 2:
        raise ValueError("Retention needs at least two seeds and two drawn_images, better 32.")
    chosen = [source for pair in pairs.values() for source in pair]
    run = _Run(pipe, images, reference, seeds, drawn_images, noise_levels, num_inference_steps, chosen)
    numbers: dict[str, Any] = {}
    compared: dict[str, Any] = {}
    shown: dict[str, Tensor] = {}
    for network, (backbone, projector) in pairs.items():
        variants = _variants(run, backbone, projector)
        on_progress(f"{network}: telling transformations")
        told = run.told(variants)
        losses: dict[str, Losses] = {}
        for name, variant in variants.items():
            on_progress(name)
            numbers[name], losses[name], shown[name] = run.measure(variant)
            numbers[name]["transformation_probe"] = told[name]
        reduced = [name for name in variants if name not in (backbone, projector)]
        compared[network] = {name: run.parts(*(losses[n] for n in (backbone, name, projector))) for name in reduced}
    given = im.to_pil(run.x[:1].cpu())
    grid = [image for draws in shown.values() for image in (*given, *im.to_pil(draws))]
    columns = ("given", *(f"draw {k}" for k in range(len(seeds))))
    setting = {"images": len(run.x), "reference": len(run.train), "drawn_images": len(run.few), "seeds": list(seeds)}
    if run.unguided:
        setting["unguided"] = run.unguided
    if run.constant:
        setting["constant"] = run.constant
    result = {**setting, "logsnr": [LOWEST, HIGHEST], "sources": numbers, "networks": compared}
    return StudyResult(grid, tuple(shown), columns, result, _summary(result))


def _variants(run: _Run, backbone: str, projector: str) -> dict[str, _Variant]:
    """Name -> variant, from the whole backbone to the projector."""
    h, z = (run.encoded(source)[0] for source in (backbone, projector))
    counts = sorted({z.shape[1], max(1, round(effective_rank(z.cpu())))}, reverse=True)
    variants = {backbone: _Variant(backbone)}
    for count in (count for count in counts if count < h.shape[1]):
        principal = Principal.fit(h, count)
        variants[f"{backbone}, {count} components"] = _Variant(backbone, principal.coordinates, principal.restore)
    return variants | {projector: _Variant(projector)}


class _Run:
    """What all variants share: images, attributes, unconditional draws, the ladder of noise levels."""

    def __init__(
        self,
        pipe: RCDMPipeline,
        images: Tensor | Sequence[Image.Image],
        reference: Tensor | Sequence[Image.Image],
        seeds: Sequence[int],
        drawn_images: int,
        noise_levels: int,
        steps: int | None,
        sources: Sequence[str],
    ) -> None:
        self.pipe, self.seeds, self.steps = pipe, seeds, steps
        self.unguided = guided_apart(pipe, sources)
        self.x, self.train = (pixels_of(pipe, pictures).to(pipe.device) for pictures in (images, reference))
        self.few = self.x[:drawn_images]
        self.attributes, self.constant = varying_in(attributes_of(pipe), self.few)
        self.phi, self.phi_train = (self.attributes.read(pictures) for pictures in (self.x, self.train))
        self.given = {name: phi[:drawn_images] for name, phi in self.phi.items()}
        self.free = read_unconditional(pipe, self.attributes, len(self.few), seeds, steps)
        self.ladder = noise_ladder(pipe, noise_levels, LOWEST, HIGHEST) if pipe.unet.config.has_unconditional else []

        self._encoded: dict[str, tuple[Tensor, Tensor]] = {}

    def encoded(self, source: str) -> tuple[Tensor, Tensor]:
        """Reference images and images from a source, [M,D] and [N,D], computed once."""
        if source not in self._encoded:
            h, h_test = (encode_all(self.pipe, images, source) for images in (self.train, self.x))
            self._encoded[source] = (h, h_test)
        return self._encoded[source]

    def told(self, variants: Mapping[str, _Variant]) -> dict[str, dict[str, Any]]:
        """Variant -> transformation -> accuracy at telling its cases; all variants of a network see each image once."""
        sources = list(dict.fromkeys(variant.source for variant in variants.values()))

        def encode(images: Tensor) -> dict[str, Tensor]:
            chunks = [self.pipe.sources.encode_all(chunk, sources) for chunk in images.split(256)]
            h = {source: torch.cat([chunk[source] for chunk in chunks]) for source in sources}
            return {name: variant.probed(h[variant.source]).cpu() for name, variant in variants.items()}

        def probe(telling: str) -> dict[str, Any]:
            numbers = transformation_probe(encode, self.train, self.x, telling, penalties=(1e-4,))
            return {name: number.to_json() for name, number in numbers.items()}

        inputs = {"train": self.train, "test": self.x, "variants": list(variants)}
        numbers = {t: json_part("telling", {**inputs, "name": t}, partial(probe, t)) for t in TELLING}
        return {name: {telling: of[name] for telling, of in numbers.items()} for name in variants}

    def measure(self, variant: _Variant) -> tuple[dict[str, Any], Losses, Tensor]:
        """Numbers, what is lost of each image, and the draws of the first image [K,3,S,S]."""
        h, h_test = (variant.probed(part).cpu() for part in self.encoded(variant.source))
        centre, spread = h.mean(0), h.std(0).clamp(min=1e-6)
        z, z_test = ((part - centre) / spread for part in (h, h_test))
        read = {name: ridge_prediction(z, phi, z_test) for name, phi in self.phi_train.items()}
        numbers: dict[str, Any] = {
            "width": h.shape[1],
            "ridge": {name: r_squared(predicted, self.phi[name]).to_json() for name, predicted in read.items()},
        }
        losses: Losses = {"ridge": {name: (read[name] - phi).square().sum(1) for name, phi in self.phi.items()}}
        drawn, lost, shown = self._draw(variant)
        return numbers | drawn, losses | lost, shown

    def _draw(self, variant: _Variant) -> tuple[dict[str, Any], Losses, Tensor]:
        k, given = len(self.seeds), variant.given(encode_all(self.pipe, self.few, variant.source))
        plain = OFF if variant.source.rpartition("/")[0] in self.unguided else None
        draws = draw_each(self.pipe, given, variant.source, self.seeds, self.steps, plain)
        read = self.attributes.read(draws)
        numbers: dict[str, Any] = {"retention": retention_numbers(read, self.free, self.given, k)}
        losses: Losses = {"retention": {name: variance(phi.unflatten(0, (-1, k)), 1) for name, phi in read.items()}}
        if self.ladder:
            bits, null = (
                measure_bits(self.pipe, self.few, h, variant.source, self.ladder, self.seeds[0]).form_1
                for h in (given, given.roll(1, 0))
            )
            numbers["bits"] = mean(bits, null=float(null.mean())).to_json()
            losses["bits"] = {"all": -bits}
        return numbers, losses, draws[:k]

    def parts(self, backbone: Losses, reduced: Losses, projector: Losses) -> dict[str, Any]:
        """Measure -> attribute -> what is lost from backbone to reduced, and from there to the projector."""
        result: dict[str, Any] = {}
        for measure, of_attributes in backbone.items():
            phi = self.phi if measure == "ridge" else self.given
            result[measure] = {
                name: _steps([part[measure][name] for part in (backbone, reduced, projector)], phi.get(name))
                for name in of_attributes
            }
        return result


def _steps(losses: Sequence[Tensor], phi: Tensor | None) -> dict[str, Any]:
    """How much more is lost at each step, as a share of the variance of φ where there is one, per image else."""
    numbers = {}
    for name, (before, after) in zip(("by_width", "by_invariance"), pairwise(losses), strict=True):
        more = after - before

        def share(i: Tensor, more: Tensor = more) -> Tensor:
            return more[i].mean() / (1 if phi is None else variance(phi[i]))

        numbers[name] = bootstrap(share, len(more), null=0.0).to_json()
    return numbers


def _summary(result: Mapping[str, Any]) -> str:
    lines = [
        f"{result['images']} images ({result['drawn_images']} x {len(result['seeds'])} draws), probes learnt on "
        f"{result['reference']}: width, R² of a ridge probe and retention of each attribute, bits"
    ]
    if names := next((list(numbers["ridge"]) for numbers in result["sources"].values() if numbers.get("ridge")), []):
        lines.append(f"attributes: {', '.join(names)}")
    for name, numbers in result["sources"].items():
        cells = (
            " ".join(f"{n['value']:5.2f}" for n in numbers[measure].values()) for measure in ("ridge", "retention")
        )
        bits = f" | {numbers['bits']['value']:.1f}" if "bits" in numbers else ""
        lines.append(f"{name:36} {numbers['width']:5} | {' | '.join(cells)}{bits}")
    if caution := below_zero({name: numbers["retention"] for name, numbers in result["sources"].items()}):
        lines.append(caution)
    lines += [
        f"{network}: drawn without guidance, as its backbone and its projector are not guided alike ({held})."
        for network, held in result.get("unguided", {}).items()
    ]
    lines += constant_in_words(result)
    lines.append("What is lost from backbone to projector: by fewer dimensions + by what remains (95 %)")
    for network, reduced in result["networks"].items():
        if not reduced:
            lines.append(f"{network}: neither the projector's width nor its rank is below the backbone's width.")
        for name, measures in reduced.items():
            lines.append(name)
            for measure, attributes in measures.items():
                lines += [f"  {measure:10} {attribute:18} {_both(steps)}" for attribute, steps in attributes.items()]
    return "\n".join(lines)


def _both(steps: Mapping[str, Any]) -> str:
    return " + ".join(f"{n['value']:.2f} ({n['low']:.2f} … {n['high']:.2f})" for n in steps.values())


STUDY = Study(
    "width",
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
    report={"width": Entry(quick=(64, 2), quick_settings={"drawn_images": 8, "noise_levels": 10})},
)
