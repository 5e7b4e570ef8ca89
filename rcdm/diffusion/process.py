"""The diffusion process: how much noise an image has at a timestep, what a prediction says, what the denoiser learns.

    x_t = a x0 + s ε,    λ = ln(a² / s²)                                   (1)
    v = a ε − s x0  where a² + s² = 1  (Salimans & Ho 2022)                 (2)
    u = ε − x0      where a + s = 1    (flow matching, Lipman et al. 2023)  (3)

This is the one place where these stand: training, sampling, previews and the measures call it.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Sequence
from typing import Any, Protocol

import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler, SchedulerMixin
from torch import Tensor

from rcdm.diffusion.spaced import SpacedDPMSolverScheduler

Level = Tensor | float
"""a or s of (1): a number, or a tensor that broadcasts over x."""

_LEAST_SIGNAL = 2.0**-24
"""a² where there is no signal, for samplers that divide by it: diffusers' own choice."""


def to_x0(kind: str, out: Tensor, x_t: Tensor, a: Level, s: Level) -> Tensor:
    """The image that a prediction of this kind (diffusers' `prediction_type`) stands for at x_t; shapes as x_t."""
    if kind == "epsilon":
        return (x_t - s * out) / a  # (1)
    if kind == "v_prediction":
        return a * x_t - s * out  # (1), (2)
    if kind == "flow_prediction":
        return x_t - s * out  # (1), (3)
    if kind == "sample":
        return out
    raise ValueError(f"There is no prediction type {kind!r}: epsilon, sample, v_prediction or flow_prediction.")


def to_noise(kind: str, out: Tensor, x_t: Tensor, a: Level, s: Level) -> Tensor:
    """The noise ε that a prediction of this kind stands for at x_t; shapes as x_t."""
    if kind == "epsilon":
        return out
    if kind == "v_prediction":
        return s * x_t + a * out  # (1), (2)
    if kind == "flow_prediction":
        return x_t + a * out  # (1), (3)
    return (x_t - a * to_x0(kind, out, x_t, a, s)) / s  # (1)


def prediction(kind: str, x0: Tensor, noise: Tensor, a: Level, s: Level) -> Tensor:
    """What a perfect denoiser of this kind puts out at x_t = a x0 + s ε."""
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return a * noise - s * x0  # (2)
    if kind == "flow_prediction":
        return noise - x0  # (3)
    if kind == "sample":
        return x0
    raise ValueError(f"There is no prediction type {kind!r}: epsilon, sample, v_prediction or flow_prediction.")


def add_noise(x0: Tensor, noise: Tensor, a: Level, s: Level) -> Tensor:
    """x_t of (1)."""
    return a * x0 + s * noise


def levels_of(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """λ -> a, s with a² + s² = 1: a² = sigmoid(λ)."""
    return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()


class Process:
    """The noise of one scheduler of diffusers, by its timesteps.

    Raises ValueError for a scheduler whose timesteps name no noise of the kinds above.
    """

    def __init__(self, scheduler: SchedulerMixin) -> None:
        flow = type(scheduler).__name__.startswith("FlowMatch")
        if not flow and not hasattr(scheduler, "alphas_cumprod"):
            raise ValueError(f"{type(scheduler).__name__} has timesteps of its own kind, which no denoiser here knows.")
        self.scheduler = scheduler
        self.kind: str = "flow_prediction" if flow else scheduler.config.prediction_type
        self._flow = flow or self.kind == "flow_prediction"
        self.steps: int = scheduler.config.num_train_timesteps

    def levels(self, timestep: Tensor | float) -> tuple[Tensor, Tensor]:
        """a and s at one timestep, whole or between two (there λ is interpolated, as samplers do)."""
        t = float(timestep)
        if self._flow:  # diffusers counts a flow's noise in thousandths
            s = torch.tensor(t / self.steps)
            return 1 - s, s
        if t != int(t):
            low, share = math.floor(t), t - math.floor(t)
            lambdas = self.logsnr()[[low, min(low + 1, self.steps - 1)]]
            return levels_of((1 - share) * lambdas[0] + share * lambdas[1])
        a = self.scheduler.alphas_cumprod[int(t)].sqrt()
        return a, (1 - a**2).sqrt()

    def x0(self, out: Tensor, x_t: Tensor, timestep: Tensor | float) -> Tensor:
        """The image [B,C,H,W] that a prediction stands for, where x_t is what the network was given."""
        a, s = (level.to(x_t) for level in self.levels(timestep))
        return to_x0(self.kind, out, x_t, a, s)

    def noise(self, out: Tensor, x_t: Tensor, timestep: int) -> Tensor:
        """The noise ε̂ [B,C,H,W] that a prediction at a whole timestep stands for."""
        a = float(self.scheduler.alphas_cumprod[timestep]) ** 0.5
        return to_noise(self.kind, out, x_t, a, (1 - a**2) ** 0.5)

    def logsnr(self) -> Tensor:
        """λ of every timestep, float32 [T]; held within ±27.6, where one of a and s is 0."""
        signal = self.scheduler.alphas_cumprod.double().clamp(1e-12, 1 - 1e-12)
        return (signal / (1 - signal)).log().float()


def network_input(scheduler: SchedulerMixin, x: Tensor, timestep: Tensor) -> Tensor:
    """What a sampler keeps, scaled as the network knows it: x_t of (1)."""
    scaled = getattr(scheduler, "scale_model_input", None)
    return x if scaled is None else scaled(x, timestep)


def first_noise(scheduler: SchedulerMixin, noise: Tensor) -> Tensor:
    """Standard normal noise, scaled as this sampler begins."""
    return noise * getattr(scheduler, "init_noise_sigma", 1.0)


def velocity_scheduler() -> SchedulerMixin:
    """v-prediction, zero terminal SNR (Lin et al. 2023), DPM-Solver++ in `spaced` steps, x0 clipped to [-1,1]."""
    return SpacedDPMSolverScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        thresholding=True,
        sample_max_value=1.0,
    )


