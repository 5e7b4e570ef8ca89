"""Guidance by regression of a trained denoiser: (4) of `guidance`, with (6) of `regression` learnt of its own guesses.

A denoiser that had too little training follows h too little, and what it misses the network itself can tell: draws are
led on from the guess that is made with h, by what noisy images say of h beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from rcdm.diffusion.checked_folder import check_regressor
from rcdm.diffusion.guidance import pieces, pulled
from rcdm.diffusion.process import Process, prediction
from rcdm.diffusion.regression import BATCH, LEVELS, Regression, features_of, learn_regression, logsnr_of
from rcdm.diffusion.unet import RepresentationUNet
from rcdm.networks.checked_files import check_finite
from rcdm.networks.representation import RepresentationSource
from rcdm.networks.sources import Sources, runs

DEAR = 2
"""Draws that cost as much as one that is guided so: a gradient goes back through denoiser and network."""

MOVED = 64
"""Images that are moved by a pixel: how much h varies where the image is known."""


class Regressor(ModelMixin, ConfigMixin):
    """(6) for sources of a checkpoint.

    Args:
        sources: name -> numbers of h, and directions of it that are predicted. image_size: of the drawn images.
        levels: how many levels of noise it was learnt at.
    """

    @register_to_config
    def __init__(self, sources: dict[str, list[int]], image_size: int, levels: int = len(LEVELS)) -> None:
        super().__init__()
        self.regressions = nn.ModuleDict(
            {
                _key(name): Regression.blank(dim, directions, features_of(directions, image_size), levels)
                for name, (dim, directions) in sorted(sources.items())  # as in a file: digests go by this order
            }
        )

    @classmethod
    def of(cls, regressions: dict[str, Regression], image_size: int) -> Regressor:
        """Source -> what was learnt of it, as one module."""
        levels = {len(one.levels) for one in regressions.values()}
        shapes = {name: list(one.basis.shape) for name, one in regressions.items()}
        made = cls(shapes, image_size, *levels)
        for name, one in regressions.items():
            made[name].load_state_dict(one.state_dict())
        return made.requires_grad_(False)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Regressor:
        """Load the folder `regressor` of a checkpoint. Raises ValueError, naming file and field, for a damaged one."""
        folder = Path(pretrained_model_name_or_path)
        weights = check_regressor(folder, cls)
        found: Regressor = super().from_pretrained(str(folder), **kwargs)
        check_finite(found.state_dict(), weights[0])
        for name in found.names:
            if (found[name].levels.diff() <= 0).any() or torch.linalg.cholesky_ex(found[name].covariance).info.any():
                raise ValueError(f"{weights[0]}: {name:.80} has falling levels, or no covariance: get the file again.")
        return found

    def refuse_other(self, unet: RepresentationUNet) -> None:
        """ValueError where it was learnt of images or representations of another size than a denoiser has."""
        for name in self.names:
            dim = unet.config.sources.get(name, 0)
            own = len(self[name].basis), self.config.image_size
            if own != (dim, unet.image_size):
                raise ValueError(
                    f"The regressor is for {own[0]} numbers of {name:.80} and {own[1]} px, the denoiser for {dim} and "
                    f"{unet.image_size} px: `rcdm evaluate` learns it again."
                )

    def __getitem__(self, source: str) -> Regression:
        found = self.regressions[_key(source)]
        assert isinstance(found, Regression)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The sources that it has."""
        return tuple(self.config.sources)

    def lead(
        self,
        unet: RepresentationUNet,
        sources: Sources,
        process: Process,
        x_t: Tensor,
        timestep: Tensor,
        h: Tensor,
        source: Sequence[str],
        strength: Sequence[float],
        say: Callable[[Tensor, slice], Tensor],
    ) -> Tensor:
        """The denoiser's prediction [B,C,H,W] after (4), at x_t [B,C,H,W], h [B,D], with a source and w for each image.

        `say(x_t, rows)` is what it says without, of some rows. Where there is more noise than at the lowest level that
        (6) was learnt at, that is all: x_t says next to nothing of h there, and a third of the steps get cheaper.
        """
        logsnr, pairs = logsnr_of(*process.levels(timestep)), zip(source, strength, strict=True)
        acting = [(name, w if w and logsnr >= self[name].levels[0] else 0.0) for name, w in pairs]
        if not any(w for _, w in acting):
            return say(x_t, slice(None))
        parts = []
        for (name, w), together in runs(acting):
            if w == 0:
                parts.append(say(x_t[together], together).float())
                continue
            wanted = unet.standardise(h[together, : len(self[name].basis)], name)
            for rows in pieces(sources[name].preprocessing.size, unet.image_size, together):
                own = slice(rows.start - together.start, rows.stop - together.start)
                follow = _Follow(unet, sources[name], process, self[name], say, rows, w)
                parts.append(follow(x_t[rows], timestep, wanted[own]))
        return torch.cat(parts)


@dataclass(frozen=True)
class _Follow:
    """Some rows, of one source, at one strength."""

    unet: RepresentationUNet
    source: RepresentationSource
    process: Process
    regression: Regression
    say: Callable[[Tensor, slice], Tensor]
    rows: slice
    strength: float

    def __call__(self, x_t: Tensor, timestep: Tensor, wanted: Tensor) -> Tensor:
        """x_t [B,C,H,W], standardised h [B,D] -> the prediction after (4)."""
        a, s = (level.to(x_t) for level in self.process.levels(timestep))

        def missing(image: Tensor) -> tuple[Tensor, Tensor]:
            z = self.unet.standardise(self.source(image), self.source.name)
            found: tuple[Tensor, Tensor] = self.regression(wanted, z, image, logsnr_of(a, s).view(-1))
            return found

        space = self.unet.space
        pull = pulled(self.process, space, lambda x: self.say(x, self.rows), missing, x_t, a, s)
        x0 = pull.guess(torch.as_tensor(self.strength).to(x_t)).guided
        led = prediction(self.process.kind, x0, (x_t - a * x0) / s, a, s)
        return torch.cat([led, pull.out[:, space.channels :]], 1)  # a learned variance stays


def learn_source(
    unet: RepresentationUNet, sources: Sources, process: Process, images: Tensor, source: str
) -> Regression:
    """Images [N,3,S,S] in [-1,1] -> (6) of a source and of this denoiser's guesses; N at least 10, better 1000.

    τ² is how much h changes where an image is moved by a pixel. Images are fed as the pipeline draws them.
    """
    images = images.to(unet.device)
    h = torch.cat([sources.encode(some, source) for some in images.split(BATCH)])

    def say(x_t: Tensor, timestep: Tensor | float, rows: slice) -> Tensor:
        out: Tensor = unet(x_t, timestep, h[rows], source).sample
        return out.float()

    def read(some: Tensor) -> Tensor:
        return unet.standardise(sources.encode(some, source), source)

    z = unet.standardise(h, source)
    moved = (read(images[:MOVED].roll(1, 3)) - z[:MOVED]).square().mean()
    return learn_regression(process, unet.space, say, read, images, z, max(float(moved), 1e-6))


def _key(source: str) -> str:
    return source.replace(".", ":")  # a module name holds no dot
