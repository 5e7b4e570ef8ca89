"""What draws keep of each attribute: many draws of one representation, read, against what the data vary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rcdm.diffusion.guidance_settings import Guidance
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.attributes import Attributes
from rcdm.measures.faithfulness import encode_all
from rcdm.measures.metrics import (
    Number,
    bootstrap,
    calibration,
    calibration_difference,
    holm,
    retention,
    sign_flip,
    spearman,
    variance,
)
from rcdm.measures.parts import part
from rcdm.measures.probes import HIDDEN, layers, mlp_model, r_squared, ridge_model
from rcdm.measures.processes import over_processes

FEWEST_TO_LEARN = 20
"""Training images that a probe needs at least: a tenth of them says when to stop."""


def draw_each(
    pipe: RCDMPipeline,
    h: Tensor,
    source: str,
    seeds: Sequence[int],
    num_inference_steps: int | None = None,
    guidance: Guidance | None = None,
) -> Tensor:
    """K draws of every row of h [N,D], raw -> [N·K,3,S,S]; the noises are those of `noises`.

    Where no guidance is given, it is that of the source.
    """
    return pipe.draw(
        h.repeat_interleave(len(seeds), 0),
        source,
        noises(len(h), seeds),
        num_inference_steps=num_inference_steps,
        guidance_scale=None if guidance is None else guidance.scale,
        guidance_strength=None if guidance is None else guidance.strength,
    )


def noises(n: int, seeds: Sequence[int]) -> list[int]:
    """A seed of its own for draw k of image i, whatever the source: `i * K + k` after the first of the K seeds."""
    return [seeds[0] + i * len(seeds) + k for i in range(n) for k in range(len(seeds))]


def read_unconditional(
    pipe: RCDMPipeline, attributes: Attributes, n: int, seeds: Sequence[int], num_inference_steps: int | None = None
) -> dict[str, Tensor]:
    """Attributes of N·K draws without a representation, φ [N·K,P] each; none where the denoiser cannot make them."""
    if not pipe.unet.config.has_unconditional:
        return {}
    return attributes.read(pipe.draw(None, None, noises(n, seeds), num_inference_steps=num_inference_steps))


def probed(
    pipe: RCDMPipeline,
    train: Tensor | Sequence[Image.Image],
    phi_train: Mapping[str, Tensor],
    test: Tensor | Sequence[Image.Image],
    phi_test: Mapping[str, Tensor],
    source: str,
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Tensor]]]:
    """Held-out R² of a ridge and an MLP probe from standardised h to φ [N,P], of each attribute, and their errors.

    Errors: probe -> attribute -> ‖φ − φ̂‖² of each test image [M].
    """
    h, h_test = (pipe.unet.standardise(encode_all(pipe, x, source), source).cpu() for x in (train, test))
    readings: dict[str, dict[str, Any]] = {name: {} for name in phi_test}
    errors: dict[str, dict[str, Tensor]] = {"ridge": {}, "probe": {}}
    for (probe, name), model in _readers(h, {name: phi_train[name] for name in phi_test}):
        truth, read = phi_test[name], model(h_test)
        number = r_squared(read, truth)
        readings[name][probe] = number.value
        if probe == "probe":
            readings[name]["probe_interval"] = [number.low, number.high]
        errors[probe][name] = (read - truth).square().sum(1)
    return readings, errors


def _readers(h: Tensor, phi: Mapping[str, Tensor]) -> Iterator[tuple[tuple[str, str], nn.Module]]:
    """(probe, attribute), and what this probe learnt to read of h [N,D]; the slow ones first, over the processes."""
    fits = {"probe": (mlp_model, (HIDDEN,)), "ridge": (ridge_model, ())}
    wanted = [(probe, name) for probe in fits for name in phi]

    def learnt(one: tuple[str, str]) -> Tensor:
        probe, name = one
        own = {"h": h, "phi": phi[name]}
        return part(probe, own, lambda: parameters_to_vector(fits[probe][0](h, phi[name]).parameters()))

    for (probe, name), weights in zip(wanted, over_processes(wanted, learnt), strict=True):
        model = layers(h.shape[1], *fits[probe][1], phi[name].shape[1])
        vector_to_parameters(weights, model.parameters())
        yield (probe, name), model


def retention_numbers(
    drawn: Mapping[str, Tensor], free: Mapping[str, Tensor], given: Mapping[str, Tensor], k: int
) -> dict[str, dict[str, Any]]:
    """Attribute -> retention with interval, N and null (of the unconditional draws), and calibration in both forms.

    φ of K draws per image, image by image [N·K,P], of unconditional draws, and of the images [N,P].
    """
    return {name: _numbers(drawn[name], free.get(name), given[name], k) for name in given}


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


def below_zero(kept: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A sentence where retention lies below 0 with its whole interval, empty else. Source -> attribute -> number."""
    there = [f"{source} {name}" for source, of in kept.items() for name, number in of.items() if number["high"] < 0]
    if not there:
        return ""
    more = f" and {len(there) - 3} more" if len(there) > 3 else ""
    return (
        f"Retention wholly below 0 ({', '.join(there[:3])}{more}) says that draws of one image vary more than the "
        "images do, or are off: the decoder falls short there, not the representation; draw with more steps and look "
        "at the calibration before reading these numbers."
    )