def scheduler_names(scheduler: SchedulerMixin) -> dict[str, str]:
    """Short name -> class of diffusers or of ours, of every sampler for the denoiser that this scheduler belongs to."""
    names = {name for name in scheduler._compatibles if name not in _OF_OTHER_NETWORKS}
    names |= {SPACED} if DPMSolverMultistepScheduler.__name__ in names else set()
    return {_short(name): name for name in sorted(names)}


SPACED = SpacedDPMSolverScheduler.__name__


_OF_OTHER_NETWORKS = ("EDMEulerScheduler",)
"""diffusers lists them as compatible, but their timesteps are λ/8 and they scale the network's output themselves."""


def _short(name: str) -> str:
    """EulerAncestralDiscreteScheduler -> euler-ancestral."""
    words = name.removesuffix("Scheduler").replace("Discrete", "").replace("Multistep", "")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", words).lower()


def scheduler_named(scheduler: SchedulerMixin, name: str) -> SchedulerMixin:
    """The sampler of this name (short, or that of its class) with the noise that the denoiser has learnt.

    diffusers' `from_config` alone gives some samplers betas of their own: another noise at each timestep than in
    training. Raises ValueError, listing the choices, for a name that is none of them.
    """
    choices = scheduler_names(scheduler)
    spelled = {short.replace("-", ""): chosen for short, chosen in choices.items()}
    chosen = spelled.get(name.lower().replace("-", ""), name)
    if chosen not in choices.values():
        raise ValueError(f"There is no sampler {name!r} for this denoiser; choose one of {', '.join(choices)}.")
    if type(scheduler).__name__ == chosen:
        return copy.deepcopy(scheduler)
    try:
        return _with_noise_of(scheduler, SpacedDPMSolverScheduler if chosen == SPACED else getattr(diffusers, chosen))
    except ImportError as error:
        raise ValueError(f"{name} needs a library that is not installed: {str(error).strip()}") from error


def set_steps(scheduler: SchedulerMixin, n: int, device: torch.device | str | None = None) -> None:
    """`scheduler.set_timesteps(n)` without a step at timestep −1, where a sampler takes the finished image for noise.

    With spacing "trailing" diffusers makes one for some n (61, 103, 121 … of 1000): its np.arange ends above 0 by a
    rounding. A ratio that is larger by as little ends below.
    """
    scheduler.set_timesteps(n, device=device)
    if float(scheduler.timesteps.min()) < 0:
        scheduler.set_timesteps(n * (1 - _ROUNDING), device=device)
        scheduler.num_inference_steps = n


_ROUNDING = 2.0**-40


def reads_variance(scheduler: SchedulerMixin) -> bool:
    """Whether further channels of a prediction are a variance to it: it learnt one, and is of a kind that reads it.

    The config of another kind keeps what it does not know, so that the first kind has it again.
    """
    knows = "variance_type" in inspect.signature(type(scheduler).__init__).parameters
    return knows and "learned" in (scheduler.config.get("variance_type") or "")


def _with_noise_of(scheduler: SchedulerMixin, kind: Any) -> SchedulerMixin:
    """A scheduler of this class with the betas of the given one; a² of its last timestep is at least 2⁻²⁴."""
    signal = scheduler.alphas_cumprod.double().clamp(min=_LEAST_SIGNAL)
    before = torch.cat([signal.new_ones(1), signal[:-1]])
    settings = {name: value for name, value in scheduler.config.items() if name not in _OF_BETAS}
    return kind.from_config(settings, trained_betas=(1 - signal / before).tolist())


_OF_BETAS = (
    "beta_start",
    "beta_end",
    "beta_schedule",
    "rescale_betas_zero_snr",
    "trained_betas",
)


