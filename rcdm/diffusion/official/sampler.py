"""The samplers of the released RCDM code as diffusers schedulers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from rcdm.diffusion.process import add_noise, to_noise, to_x0


class SpacedDDPMScheduler(DDPMScheduler):
    """DDPMScheduler whose timesteps are spaced as Nichol & Dhariwal 2021 (arXiv 2102.09672) space them.

    diffusers' own "linspace" rounds otherwise for about a quarter of all numbers of steps; with "leading" the steps are
    those of "ddimN".
    """

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        """A number of steps, or the timesteps themselves in descending order."""
        super().set_timesteps(device=device, timesteps=timesteps or _descending(self.config, num_inference_steps))


class SpacedDDIMScheduler(DDIMScheduler):
    """DDIM without noise (Song et al. 2020) on the same timesteps; the noise follows from the x0 that was clipped."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        """A number of steps, or the timesteps themselves in descending order."""
        kept = timesteps or _descending(self.config, num_inference_steps)
        self.num_inference_steps = len(kept)
        self.timesteps = torch.tensor(kept, device=device)

    def step(self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, **_: Any) -> DDIMSchedulerOutput:
        """One step of x [B,3,H,W]; channels of a learned variance are not used."""
        epsilon = model_output[:, : sample.shape[1]]
        place = int((self.timesteps == timestep).nonzero()[0])
        signal = self.alphas_cumprod[int(timestep)].to(sample)
        last = place + 1 == len(self.timesteps)
        before = torch.ones_like(signal) if last else self.alphas_cumprod[int(self.timesteps[place + 1])].to(sample)
        x0 = to_x0("epsilon", epsilon, sample, signal.sqrt(), (1 - signal).sqrt())
        if self.config.clip_sample:
            x0 = x0.clamp(-1, 1)
        epsilon = to_noise("sample", x0, sample, signal.sqrt(), (1 - signal).sqrt())  # it follows from the clipped x0
        return DDIMSchedulerOutput(add_noise(x0, epsilon, before.sqrt(), (1 - before).sqrt()), x0)


def _descending(config: Any, steps: int | None) -> list[int]:
    kind = "ddim" if config.timestep_spacing == "leading" else ""
    return spaced_timesteps(config.num_train_timesteps, f"{kind}{steps}")[::-1]


def spaced_timesteps(total: int, spacing: str) -> list[int]:
    """`timestep_respacing` of the released code -> timesteps in ascending order.

    "" keeps all; "N" takes N, evenly; "n1,n2,…" takes so many from each of as many equal sections; "ddimN" takes every
    k-th from 0. Raises ValueError when there are not so many.
    """
    if spacing == "":
        return list(range(total))
    if spacing.startswith("ddim"):
        count_of_steps = int(spacing.removeprefix("ddim"))
        for stride in range(1, total + 1):
            if len(range(0, total, stride)) == count_of_steps:
                return list(range(0, total, stride))
        raise ValueError(f"No stride takes exactly {count_of_steps} of {total} timesteps.")
    counts = [int(count) for count in spacing.split(",")]
    size, longer = divmod(total, len(counts))
    kept: set[int] = set()
    start = 0
    for section, count in enumerate(counts):
        length = size + (section < longer)
        if not 1 <= count <= length:
            raise ValueError(f"{count} steps cannot be taken from {length} timesteps.")
        pace = 1.0 if count == 1 else (length - 1) / (count - 1)
        place = 0.0
        for _ in range(count):
            kept.add(start + round(place))
            place += pace  # accumulated, as there: the rounding of a few numbers depends on it
        start += length
    return sorted(kept)
