"""How draws are held to a representation beyond what the denoiser does by itself: what a checkpoint brings along.

Two ways, each per source: a scale (Ho & Salimans 2022), within an interval of noise levels; or the regression of
`regressor`, with a strength.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rcdm.diffusion.process import Process

if TYPE_CHECKING:
    from rcdm.diffusion.pipeline import RCDMPipeline
    from rcdm.diffusion.regressor import Regressor
    from rcdm.diffusion.unet import RepresentationUNet
    from rcdm.networks.sources import Sources

UNGUIDED = (
    "This denoiser never learned to draw without a representation: guidance and unconditional draws are not possible "
    "with it."
)


MOST = 100
"""Scale and strength that a checkpoint may ask for."""


@dataclass(frozen=True)
class Guidance:
    """Of one draw.

    Args:
        scale: of guidance by a scale; 1 is off. strength: w of guidance by regression; 0 is off.
    """

    scale: float = 1.0
    strength: float = 0.0

    def in_words(self) -> str:
        """A word or two; empty where both are off."""
        by = (f"guidance {self.scale:g}" * (self.scale != 1), f"regression {self.strength:g}" * (self.strength != 0))
        return " and ".join(word for word in by if word)

    def to_json(self) -> dict[str, float]:
        """As it stands beside numbers."""
        return {f"guidance_{name}": value for name, value in asdict(self).items()}


OFF = Guidance()


def in_words(guidance: Mapping[str, str], sources: Collection[str]) -> str:
    """Source -> in which words its draws are guided, in short; empty where none is."""
    if len(guidance) == len(sources) and len(set(guidance.values())) == 1:
        return next(iter(guidance.values()))
    return ", ".join(f"{words} for {source}" for source, words in guidance.items())


def _refuse_number(what: str, number: float, off: float) -> None:
    if not 0 <= number <= MOST:
        raise ValueError(f"A {what} of guidance is a number from 0 to {MOST} ({off} is off), and is {number}.")


class GuidanceSettings:
    """What a pipeline knows of guidance: `guidance_scales`, `guidance_interval`, `guidance_strengths` of its config."""

    config: Any
    unet: RepresentationUNet
    sources: Sources
    regressor: Regressor | None
    register_to_config: Any
    register_modules: Any

    def use_regressor(self, regressor: Regressor | None) -> None:
        """Have guidance by regression at hand, or no more; which draws are guided by it `use_guidance` says.

        Sources that it does not have are guided by it no more. Raises ValueError for one of other sizes.
        """
        if regressor is not None:
            regressor.refuse_other(self.unet)
            regressor = regressor.to(self.unet.device)
        self.register_modules(regressor=regressor)
        before = self.config.get("guidance_strengths") or {}
        left = {source: strength for source, strength in before.items() if regressor and source in regressor.names}
        self.register_to_config(guidance_strengths=left)
        # under the name that stays, as for the other parts
        self.register_to_config(regressor=(None, None) if regressor is None else ("rcdm", "Regressor"))

    def use_guidance(
        self,
        scales: Mapping[str, float] | float = 1,
        interval: Sequence[float] | None = None,
        strengths: Mapping[str, float] | float = 0,
    ) -> None:
        """Guide draws like this wherever a call names nothing: each a number per source, or one for all.

        A scale of 1 is off, and so is a strength of 0. `interval`: lowest and highest ln SNR at which scales act; None:
        everywhere. Raises ValueError for a source that there is not, for numbers that mean nothing, and where the
        denoiser cannot be guided, or has no regression of the source.
        """
        scales, strengths = self._each("scale", scales, 1), self._each("strength", strengths, 0)
        if scales and not self.unet.config.has_unconditional:
            raise ValueError(UNGUIDED)
        self._refuse_unlearnt(strengths)
        if interval is not None and not (len(interval) == 2 and interval[0] < interval[1]):
            raise ValueError(f"The interval of guidance goes from a lower ln SNR to a higher, and is {interval}.")
        self.register_to_config(
            guidance_scales=scales,
            guidance_interval=None if interval is None else [float(end) for end in interval],
            guidance_strengths=strengths,
        )

    def _each(self, what: str, given: Mapping[str, float] | float, off: float) -> dict[str, float]:
        """The sources that are guided, with their numbers."""
        if not isinstance(given, Mapping):
            given = dict.fromkeys(self.sources.names, float(given))
        for source, number in given.items():
            if source not in self.sources.names:
                raise ValueError(f"There is no source {source!r} to guide; choose of {', '.join(self.sources.names)}.")
            _refuse_number(what, number, off)
        return {source: float(number) for source, number in given.items() if number != off}

    def _refuse_unlearnt(self, sources: Collection[str]) -> None:
        if missing := [source for source in sources if self.regressor is None or source not in self.regressor.names]:
            raise ValueError(
                f"This checkpoint has no regression of {', '.join(missing)} to guide by: `rcdm evaluate` learns it, "
                "and `rcdm train` at its end."
            )

    def _names(self, n: int, source: str | Sequence[str] | None) -> Sequence[str]:
        """A source for each of n images."""
        source = self.unet.named(source)
        return [source] * n if isinstance(source, str) else source

    def guidance_of(self, source: str) -> Guidance:
        """Of draws from this source where a call names nothing."""
        return Guidance(self.config.guidance_scales.get(source, 1.0), self.config.guidance_strengths.get(source, 0.0))

    @property
    def guided_sources(self) -> dict[str, str]:
        """Source -> how its draws are guided, in words, where a call names nothing; without those that are not."""
        words = {source: self.guidance_of(source).in_words() for source in self.sources.names}
        return {source: word for source, word in words.items() if word}

    @property
    def guided_in_words(self) -> str:
        """A sentence about the guidance that draws have where no call names one; empty where it is off."""
        words = in_words(self.guided_sources, self.sources.names)
        if not words:
            return ""
        led = " By regression the network itself leads them, so similarity to what was given says little."
        return f"Draws are held to the representation by {words}.{led * bool(self.config.guidance_strengths)}"

    def guidance_for(
        self, n: int, h: Tensor | None, source: str | Sequence[str] | None, scale: float | None, strength: float | None
    ) -> list[Guidance]:
        """Of each of n draws: what a call names and nothing else, or where it names neither that of the source."""
        if h is None:
            return [OFF] * n
        names = self._names(n, source)
        if scale is None and strength is None:
            return [self.guidance_of(name) for name in names]
        for what, number, off in (("scale", scale, 1), ("strength", strength, 0)):
            _refuse_number(what, off if number is None else number, off)
        if strength:
            self._refuse_unlearnt(dict.fromkeys(names))
        return [Guidance(1.0 if scale is None else scale, strength or 0.0)] * n

    def guided_prediction(
        self,
        process: Process,
        x_t: Tensor,
        timestep: Tensor,
        h: Tensor | None,
        source: str | Sequence[str] | None,
        guidance: Sequence[Guidance],
    ) -> Tensor:
        """What the denoiser puts out [B,C,H,W] at a timestep, with the guidance of each image; float32."""
        if h is None:
            free: Tensor = self.unet(x_t, timestep).sample.float()
            return free
        names = self._names(len(x_t), source)
        scaled = any(one.scale != 1 for one in guidance) and self._guides_at(process, timestep)
        scales = torch.tensor([one.scale for one in guidance]).to(x_t).view(-1, 1, 1, 1)

        def say(x: Tensor, rows: slice) -> Tensor:
            of, given = names[rows], h[rows]
            given = given[:, : max(self.unet.config.sources[name] for name in set(of))]
            if not scaled:
                out: Tensor = self.unet(x, timestep, given, of).sample.float()
                return out
            with_h, without = (out.float() for out in self.unet.with_and_without(x, timestep, given, of))
            n = self.unet.space.channels  # a variance that was learnt stays that of h
            led = without[:, :n] + scales[rows] * (with_h[:, :n] - without[:, :n])  # their 1 + w is the scale
            return torch.cat([led, with_h[:, n:]], 1)

        if self.regressor is None or all(one.strength == 0 for one in guidance):
            return say(x_t, slice(None))
        strengths = [one.strength for one in guidance]
        return self.regressor.lead(self.unet, self.sources, process, x_t, timestep, h, names, strengths, say)

    def _guides_at(self, process: Process, timestep: Tensor) -> bool:
        """Whether a timestep lies within the interval of guidance by a scale."""
        if self.config.guidance_interval is None:
            return True
        low, high = self.config.guidance_interval
        a, s = process.levels(timestep)
        return low <= 2 * math.log(max(float(a), 1e-12) / max(float(s), 1e-12)) <= high


@contextmanager
def unguided(pipe: RCDMPipeline) -> Iterator[None]:
    """Inside, draws are not guided unless a call says so."""
    config = pipe.config
    before = dict(config.guidance_scales), config.guidance_interval, dict(config.guidance_strengths)
    pipe.use_guidance()
    try:
        yield
    finally:
        pipe.use_guidance(*before)
