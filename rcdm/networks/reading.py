"""What was assumed, chosen and left out when somebody's file was read, and the options that decide it instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

NORMALISATIONS: dict[str, Normalisation] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Name -> mean and deviation of the pixels in [0,1]."""


def _option(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Reading:
    """How a file of other people's is to be read, where it does not say so itself; None is left to the reader."""

    part: str | None = _option("of a file: what precedes the backbone's names, such as model_ema. or teacher_backbone.")
    projector: str | None = _option("of a file: what precedes the projector's names; 'none' reads the backbone alone")
    activation: str | None = _option("of a file: between the projector's layers, relu, gelu, …; or in a CLIP's blocks")
    heads: int | None = _option("of a file: attention heads of a ViT")
    pooling: str | None = _option("of a file: token or mean, what of a ViT's tokens is its representation")
    stem: str | None = _option("of a file: a ResNet's 3x3 stem: small (padding 1), solo (2), pooled (1, max-pool)")
    image_size: int | None = _option("of a file: side of the images that the network is fed, in pixels")
    normalisation: str | None = _option("of a file: imagenet, half, clip, none, or M,M,M/D,D,D: of the pixels in [0,1]")
    leave_out: tuple[str, ...] = _option("of a file: beginnings of names that are left out on purpose", ())
    strict: bool = _option("of a file: refuse it where anything is assumed, chosen or left out", False)

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size must be at least 1 pixel, and is {self.image_size}.")

    def pixels(self) -> Normalisation | None:
        """Mean and deviation of `normalisation`. Raises ValueError for what is neither a name nor six numbers."""
        if self.normalisation is None or self.normalisation in NORMALISATIONS:
            return NORMALISATIONS.get(self.normalisation or "")
        try:
            mean, std = (tuple(map(float, part.split(","))) for part in self.normalisation.split("/"))
        except ValueError:
            mean, std = (), ()
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(
                f"normalisation is one of {', '.join(NORMALISATIONS)}, or three means and three deviations as "
                f"M,M,M/D,D,D, not {self.normalisation!r}."
            )
        return mean, std

    def given(self) -> str:
        """The options that were given, as on a command line."""
        words = []
        for option in fields(self):
            value = getattr(self, option.name)
            if value not in (None, (), False) and option.name != "strict":
                values = " ".join(value) if isinstance(value, tuple) else value
                words.append(f"--{option.name.replace('_', '-')} {values}")
        return " ".join(words)


class _Noting:
    """Reading, which notes in `asked` the options that are read."""

    def __init__(self, reading: Reading, asked: set[str]) -> None:
        self._reading, self._asked = reading, asked

    def __getattr__(self, name: str) -> Any:
        self._asked.add("normalisation" if name == "pixels" else name)
        return getattr(self._reading, name)


class Account:
    """Collects lines of what was assumed, chosen and left out, each with the option that decides it."""

    def __init__(self, reading: Reading) -> None:
        self._own, self._asked = reading, set[str]()
        self.lines: list[str] = []
        self.open: list[str] = []
        self._agreed = set[str]()

    @property
    def reading(self) -> Reading:
        """The options, each of which is noted when somebody asks for it."""
        return cast(Reading, _Noting(self._own, self._asked))

    def assumed(self, what: str, option: str) -> None:
        """Something that the file does not say."""
        self._undecided(f"assumed: {what} ({option} changes it)")

    def chosen(self, what: str, option: str) -> None:
        """One of several that the file holds."""
        self._undecided(f"chosen: {what} ({option} takes another)")

    def left_out(self, beginnings: Sequence[str], what: str) -> None:
        """Tensors of the file that are not used; agreed to where `leave_out` names all beginnings of their names."""
        line = f"left out: {what}"
        agreed = self._own.leave_out
        self._agreed |= {word for word in agreed if any(begin.startswith(word) for begin in beginnings)}
        if all(any(begin.startswith(word) for word in agreed) for begin in beginnings):
            self.lines.append(line)
        else:
            self._undecided(f"{line} (--leave-out {' '.join(beginnings[:8])} agrees)")

    def said(self, what: str) -> None:
        """Something that the file, or what lies beside it, says itself."""
        self.lines.append(what)

    def _undecided(self, line: str) -> None:
        self.lines.append(line)
        self.open.append(line)

    def close(self, path: object) -> list[str]:
        """All lines. Raises ValueError where reading is strict and something was left to the reader.

        And for an option that nobody asked for: it would change nothing, and nobody would notice.
        """
        given = [option.name for option in fields(Reading) if getattr(self._own, option.name) not in (None, (), False)]
        unused = [f"--{name.replace('_', '-')}" for name in given if name not in {*self._asked, "leave_out", "strict"}]
        unused += [f"--leave-out {word}" for word in self._own.leave_out if word not in self._agreed]
        if unused:
            raise ValueError(f"Nothing of {path} depends on {', '.join(unused)}: leave it out.")
        if self._own.strict and self.open:
            raise ValueError(f"{path} leaves something open, and reading is strict: {'; '.join(self.open)}.")
        return self.lines
