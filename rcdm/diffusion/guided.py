"""A pipeline that needed no training: a prior, guided to images whose representation is the given one.

How closely it is held to h is said by the source itself: as closely as h of an image and of the same image moved by a
pixel agree (τ² of `guidance`). How near draws come to that, with the nearest strength of STRENGTHS, is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rcdm.diffusion.checkpoints import best_device, usable
from rcdm.diffusion.guidance import REGRESSED, Guess, GuidedUNet
from rcdm.diffusion.guidance_settings import Guidance
from rcdm.diffusion.memory import keep_freed_memory
from rcdm.diffusion.methods import FEWEST_PRIOR_IMAGES, METHOD, PARTICLES, refuse_method
from rcdm.diffusion.particles import twisted
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.precision import warn_of_emulation
from rcdm.diffusion.prior import load_prior
from rcdm.diffusion.process import SPACED, Process, scheduler_named, set_steps
from rcdm.diffusion.regression import LEVELS
from rcdm.networks.resolve import sources_of
from rcdm.networks.sources import Sources

STEPS = 40
"""Denoising steps of a guided draw where a call names none."""

FEWEST, MOST = 48, 256
"""Images of the prior that standardise h, tell how far apart two images are and are regressed on."""

AFFORDABLE = 4e12
"""Operations that are spent on them, where more than FEWEST do not cost more: half a minute of a CPU's core."""

PRIOR_STEPS = 8
"""Of those images, by the sampler of our checkpoints: this is waited for.

Ancestral DDPM, which guided draws take, would leave them soft in so few: in 10, 16 images of `cifar10-32` have a
standard deviation of 0.30, in 8 of this one 0.42, as in 40 of DDPM; test images 0.51.
"""

TRIED, MOST_TRIED, TRIED_STEPS = 16, 16, 20
"""One of 16 of those images, at most 16, is drawn again with each strength that is tried, in so many steps."""

STRENGTHS = {"regression": (2.0,), "tds": (1.0,), "dps": (1.0, 0.5, 2.0), "mpgd": (1.0, 0.5, 2.0)}
"""w of (4) and (4b) in `guidance`, in the order in which they are tried; the first that comes near enough is taken.

With 1 a draw of 40 steps stays behind what (4) asks for, on the drawn world. Particles need the exact 1.
"""

_FIRST_SEED = 2**31
"""Of the prior's own draws: far from those that a user takes."""


@dataclass(frozen=True)
class Reached:
    """How a source is guided, and what that reached.

    Args:
        strength: w. tolerance: τ², per standardised number.
        target: cycle error of images moved by a pixel. cycle_error: of `n` draws with this strength.
        images: of the prior, that all this was learnt from.
    """

    strength: float
    tolerance: float
    target: float
    cycle_error: float
    n: int
    images: int

    def in_words(self) -> str:
        """One line."""
        near = "reached" if self.cycle_error <= self.target else "not reached"
        return (
            f"strength {self.strength:g}; cycle error {self.cycle_error:.3f} on {self.n} draws, {near}: "
            f"{self.target:.3f}, that of an image moved by a pixel"
        )


