"""The loss of networks that learn their variance: error of epsilon plus a variational bound, in bits per dimension.

Nichol & Dhariwal 2021 (arXiv 2102.09672): the mean is frozen in the bound, so that it teaches the variance alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from rcdm.diffusion.process import add_noise, to_x0


@dataclass(frozen=True)
class LossTerms:
    """Per image [B]: `mse` of epsilon, `vb` in bits per dimension, and `loss`, their sum."""

    mse: Tensor
    vb: Tensor

    @property
    def loss(self) -> Tensor:
        return self.mse + self.vb


class VariationalLoss:
    """What the released networks learn, a `process.Denoising`; the tables of its schedule are kept in float64."""

    def __init__(self, scheduler: SchedulerMixin) -> None:
        config = scheduler.config
        self._steps: int = config.num_train_timesteps
        if config.beta_schedule == "linear":
            betas = torch.linspace(config.beta_start, config.beta_end, config.num_train_timesteps, dtype=torch.float64)
        else:
            betas = scheduler.betas.double()
        signal = (1 - betas).cumprod(0)  # ᾱ_t
        before = torch.cat([signal.new_ones(1), signal[:-1]])
        variance = betas * (1 - before) / (1 - signal)  # β̃_t of the posterior (Ho et al. 2020, eq. 7)
        self._tables = {
            "log_beta": betas.log(),
            "log_variance": torch.cat([variance[1:2], variance[1:]]).log(),  # the first would be log 0
            "of_x0": betas * before.sqrt() / (1 - signal),
            "of_xt": (1 - before) * (1 - betas).sqrt() / (1 - signal),
            "signal": signal.sqrt(),
            "noise": (1 - signal).sqrt(),
        }

    def timesteps(self, uniform: Tensor) -> Tensor:
        """Numbers in [0,1) [B] -> timesteps, all alike often, int64 [B]."""
        return (uniform * self._steps).long()

    def error(self, out: Tensor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The loss of each image [B]."""
        return self(out, x0, t, noise).loss

    def noisy(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t [B,3,H,W] of images in [-1,1] at timesteps int64 [B]."""
        return add_noise(x0, noise, self._at("signal", t, x0), self._at("noise", t, x0))

    def __call__(self, out: Tensor, x0: Tensor, t: Tensor, noise: Tensor) -> LossTerms:
        """Network output [B,6,H,W] (epsilon, variance) at x_t -> terms."""
        epsilon, share = out.chunk(2, 1)
        mse = (noise - epsilon).square().mean((1, 2, 3))
        x_t = self.noisy(x0, t, noise)
        frozen = to_x0("epsilon", epsilon.detach(), x_t, self._at("signal", t, x0), self._at("noise", t, x0))
        # mean of q(x_{t-1} | x_t, x0): both coefficients (Ho et al. 2020, eq. 7)
        of_x0, of_xt = self._at("of_x0", t, x0), self._at("of_xt", t, x0)
        true_mean, mean = of_x0 * x0 + of_xt * x_t, of_x0 * frozen + of_xt * x_t
        true_log, share = self._at("log_variance", t, x0), (share + 1) / 2
        # between β̃ and β, by a share that the network says (Nichol & Dhariwal 2021, eq. 15)
        log_variance = share * self._at("log_beta", t, x0) + (1 - share) * true_log
        kl = _kl(true_mean, true_log, mean, log_variance)
        nll = -_discretised_log_likelihood(x0, mean, log_variance / 2)
        bits = torch.where((t == 0).view(-1, 1, 1, 1), nll, kl) / math.log(2)
        return LossTerms(mse, bits.mean((1, 2, 3)))

    def _at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """A table at timesteps [B] -> [B,1,1,1]."""
        return self._tables[name].to(t.device)[t].to(like.dtype).view(-1, 1, 1, 1)


def _kl(mean: Tensor, log_variance: Tensor, other: Tensor, other_log: Tensor) -> Tensor:
    """Of two Gaussians, in nats."""
    # ½ (ln σ₂²/σ₁² − 1 + σ₁²/σ₂² + (μ₁ − μ₂)²/σ₂²)
    return 0.5 * (
        other_log - log_variance - 1 + (log_variance - other_log).exp() + (mean - other).square() * (-other_log).exp()
    )


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """log probability, in nats, of 8-bit values in [-1,1] under a Gaussian; the outermost bins are open."""
    scale = (-log_deviation).exp()
    above, below = (_cdf(scale * (x - mean + side / 255)) for side in (1, -1))
    inside = (above - below).clamp(min=1e-12).log()
    lowest, highest = above.clamp(min=1e-12).log(), (1 - below).clamp(min=1e-12).log()
    return torch.where(x < -0.999, lowest, torch.where(x > 0.999, highest, inside))


def _cdf(x: Tensor) -> Tensor:
    """Of the standard normal distribution, approximately: the released code trains with this form."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
