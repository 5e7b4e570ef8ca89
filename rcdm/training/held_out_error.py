"""The training loss on images that nobody trained on: what tells one recipe, or one more day, from another."""

from __future__ import annotations

import torch
from torch import Tensor

from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.process import Denoising, random_numbers

HELD_OUT = 512  # images: the number is compared between runs, so it does not follow num_validation_images
_SEED = 2**20  # of the noise: no run's own


@torch.no_grad()
def held_out_error(pipe: RCDMPipeline, objective: Denoising, images: Tensor, batch_size: int = 128) -> float:
    """Mean error of the denoiser of a pipeline on images [N,3,S,S], over all of its sources, h given.

    Image i has the same noise whatever the run, the source and the batch, and the middle of the i-th of N equal parts
    of the timesteps: the sum over images is one over timesteps too.
    """
    n, device = len(images), pipe.device
    x0 = pipe.unet.space.encode(images.to(device))
    noise, _ = random_numbers(_SEED, range(n), x0.shape[1:], device)
    t = objective.timesteps((torch.arange(n, device=device) + 0.5) / n)
    total = 0.0
    for source in pipe.sources.names:
        for rows in torch.arange(n, device=device).split(batch_size):
            h = pipe.encode(images[rows.to(images.device)], source)
            x_t = objective.noisy(x0[rows], t[rows], noise[rows])
            out = pipe.unet(x_t, t[rows], h, source).sample.float()
            total += float(objective.error(out, x0[rows], t[rows], noise[rows]).sum())
    return total / (n * len(pipe.sources.names))