def gaps(within: Mapping[str, Mapping[str, Tensor]], given: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Network -> attribute -> retention in its backbone minus in its projector, paired; none where one is missing.

    `within`: source -> attribute -> Var_k φ of the draws of each image [N]; `given`: φ of the images [N,P]. `p` is that
    of a sign-flip test over images, `p_holm` corrected for all differences that are returned.
    """
    numbers: dict[str, dict[str, Any]] = {}
    for network, (backbone, projector) in backbones_and_projectors(list(within)).items():
        numbers[network] = {}
        for name, phi in given.items():
            spared = within[projector][name] - within[backbone][name]

            def difference(i: Tensor, spared: Tensor = spared, phi: Tensor = phi) -> Tensor:
                return spared[i].mean() / variance(phi[i])

            number = bootstrap(difference, len(phi), null=0.0).to_json()
            numbers[network][name] = number | {"p": sign_flip(spared)}
    cells = [cell for attributes in numbers.values() for cell in attributes.values()]
    for cell, p in zip(cells, holm([cell["p"] for cell in cells]), strict=True):
        cell["p_holm"] = p
    return numbers


def cross_check(trained: Mapping[str, Mapping[str, Any]], guided: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Attribute -> both answers to what one source keeps, and whether they are `apart`: their intervals do not meet.

    Both as `retention_numbers` gives them; where the first has a `probe`, also which of the two it is `nearer` to.
    """
    names = ("value", "low", "high", "n", "calibration")
    result: dict[str, Any] = {}
    for attribute, one in trained.items():
        two = guided[attribute]
        apart = one["low"] > two["high"] or two["low"] > one["high"]
        cell: dict[str, Any] = {"trained": {name: one[name] for name in names}, "guided": {k: two[k] for k in names}}
        if "probe" in one:
            off = {"trained": abs(one["value"] - one["probe"]), "guided": abs(two["value"] - one["probe"])}
            cell |= {"probe": one["probe"], "nearer": min(off, key=lambda name: off[name])}
        result[attribute] = {**cell, "apart": apart}
    return result


def backbones_and_projectors(sources: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Networks of which both are there -> the names of the two sources."""
    networks = dict.fromkeys(source.rpartition("/")[0] for source in sources)
    pairs = {network: (f"{network}/backbone", f"{network}/projector") for network in networks}
    return {network: pair for network, pair in pairs.items() if set(pair) <= set(sources)}


def guided_apart(pipe: RCDMPipeline, sources: Sequence[str]) -> dict[str, str]:
    """Network -> how its backbone and its projector are guided, where that is not alike."""
    held = {
        network: [pipe.guidance_of(source).in_words() or "not" for source in pair]
        for network, pair in backbones_and_projectors(list(sources)).items()
    }
    return {network: f"guided: {of[0]}, and {of[1]}" for network, of in held.items() if of[0] != of[1]}


def agreement(
    within: Mapping[str, Mapping[str, Tensor]],
    errors: Mapping[str, Mapping[str, Tensor]],
    given: Mapping[str, Tensor],
) -> Number:
    """Spearman correlation of retention with a probe's R² over all sources and attributes; null: 0.

    Source -> attribute -> Var_k φ of the draws, and ‖φ − φ̂‖² of the probe, per image [N]. The interval resamples the
    images, so it says how well the correlation of these sources and attributes is known.
    """
    pairs = [(source, name) for source in within for name in given]

    def correlation(i: Tensor) -> Tensor:
        spread = {name: variance(phi[i]) for name, phi in given.items()}
        kept, read = (
            torch.stack([1 - losses[source][name][i].mean() / spread[name] for source, name in pairs])
            for losses in (within, errors)
        )
        return spearman(kept, read)

    return bootstrap(correlation, len(next(iter(given.values()))), null=0.0)
