"""Guidance by a scale (Ho & Salimans 2022): what a checkpoint brings along for each source, and where it acts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rcdm.diffusion.process import Process

if TYPE_CHECKING:
    from rcdm.diffusion.pipeline import RCDMPipeline
    from rcdm.diffusion.unet import RepresentationUNet
    from rcdm.networks.sources import Sources

UNGUIDED = (
    "This denoiser never learned to draw without a representation: guidance and unconditional draws are not possible "
    "with it."
)


def in_words(scales: Mapping[str, float], sources: Collection[str]) -> str:
    """At which scale draws from these sources are guided; empty where none is."""
    if len(scales) == len(sources) and len(set(scales.values())) == 1:
        return f"guidance {next(iter(scales.values())):g}"
    return ", ".join(f"guidance {scale:g} for {source}" for source, scale in scales.items())


class GuidanceScales:
    """What a pipeline knows of guidance: `guidance_scales` and `guidance_interval` of its config."""

    config: Any
    unet: RepresentationUNet
    sources: Sources
    register_to_config: Any

    def use_guidance(self, scales: Mapping[str, float] | float, interval: Sequence[float] | None = None) -> None:
        """Guide draws by these scales wherever a call names none: one per source, or one for all; 1 is off.

        `interval`: lowest and highest ln SNR at which guidance acts; None: everywhere. Raises ValueError for a source
        that there is not, for a scale or an interval that means nothing, and where the denoiser cannot be guided.
        """
        if not isinstance(scales, Mapping):
            scales = dict.fromkeys(self.sources.names, float(scales))
        for source, scale in scales.items():
            if source not in self.sources.names:
                raise ValueError(f"There is no source {source!r} to guide; choose of {', '.join(self.sources.names)}.")
            if not 0 <= scale < math.inf:
                raise ValueError(f"A scale of guidance is a number from 0 on (1 is off), and is {scale} for {source}.")
        scales = {source: float(scale) for source, scale in scales.items() if scale != 1}
        if scales and not self.unet.config.has_unconditional:
            raise ValueError(UNGUIDED)
        if interval is not None and not (len(interval) == 2 and interval[0] < interval[1]):
            raise ValueError(f"The interval of guidance goes from a lower ln SNR to a higher, and is {interval}.")
        self.register_to_config(
            guidance_scales=scales, guidance_interval=None if interval is None else [float(end) for end in interval]
        )

    def guidance_of(self, source: str | None) -> float:
        """Scale of guidance for draws from this source where a call names none; 1 is off."""
        return float(self.config.guidance_scales.get(source or "", 1.0))

    @property
    def guided_in_words(self) -> str:
        """A sentence about the scales of guidance that draws have where no call names one; empty where it is off."""
        words = in_words(self.config.guidance_scales, self.sources.names)
        return f"Draws are held to the representation by {words} (1 is off)." if words else ""

    def scale_of(
        self, h: Tensor | None, source: str | Sequence[str] | None, given: float | None
    ) -> float | list[float]:
        """The scale of a batch [B,D]: the given one, else that of its source, or one per image."""
        if given is not None or h is None:
            return 1.0 if given is None else given
        if source is None or isinstance(source, str):
            return self.guidance_of(source if source is not None else self.unet.sources[0])
        scales = [self.guidance_of(name) for name in source]
        return scales[0] if len(set(scales)) == 1 else scales

    def guided_prediction(
        self,
        x_t: Tensor,
        timestep: Tensor,
        h: Tensor,
        source: str | Sequence[str] | None,
        scale: float | list[float],
    ) -> Tensor:
        """Prediction without h, plus the scale times what h changes in it: float32 [B,C,H,W]."""
        out, free = (out.float() for out in self.unet.with_and_without(x_t, timestep, h, source))
        return free + torch.as_tensor(scale).to(out).view(-1, 1, 1, 1) * (out - free)  # their 1 + w is the scale

    def guides_at(self, process: Process, timestep: Tensor) -> bool:
        """Whether a timestep lies within the interval of guidance."""
        if self.config.guidance_interval is None:
            return True
        low, high = self.config.guidance_interval
        a, s = process.levels(timestep)
        return low <= 2 * math.log(max(float(a), 1e-12) / max(float(s), 1e-12)) <= high


@contextmanager
def unguided(pipe: RCDMPipeline) -> Iterator[None]:
    """Inside, draws are not guided unless a call says so."""
    scales, interval = dict(pipe.config.guidance_scales), pipe.config.guidance_interval
    pipe.use_guidance({})
    try:
        yield
    finally:
        pipe.use_guidance(scales, interval)
