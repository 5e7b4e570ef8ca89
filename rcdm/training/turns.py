"""Which source every image of a run is for."""

from __future__ import annotations

from collections.abc import Sequence


def turns_of(names: Sequence[str], more_of: Sequence[str]) -> list[str]:
    """The sources in the order in which images go round them; each mention in `more_of` is one more turn."""
    if unknown := [name for name in more_of if name not in names]:
        raise ValueError(f"more_of: there is no source {unknown[0]!r}; choose of {', '.join(names)}.")
    return [name for name in names for _ in range(1 + list(more_of).count(name))]


def by_turn(first: int, n: int, turns: int) -> list[int]:
    """The n image numbers from `first` on, those of one turn together: image k of a run is for turn k mod `turns`."""
    return sorted(range(first, first + n), key=lambda number: number % turns)