class Denoising(Protocol):
    """What is learnt, at one schedule."""

    def timesteps(self, uniform: Tensor) -> Tensor:
        """Numbers in [0,1) [B] -> the timesteps to train at, int64 [B]."""

    def noisy(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x [B,C,H,W], timesteps int64 [B] -> x_t [B,C,H,W]."""

    def error(self, out: Tensor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network put out at x_t -> error per image [B]."""


class VelocityError:
    """Mean squared error of v; with `snr_gamma` times max(min(snr, gamma) / (snr + 1), 0.1) (Hang et al. 2023)."""

    def __init__(self, scheduler: SchedulerMixin, device: torch.device, snr_gamma: float | None = None) -> None:
        self._signal = scheduler.alphas_cumprod.sqrt().to(device)
        self._snr_gamma = snr_gamma

    def timesteps(self, uniform: Tensor) -> Tensor:
        """Signal-to-noise ratios spread as uniform times of the cosine schedule have them (Nichol & Dhariwal 2021).

        Uniform times of the linear schedule have an image that is all but noise, λ below -4, in 38 of 100 cases; these
        in 9.
        """
        signal = (torch.pi / 2 * uniform).cos()  # a of the cosine schedule at these times
        return torch.searchsorted(-self._signal, -signal).clamp(max=len(self._signal) - 1)

    def noisy(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return add_noise(x0, noise, *self._levels(t))

    def error(self, out: Tensor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the predicted v [B,C,H,W], mean over each image and weighed by min-SNR: [B]."""
        a, s = self._levels(t)
        error = (out - prediction("v_prediction", x0, noise, a, s)).square().mean((1, 2, 3))
        if self._snr_gamma is not None:
            # min-SNR for v: min(snr, γ) / (snr + 1), which is 0 where sampling starts without any signal: at least 0.1
            snr = (a / s.clamp(min=1e-8)).flatten() ** 2
            error = error * (snr.clamp(max=self._snr_gamma) / (snr + 1)).clamp(min=0.1)
        return error

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a = self._signal[t].view(-1, 1, 1, 1)
        return a, (1 - a**2).sqrt()


def random_numbers(
    seed: int, images: Sequence[int], shape: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Image numbers of a run -> normal noise [B,*shape] and two uniform numbers each [B,2].

    Every image has a stream of its own, so that it does not matter how a batch is divided among processes. Number k of
    a stream is a hash of k (SplitMix64, Steele, Lea & Flood 2014), and normal ones come from two (Box & Muller 1958):
    all of a batch are computed at once, on any device alike up to rounding.
    """
    starts = torch.tensor([(seed + 1) * 1_000_003 + number for number in images], dtype=torch.int64, device=device)
    wanted = math.prod(shape)
    places = torch.arange(1, 2 + (wanted + 1) // 2, device=device)
    words = _mixed(_mixed(starts)[:, None] + places * _GAMMA)  # [B, 1 + half of the normal numbers]
    halves = torch.stack([_shifted(words, 32), words & 0xFFFFFFFF], -1)
    uniform = (_shifted(halves[:, 0], 8) * 2.0**-24).float()
    radius = (-2 * ((halves[:, 1:, 0].float() + 0.5) * 2.0**-32).log()).sqrt()
    angle = halves[:, 1:, 1].float() * (2 * math.pi * 2.0**-32)
    noise = torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(1)
    return noise[:, :wanted].reshape(len(images), *shape), uniform


def _mixed(words: Tensor) -> Tensor:
    """SplitMix64's finaliser, elementwise on int64, which torch multiplies modulo 2^64."""
    words = (words ^ _shifted(words, 30)) * -0x40A7B892E31B1A47
    words = (words ^ _shifted(words, 27)) * -0x6B2FB644ECCEEE15
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Each int64 as 64 bits, shifted right; zeros come in."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


_GAMMA = -0x61C8864680B583EB
"""2^64 over the golden ratio, as a signed number: the distance of SplitMix64's states."""


def spread_evenly(seed: int, images: Sequence[int], places: int = 1) -> Tensor:
    """Image numbers of a run -> numbers in [0,1) [B]: of any consecutive ones no two are close, and no gap is wide.

    Image k has k φ mod 1, with the golden ratio φ; and where sources take turns, image k that of `k mod places`, those
    of each source are counted alone: with 8 or 13 turns k φ would nearly stand still for a source. Losses at such
    timesteps vary less than at random ones, those of all images and those of each source.
    """
    turns = ((k // places) * _GOLDEN + (k % places) / places for k in images)
    return torch.tensor([(seed * _PHASE + u) % 1 for u in turns], dtype=torch.float64).float().clamp(max=_TOP)


_GOLDEN, _PHASE, _TOP = (5**0.5 - 1) / 2, 2**0.5 - 1, 1 - 2**-24
