"""The methods of guidance by name, for whoever lists them. No torch."""

from __future__ import annotations

METHODS = {
    "regression": "by what noisy images say of h, which is learnt from images of the prior first",
    "tds": "as regression, with particles that are weighed and drawn again: slower, exact as they become many",
    "dps": "by what the network says of the denoiser's guess: nothing to learn, loses what h says quietly",
    "mpgd": "as dps, but no gradient goes through the denoiser: faster, farther from h",
}
"""Name -> what it does; papers and formulas are in `guidance`."""

METHOD = "regression"
"""Where nobody says."""

PARTICLES = 8
"""Of each draw, where nobody says."""


FEWEST_PRIOR_IMAGES = 16
"""That a guided prior can learn from: so many are moved by a pixel."""


def refuse_method(method: str, particles: int, prior_images: int | None = None) -> None:
    """ValueError for a method that does not exist, for no particles, and for too few images of the prior."""
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r} of guidance; choose one of {', '.join(METHODS)}.")
    if particles < 1:
        raise ValueError(f"particles must be at least 1, and is {particles}.")
    if prior_images is not None and prior_images < FEWEST_PRIOR_IMAGES:
        raise ValueError(
            f"prior_images must be at least {FEWEST_PRIOR_IMAGES}, better 256, and is {prior_images}: the network is "
            "learnt on so many draws of the prior."
        )
