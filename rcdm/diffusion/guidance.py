"""A denoiser that was never told h, guided to images with f(x) = h: what each method adds to its guess of the image.

The prior is p(x), the likelihood N(z; z(x), τ² I), where z is h standardised: images are drawn from their product. With
x̂ the prior's guess at x_t = a x + s ε, r what is missing and V its covariance, each adds a multiple of u:

    regression  r of z from what x_t says of it, whose covariance is Σ ((6) of `regression`)
                x̂ + u min(w, rᵀΣ⁻¹r / g·u),  g = (∂/∂x̂) −½ rᵀΣ⁻¹r,  u = (s²/a) (∂x̂/∂x_t)ᵀ g                 (4)
    tds         as regression; particles then weigh and resample (`particles`; Wu et al. 2023, arXiv 2306.17775)
    dps         r = z − z(x̂), through the denoiser (Chung et al. 2023, arXiv 2209.14687)
                x̂ + w u ‖r‖² / (τ² ‖r‖² + g·u),  g = Jᵀ r,  J = ∂z/∂x̂,  u as above                           (4b)
    mpgd        as dps with u = s² g, the gradient at x̂ alone (He et al. 2024, arXiv 2311.16424)

Where x given x_t is normal with covariance V, Tweedie's formula makes (s²/a) (∂x̂/∂x_t)ᵀ = V, and the exact answer is
Kalman's, x̂ + V Jᵀ (τ² I + J V Jᵀ)⁻¹ r. (4) has the matrix that is inverted from images; (4b) puts a number, its value
along r, in its place; mpgd puts s² I in place of V. The factor w is 1 in theory; `guided` says which is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from rcdm.diffusion.image_space import ImageSpace
from rcdm.diffusion.methods import METHODS, PARTICLES, refuse_method
from rcdm.diffusion.process import Process, prediction, to_x0
from rcdm.diffusion.regression import Regression, learn_regression, logsnr_of
from rcdm.diffusion.unet import RepresentationUNet, RepresentationUNetOutput
from rcdm.networks.sources import Sources, runs

MOST_PIXELS, MOST_DRAWN = 2**20, 2**16
"""That a network is fed, and a denoiser draws, at once, as their activations are kept for the gradient."""

REGRESSED = ("regression", "tds")
"""Methods that predict h from noisy images by (6)."""

_LEAST_SIGNAL = 0.01
"""a of (1), where s²/a would grow beyond all bounds: there x_t says next to nothing of x."""


@dataclass(frozen=True)
class Guess:
    """What the prior and the likelihood say at x_t, B images.

    Args:
        out: the prior's prediction, of the scheduler's kind. x0: the image it stands for. guided: x0 after (4).
        twist: ln of how likely h is, given x_t, but for a constant [B]: −½ rᵀΣ⁻¹r; (4b) has τ² + g·u / ‖r‖² for Σ.
    """

    out: Tensor
    x0: Tensor
    guided: Tensor
    twist: Tensor


@dataclass(frozen=True)
class Pull:
    """Where h draws a guess, B images.

    Args:
        out, x0: as in Guess. u: as in (4). far: rᵀΣ⁻¹r [B]. along: g·u [B].
    """

    out: Tensor
    x0: Tensor
    u: Tensor
    far: Tensor
    along: Tensor

    def guess(self, strength: Tensor) -> Guess:
        """(4) with w, one for all or one each [B]."""
        return self.moved(torch.minimum(self.far / self.along.clamp(min=1e-12), strength), self.far)

    def moved(self, gain: Tensor, far: Tensor) -> Guess:
        """x̂ + gain u. A trained denoiser's V is not quite a covariance: where it leads away from h, x̂ itself."""
        gain = torch.where(self.along > 0, gain, 0).view(-1, 1, 1, 1)
        return Guess(self.out, self.x0, self.x0 + gain * self.u, -far / 2)