class GuidedPipeline(RCDMPipeline):
    """RCDMPipeline whose denoiser is a guided prior; `guidance`: source -> how it is held to h.

    Args:
        prior: folder of the prior.
    """

    def __init__(
        self,
        unet: GuidedUNet,
        scheduler: SchedulerMixin,
        sources: Sources,
        default_steps: int = STEPS,
        trained_on: str = "",
        prior: str = "",
        guidance_scales: dict[str, float] | None = None,
        guidance_interval: list[float] | None = None,
        full_resolution: bool = False,
        guidance_strengths: dict[str, float] | None = None,
        regressor: None = None,
    ) -> None:
        super().__init__(
            unet,
            scheduler,
            sources,
            default_steps,
            trained_on,
            guidance_scales,
            guidance_interval,
            full_resolution,
            guidance_strengths,
            regressor,
        )
        self.register_to_config(prior=prior)
        self.guidance: dict[str, Reached] = {}

    @property
    def method(self) -> str:
        """How it is guided: one of METHODS."""
        return str(self.unet.method)

    @property
    def caution(self) -> str:
        """That nothing was learnt of h, and what the prior itself has to say."""
        words = (
            f"Guided draws ({self.method}): no decoder was trained for these sources, so look at calibration and probe "
            "(`rcdm study retention`) before reading what varies as what h does not hold."
        )
        return f"{words} {super().caution}".strip()

    def _refuse_unlearnt(self, sources: Collection[str]) -> None:
        if sources:
            raise ValueError("A guided prior has a strength of its own: leave guidance_strength out.")

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Raises ValueError: there is nothing that was learnt."""
        raise ValueError(
            "A guided pipeline holds nothing that was learnt: name its prior and its networks again, or train one with "
            "`rcdm train`."
        )

    def push_to_hub(self, *_: Any, **__: Any) -> str:
        """Raises ValueError: there is nothing that was learnt."""
        raise ValueError("A guided pipeline holds nothing that was learnt: publish its prior, or train a checkpoint.")

    def _denoise(
        self,
        streams: list[torch.Generator],
        h: Tensor | None,
        source: str | Sequence[str] | None,
        steps: int,
        guidance: Sequence[Guidance],
        report: Callable[[int, int, dict[str, Tensor]], None],
    ) -> Tensor:
        if self.method != "tds" or h is None:
            return super()._denoise(streams, h, source, steps, guidance, report)
        if any(one.scale != 1 for one in guidance):
            raise ValueError("Particles weigh draws for what they are: leave guidance_scale at 1 with tds.")
        if type(self.scheduler).__name__ != "DDPMScheduler":
            raise ValueError("Particles take the steps of the sampler ddpm: leave the scheduler out with tds.")
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        set_steps(scheduler, steps, self.device)
        timesteps, process, k = scheduler.timesteps, Process(scheduler), self.unet.particles
        levels = [(a.to(self.device), s.to(self.device)) for a, s in map(process.levels, timesteps)]
        rows = h.repeat_interleave(k, 0)
        names = source if source is None or isinstance(source, str) else [name for name in source for _ in range(k)]
        bounded = scheduler.config.clip_sample or scheduler.config.thresholding

        def guess(x: Tensor, step: int) -> Guess:
            found: Guess = self.unet.guess(x, timesteps[step], rows, names)
            if not bounded:
                return found
            return Guess(found.out, found.x0.clamp(-1, 1), found.guided.clamp(-1, 1), found.twist)

        def tell(step: int, x: Tensor, denoised: Tensor) -> None:
            first = slice(None, None, k if len(x) > len(streams) else 1)  # one particle of each
            shown = {"sample": x[first], "denoised": self.unet.space.decode(denoised[first])}
            report(step, int(timesteps[step]), shown)

        drawn = twisted(
            streams,
            self.unet.space.shape(self.image_size),
            k,
            levels,
            guess,
            lambda x: self.unet.likelihood(self.unet.space.decode(x), rows, names),
            tell,
        )
        return self.unet.space.decode(drawn)


def guided(
    prior: str | Path,
    sources: Sources | str,
    *,
    method: str = METHOD,
    particles: int = PARTICLES,
    device: torch.device | str | None = None,
    scheduler: str | None = None,
    mixed_precision: str = "no",
    prior_images: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> GuidedPipeline:
    """A prior and networks -> a pipeline that draws images of given representations; seconds to a minute on a CPU.

    `prior`: a checkpoint of ours, or a pipeline folder of diffusers with an unconditional UNet2DModel on pixels.
    `sources`: those of any pipeline, or what `sources_of` reads: a checkpoint file, a published name. `method`: one of
    METHODS; `particles`: of each draw with tds. `scheduler` is another sampler than ancestral DDPM; `mixed_precision`
    "bf16" has the prior's U-Net in bfloat16. `prior_images`: how many draws of the prior it learns from, by default as
    many as cost about half a minute of a CPU's core (48 to 256); with more, draws come nearer to h. `on_progress` is
    told what is being done. Raises ValueError for what is no prior or no network.
    """
    refuse_method(method, particles, prior_images)
    device = usable(device or best_device())
    found = load_prior(prior)
    sources = sources_of(sources) if isinstance(sources, str) else sources
    keep_freed_memory()
    unet = GuidedUNet(found.unet, Process(found.scheduler), sources.to(device), method, particles)
    unet.use_mixed_precision(mixed_precision)
    warn_of_emulation(mixed_precision, device)
    of_guided = scheduler_named(found.scheduler, scheduler or "ddpm")
    pipe = GuidedPipeline(
        unet.float().eval().requires_grad_(False),
        scheduler_named(found.scheduler, SPACED),
        sources,
        trained_on=found.trained_on,
        prior=str(found.folder),
    )
    pipe.set_progress_bar_config(disable=None, leave=False)  # none where nobody looks
    pipe.to(device)
    n = prior_images or _affordable(pipe)
    few = "" if prior_images or n == MOST else f"; {MOST} (prior_images) would take longer, and lead nearer to h"
    on_progress(f"{n} images of the prior, to learn from{few}")
    images = pipe.draw(None, None, range(_FIRST_SEED, _FIRST_SEED + n), num_inference_steps=PRIOR_STEPS)
    pipe.register_modules(scheduler=of_guided)
    for source in sources.names:
        on_progress(f"{source}: what noisy images say of it, and how closely it is to be held")
        pipe.guidance[source] = _hold(pipe, images, source)
        on_progress(f"{source}: {pipe.guidance[source].in_words()}")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _hold(pipe: GuidedPipeline, images: Tensor, source: str) -> Reached:
    """Statistics, τ² and w of a source, from images [N,3,S,S] of the prior."""
    unet, h = pipe.unet, _encode(pipe, images, source)
    std = h.std(0)
    unet.set_statistics(source, h.mean(0), std.clamp(min=0.1 * float(std.mean())))  # a unit that hardly ever speaks
    given = unet.standardise(h, source)
    apart = 2 * given.var(0).sum()  # E‖z − z'‖²
    moved = unet.standardise(_encode(pipe, images[:FEWEST_PRIOR_IMAGES].roll(1, 3), source), source)
    square = (moved - given[:FEWEST_PRIOR_IMAGES]).square()
    if not bool(torch.isfinite(square).all()) or not float(apart) > 0:
        raise ValueError(f"{source} says the same of every image, or what is no number: nothing can be drawn from it.")
    tolerance = _rounded(max(float(square.mean()), 1e-6))
    unet.set_tolerance(source, tolerance)
    unet.learn(source, images, h)
    target = float(square.sum(1).mean() / apart)
    again, tried = min(len(images) // TRIED, MOST_TRIED), dict[float, float]()
    for strength in STRENGTHS[pipe.method]:
        if tried and min(tried.values()) <= target:
            break
        unet.set_strength(source, strength)
        seeds = range(_FIRST_SEED + len(images), _FIRST_SEED + len(images) + again)
        drawn = pipe.draw(h[:again], source, seeds, num_inference_steps=TRIED_STEPS)
        error = (unet.standardise(_encode(pipe, drawn, source), source) - given[:again]).square().sum(1)
        tried[strength] = float(error.mean() / apart)
    best = min(tried, key=lambda strength: tried[strength])
    unet.set_strength(source, best)
    return Reached(best, tolerance, target, tried[best], again, len(images))


def _affordable(pipe: GuidedPipeline) -> int:
    """How many images of the prior, from the operations that each takes: the same on every machine."""
    learns = len(LEVELS) if pipe.method in REGRESSED else 0
    x = torch.zeros(pipe.unet.space.shape(pipe.image_size), device=pipe.device)[None]
    with FlopCounterMode(display=False) as counted:
        pipe.unet(x, torch.zeros(1, device=pipe.device, dtype=torch.long))
    denoiser, networks = counted.get_total_flops(), 0
    for source in pipe.sources:
        with FlopCounterMode(display=False) as counted:
            pipe.encode(pipe.unet.space.decode(x), source)
        networks += counted.get_total_flops()
    each = (PRIOR_STEPS + learns * len(pipe.sources)) * denoiser + (1 + learns) * networks
    return int(min(max(AFFORDABLE / each, FEWEST), MOST))


def _encode(pipe: GuidedPipeline, images: Tensor, source: str) -> Tensor:
    return torch.cat([pipe.encode(some, source) for some in images.split(16)])


def _rounded(number: float) -> float:
    """To three digits, so that another machine's last digits change nothing."""
    return float(f"{number:.3g}")


def as_json(pipe: GuidedPipeline) -> dict[str, Any]:
    """What is to be written beside numbers of guided draws."""
    about = {name: asdict(reached) for name, reached in pipe.guidance.items()}
    configs = {name: pipe.sources.config_of(name) for name in dict.fromkeys(s.partition("/")[0] for s in about)}
    lines = {name: config["reading"]["lines"] for name, config in configs.items() if "reading" in config}
    particles = {"particles": pipe.unet.particles} if pipe.method == "tds" else {}
    return {"prior": Path(pipe.config.prior).name, "method": pipe.method, **particles, "read": lines, "sources": about}
