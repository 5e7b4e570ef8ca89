"""What stands below a figure: what it shows, on how many images and seeds, with which settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_INTERVAL = "Bars and bands: 95 % bootstrap intervals over images."

_SHOWS: dict[str, dict[str, str]] = {
    "samples": {
        "": "Similarity of the draws to the given representation (cosine, standardised; null: to the next image's) and "
        "spread of the draws (pixel deviation, 1 the largest possible). Nearest: distance to the nearest training "
        "image, where those are at hand (null: of the given images).",
        "images": "The given image, draws of every source from the same noise, their mean and the map of their spread.",
    },
    "retention": {
        "": "Retention: the share of each attribute's variance that a source fixes. Grey ticks: unconditional draws; "
        "crosses: what a small network reads from the same representation (held-out R²).",
        "differences": "Retention in the backbone minus that in the projector, on the same images and noise; filled: "
        "different from 0 by a sign-flip test over images, p < 0.05 after Holm's correction for all of them.",
        "agreement": "Retention against what a probe reads from the same representation (R²), a point per source and "
        "attribute, with their Spearman correlation; on the line the draws keep just what the probe finds.",
        "calibration": "Calibration of the draws: 1 exact, above 1 too certain; unstable where retention is above 0.9.",
        "images": "Draws of the first images from every source; a column has one noise.",
    },
    "information": {
        "": "Bits per image by form 1 (dots; grey ticks: of another image's representation) and form 2 (crosses); they "
        "agree for an exact denoiser. Beside: backbone minus projector on the same images and noise.",
        "images": "Where the representation speaks: bits per pixel (form 2), one scale for all sources.",
    },
    "invariance": {
        "": "Each transformation at its strongest: alignment (change of the representation, over that of another "
        "image), and the slope with which the attribute that it moves follows in the draws.",
        "telling": "How well a linear probe tells from each representation which case of a transformation was applied.",
        "*-images": "{key}: images at growing strength and draws from what they became, with one noise.",
        "*": "{key}: change of the representation and of the draws over the strengths, and the slope with which the "
        "attribute follows.",
    },
    "interpolation": {
        "": "Along the path between two images: similarity of the draws to both ends (unmarked: to the second), "
        "and jumps between neighbouring draws over the distance of the ends; dotted: an even path.",
        "images": "The first image, draws along the path to the second, and the second; a noise per row.",
    },
    "manipulation": {
        "": "What a step of one deviation along each direction moves, in deviations of each attribute.",
        "images": "Draws along each direction, or without the shared dimensions.",
    },
    "manipulation by neighbours": {
        "": "How many dimensions of each image are active in most of its nearest neighbours, and so what they share.",
        "images": "Draws of each image as it is, without the shared dimensions, and with those of a target.",
    },
    "adversarial": {
        "": "Attack on the representation: its distance over that of another image (grey lines: random changes of the "
        "same size), the distance of the draws' representation, and the share of draws whose class changes.",
        "images": "Images under attack, and draws from what their representation became.",
    },
    "levels": {
        "": "Each level of the networks: linear probe of the class, effective rank, and, where the checkpoint has a "
        "decoder, bits and cycle error. Dotted: chance.",
        "attributes": "Each attribute over the levels: held-out R² of a ridge probe, and retention in the draws.",
        "transformations": "How well a probe tells from each level what was done to the image. Dotted: chance.",
        "images": "Draws of one image from every level that the checkpoint has a decoder for.",
    },
    "spectrum": {
        "": "Singular values of the centred representations, and their effective ranks.",
        "views": "Two views of an image at growing strength: their variance (1: between images), the share that the "
        "projector removes, the share within the directions that it reads, and the angle between these and the "
        "changes; dotted: what differences between images, or random directions, would give.",
        "images": "Views of the first images at growing strength.",
    },
    "width": {
        "": "What is lost from backbone to projector, of a ridge probe's R² in each attribute: by fewer dimensions "
        "(principal components of the backbone), and by what remains.",
        "retention": "The same for retention in the draws.",
        "bits": "The same for bits per image.",
        "images": "Draws from the backbone, from its principal components, and from the projector.",
    },
    "out_of_distribution": {
        "": "Similarity of the draws to the given representation, for images as given, their sketches, their inverted "
        "colours and other data.",
        "drop": "How much less similar than those of the image itself the draws of its sketch and its inverse are.",
        "cycle-error": "Distance of the draws' representation to the given one, over that of another such image.",
        "distance": "How far from the training images the representation lies: 1 is usual.",
        "images": "Images of each kind, and a draw from every source; an image has one noise in all columns.",
    },
}
"""Study -> key of a figure, or `*` at its start for any -> what it shows."""


def captions_of(study: str, keys: Iterable[str], settings: Mapping[str, Any]) -> dict[str, str]:
    """Key of a figure -> its caption."""
    by_method = f"{study} by {settings['options'].get('method')}"
    n, seeds = settings["images"]["n"], settings["seeds"]
    options = ", ".join(f"{k} {v}" for k, v in settings["options"].items() if isinstance(v, int | float) or v)
    drawn = f"seeds {seeds[0]}–{seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    data = ", ".join(f"{name.replace('_', ' ')} {given['n']}" for name, given in settings["data"].items())
    steps = f"{settings['steps']} steps" if settings["steps"] else ""
    which = ", ".join(part for part in (f"N {n} images", drawn, steps, data, options) if part)
    whole = f"{settings['checkpoint']}; {which}."
    result = {}
    for key in keys:
        shows = _shows(by_method if by_method in _SHOWS else study, key)
        interval = f" {_INTERVAL}" if "images" not in key and study not in ("interpolation", "manipulation") else ""
        result[key] = f"{shows}{interval} {whole}"
    return result


def _shows(study: str, key: str) -> str:
    known = _SHOWS.get(study, {})
    name = key.replace("-images", "").replace("-", " ").capitalize()
    if key in known:
        return known[key]
    if key.startswith("images-"):
        return f"{known.get('images', 'Images')[:-1]}, continued."
    pattern = "*-images" if key.endswith("-images") else "*"
    if pattern in known:
        return known[pattern].format(key=name)
    if key.startswith("images"):
        return "The images of the study."
    return f"{study.capitalize()}{': ' + name if name else ''}."
