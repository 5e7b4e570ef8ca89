"""What the denoiser learns: the schedule of its noise, the error of its prediction, the random numbers of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from diffusers import DPMSolverMultistepScheduler, SchedulerMixin
from torch import Tensor

from rcdm.diffusion.official.convert import RELEASED_FLAGS, official_scheduler
from rcdm.diffusion.official.loss import VariationalLoss


class Denoising(Protocol):
    """The task at one schedule."""

    def timesteps(self, uniform: Tensor) -> Tensor:
        """Numbers in [0,1) [B] -> the timesteps to train at, int64 [B]."""

    def noisy(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Images [B,3,H,W] in [-1,1], timesteps int64 [B] -> x_t [B,3,H,W]."""

    def error(self, out: Tensor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network put out at x_t -> error per image [B]."""


def make_scheduler(learn_sigma: bool = False) -> SchedulerMixin:
    """v-prediction, zero terminal SNR, trailing steps (Lin et al. 2023), DPM-Solver++ with x0 clipped to [-1,1].

    With `learn_sigma` the ancestral sampler of the released networks.
    """
    if learn_sigma:
        return official_scheduler(RELEASED_FLAGS)
    return DPMSolverMultistepScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        thresholding=True,
        sample_max_value=1.0,
    )


class VelocityError:
    """Mean squared error of v; with `snr_gamma` times max(min(snr, gamma) / (snr + 1), 0.1) (Hang et al. 2023)."""

    def __init__(self, scheduler: SchedulerMixin, device: torch.device, snr_gamma: float | None = None) -> None:
        self._signal = scheduler.alphas_cumprod.sqrt().to(device)
        self._snr_gamma = snr_gamma

    def timesteps(self, uniform: Tensor) -> Tensor:
        """Signal-to-noise ratios spread as uniform times of the cosine schedule have them (Nichol & Dhariwal 2021).

        Uniform times of the linear schedule have an image that is all but noise, log SNR below -4, in 38 of 100 cases;
        these in 9.
        """
        wanted = (torch.pi / 2 * uniform).cos()
        return torch.searchsorted(-self._signal, -wanted).clamp(max=len(self._signal) - 1)

    def noisy(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        signal, sigma = self._at(t)
        return signal * x0 + sigma * noise

    def error(self, out: Tensor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        signal, sigma = self._at(t)
        error = (out - (signal * noise - sigma * x0)).square().mean((1, 2, 3))
        if self._snr_gamma is not None:
            snr = (signal / sigma.clamp(min=1e-8)).flatten() ** 2
            error = error * (snr.clamp(max=self._snr_gamma) / (snr + 1)).clamp(min=0.1)
        return error

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        signal = self._signal[t].view(-1, 1, 1, 1)
        return signal, (1 - signal**2).sqrt()


class NoiseAndVarianceError(VariationalLoss):
    """Error of epsilon plus the bound that teaches the variance (Nichol & Dhariwal 2021), as the released networks."""

    def __init__(self, scheduler: SchedulerMixin) -> None:
        super().__init__(scheduler)
        self._steps = scheduler.config.num_train_timesteps

    def timesteps(self, uniform: Tensor) -> Tensor:
        """Uniform ones, as the released networks were trained."""
        return (uniform * self._steps).long()

    def error(self, out: Tensor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return self(out, x0, t, noise).loss


def random_numbers(
    seed: int, images: Sequence[int], shape: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Image numbers of a run -> normal noise [B,*shape] and three uniform numbers each [B,3].

    Every image has a stream of its own, so that it does not matter how a batch is divided among processes.
    """
    stream = torch.Generator(device)
    noise, uniform = torch.empty(len(images), *shape, device=device), torch.empty(len(images), 3, device=device)
    for k, number in enumerate(images):
        stream.manual_seed((seed + 1) * 1_000_003 + number)
        torch.rand(3, generator=stream, out=uniform[k])
        torch.randn(tuple(shape), generator=stream, out=noise[k])
    return noise, uniform
