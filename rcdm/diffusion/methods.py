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


def refuse_method(method: str, particles: int) -> None:
    """ValueError for a method that does not exist, and for no particles."""
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r} of guidance; choose one of {', '.join(METHODS)}.")
    if particles < 1:
        raise ValueError(f"particles must be at least 1, and is {particles}.")
