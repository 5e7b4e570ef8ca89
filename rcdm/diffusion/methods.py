"""The methods of guidance by name, for whoever lists them. No torch."""

from __future__ import annotations

METHODS = {
    "dps": "gradients through the denoiser",
    "mpgd": "the gradient at its guess alone: faster, farther from h",
    "tds": "particles that are weighed and drawn again: slower, exact as they become many",
}
"""Name -> what it does; papers and formulas are in `guidance`."""

PARTICLES = 8
"""Of each draw, where nobody says."""


def refuse_method(method: str, particles: int) -> None:
    """ValueError for a method that does not exist, and for no particles."""
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r} of guidance; choose one of {', '.join(METHODS)}.")
    if particles < 1:
        raise ValueError(f"particles must be at least 1, and is {particles}.")