def pulled(
    process: Process,
    space: ImageSpace,
    say: Callable[[Tensor], Tensor],
    missing: Callable[[Tensor], tuple[Tensor, Tensor]],
    x_t: Tensor,
    a: Tensor,
    s: Tensor,
    through: bool = True,
) -> Pull:
    """What h adds to a denoiser's guess at x_t = a x + s ε [B,C,S,S].

    `say` is the denoiser's output at x_t; `missing` gives r [B,K], which gradients flow through, and Σ⁻¹ r of an image.
    Without `through`, mpgd's u.
    """
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_(through)
        out = say(x_t).float()
        x0 = to_x0(process.kind, out[:, : space.channels], x_t, a, s)
        at = x0 if through else x0.detach().requires_grad_()
        r, weighed = missing(space.decode(at))
        losses = torch.autograd.grad(-(r * weighed).sum(), (at, x_t) if through else (at,))
    g = losses[0]
    u = losses[1] * (s**2 / a.clamp(min=_LEAST_SIGNAL)) if through else s**2 * g
    far, along = (r.detach() * weighed).sum(1), (g * u).flatten(1).sum(1)
    return Pull(out.detach(), x0.detach(), u, far, along)


def pieces(size: int, drawn: int, rows: slice) -> list[slice]:
    """Rows in pieces that fit the memory, where images have `size` pixels for the network, `drawn` for the denoiser."""
    step = max(1, min(MOST_PIXELS // size**2, MOST_DRAWN // drawn**2))
    return [slice(i, min(i + step, rows.stop)) for i in range(rows.start, rows.stop, step)]


class GuidedUNet(RepresentationUNet):
    """A prior that answers as a denoiser with sources does, though none of them was learnt: `forward` is (4).

    Args:
        prior: a denoiser that can draw without a representation. process: its noise.
        sources: the networks f. method: one of METHODS; particles: of each draw with tds. Raises ValueError for others.
    """

    settings: Tensor

    def __init__(
        self,
        prior: RepresentationUNet,
        process: Process,
        sources: Sources,
        method: str,
        particles: int = PARTICLES,
    ) -> None:
        refuse_method(method, particles)
        config = {key: value for key, value in prior.config.items() if not key.startswith("_")}
        with torch.device("meta"):  # its weights are those of the prior
            super().__init__(**{**config, "sources": sources.widths()})
        self.unet = prior.unet
        self.projections = type(self.projections)(
            {key: _Statistics(len(cast(Tensor, own.mean))) for key, own in self.projections.items()}
        )
        self._process, self._sources = process, (sources,)  # a tuple: its weights are not this module's
        self.method, self.particles = method, particles
        # among the weights, as draws depend on it
        self.register_buffer("settings", torch.tensor([list(METHODS).index(method), particles]))

    def set_tolerance(self, source: str, variance: float) -> None:
        """τ²: what h of an image may differ by, per standardised number."""
        cast(_Statistics, self._projection(source)).tolerance.fill_(variance)

    def set_strength(self, source: str, strength: float) -> None:
        """w of (4)."""
        cast(_Statistics, self._projection(source)).strength.fill_(strength)

    @torch.no_grad()
    def learn(self, source: str, images: Tensor, h: Tensor) -> None:
        """(6) of a source from images of the prior [N,3,S,S] and their raw h [N,D], where the method asks for it.

        Statistics and τ² are set before. The noise is always the same.
        """
        own = cast(_Statistics, self._projection(source))
        own.regression = None
        if self.method not in REGRESSED:
            return
        own.regression = learn_regression(
            self._process,
            self.space,
            lambda x_t, timestep, _: self._free(x_t, timestep),
            lambda some: self.standardise(self._sources[0].encode(some, source), source),
            images,
            self.standardise(h, source),
            float(own.tolerance),
        )

    @torch.no_grad()
    def likelihood(self, images: Tensor, h: Tensor, source: str | Sequence[str] | None) -> Tensor:
        """Images [B,3,S,S], raw h [B,D] -> ln N(z; z(x), τ² I) but for a constant, [B]."""
        parts = []
        for name, rows in runs(self._names(len(images), source)):
            own = cast(_Statistics, self._projection(name))
            drawn = self._sources[0].encode(images[rows], name)
            r = self.standardise(h[rows, : drawn.shape[1]], name) - self.standardise(drawn, name)
            parts.append(-r.square().sum(1) / (2 * own.tolerance))
        return torch.cat(parts)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        representation: Tensor | None = None,
        source: str | Sequence[str] | None = None,
        drop: Tensor | None = None,
        return_dict: bool = True,
    ) -> RepresentationUNetOutput | tuple[Tensor]:
        """As the denoiser's own, with the prediction that stands for the guided image. `drop` has no meaning here."""
        if representation is None:
            return super().forward(sample, timestep, return_dict=return_dict)
        guess = self.guess(sample, timestep, representation, source)
        a, s = self._levels(timestep, sample)
        noise = (sample - a * guess.guided) / s
        guided = prediction(self._process.kind, guess.guided, noise, a, s)
        out = torch.cat([guided, guess.out[:, self.space.channels :]], 1)  # a learned variance stays
        return RepresentationUNetOutput(sample=out) if return_dict else (out,)

    def with_and_without(
        self, sample: Tensor, timestep: Tensor | float | int, representation: Tensor, source: str | Sequence[str] | None
    ) -> tuple[Tensor, Tensor]:
        """The predictions from h and from nothing: the second is the prior's own, and needs no gradient."""
        return self(sample, timestep, representation, source).sample, self(sample, timestep).sample

    def guess(
        self, sample: Tensor, timestep: Tensor | float | int, h: Tensor, source: str | Sequence[str] | None
    ) -> Guess:
        """x_t [B,C,S,S], raw h [B,D] -> what is said of it, in pieces that fit the memory."""
        names = self._names(len(sample), source)
        steps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        parts = [
            self._guess(sample[rows], steps[rows], h[rows], name)
            for name, together in runs(names)
            for rows in pieces(self._sources[0][name].preprocessing.size, self.image_size, together)
        ]
        out, x0, guided, twist = (
            torch.cat([getattr(p, name) for p in parts]) for name in ("out", "x0", "guided", "twist")
        )
        return Guess(out, x0, guided, twist)

    def _guess(self, x_t: Tensor, timestep: Tensor, h: Tensor, source: str) -> Guess:
        own = cast(_Statistics, self._projection(source))
        wanted = self.standardise(h[:, : len(own.mean)], source)
        a, s = self._levels(timestep, x_t)

        def missing(image: Tensor) -> tuple[Tensor, Tensor]:
            z = self.standardise(self._sources[0][source](image), source)
            if own.regression is not None:
                return own.regression(wanted, z, image, logsnr_of(a, s).view(-1))
            r = wanted - z
            return r, r.detach()

        pull = pulled(
            self._process, self.space, lambda x: self._free(x, timestep), missing, x_t, a, s, self.method != "mpgd"
        )
        if own.regression is not None:
            return pull.guess(own.strength)
        variance = own.tolerance + pull.along.clamp(min=0) / pull.far.clamp(min=1e-12)  # (4b)
        return pull.moved(own.strength / variance, pull.far / variance)

    def _free(self, x_t: Tensor, timestep: Tensor | float) -> Tensor:
        """What the prior puts out."""
        (out,) = super().forward(x_t, timestep, return_dict=False)
        return cast(Tensor, out)

    def _levels(self, timestep: Tensor | float | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """a and s of (1) at one timestep, or at one per image: [1 or B,1,1,1]."""
        pairs = [self._process.levels(t) for t in torch.as_tensor(timestep).reshape(-1).unique_consecutive()]
        if len(pairs) > 1:
            pairs = [self._process.levels(t) for t in torch.as_tensor(timestep).reshape(-1)]
        a, s = (torch.stack([torch.as_tensor(pair[k]) for pair in pairs]) for k in (0, 1))
        return a.to(like).view(-1, 1, 1, 1), s.to(like).view(-1, 1, 1, 1)

    def _names(self, n: int, source: str | Sequence[str] | None) -> list[str]:
        source = self.named(source)
        return [source] * n if isinstance(source, str) else list(source)


class _Statistics(torch.nn.Module):
    """Of one source: what standardises it, τ², w, and (6) where the method has it."""

    mean: Tensor
    std: Tensor
    tolerance: Tensor
    strength: Tensor
    regression: Regression | None

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("tolerance", torch.ones(()))
        self.register_buffer("strength", torch.ones(()))
        self.register_module("regression", None)
