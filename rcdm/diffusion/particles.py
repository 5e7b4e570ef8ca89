"""Particles that are weighed and drawn again: exact draws of prior x likelihood as their number grows.

The twisted diffusion sampler (Wu et al. 2023, arXiv 2306.17775). With ψ_t the twist, p the prior's step and q the
guided one, both normal with the same variance σ², a particle that went from x_t to x_t' has the weight

    p(x_t' | x_t) ψ_t'(x_t') / (q(x_t' | x_t) ψ_t(x_t))                                                    (5)

and ψ_0 is the likelihood itself, so that any ψ_t > 0 gives the same limit; one that is close to p(h | x_t) wants fewer
particles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rcdm.diffusion.guidance import Guess

Levels = tuple[Tensor, Tensor]
"""a and s of x_t = a x + s ε."""


def ancestral(x0: Tensor, x_t: Tensor, now: Levels, then: Levels) -> tuple[Tensor, Tensor]:
    """Mean [B,…] and variance of x_t' given x_t and x0 (Ho et al. 2020, equation 7, for any two times)."""
    (a, s), (b, r) = now, then
    ratio = a / b  # x_t = ratio x_t' + noise of variance 1 − ratio²
    mean = (b * (1 - ratio**2) * x0 + ratio * r**2 * x_t) / s**2
    return mean, (1 - ratio**2) * r**2 / s**2


def twisted(
    streams: Sequence[torch.Generator],
    shape: Sequence[int],
    particles: int,
    levels: Sequence[Levels],
    guess: Callable[[Tensor, int], Guess],
    likelihood: Callable[[Tensor], Tensor],
    report: Callable[[int, Tensor, Tensor], None] = lambda *_: None,
) -> Tensor:
    """One draw per stream [N,*shape], each of as many particles, which share nothing with those of other streams.

    `levels`: of each step, from noise down. `guess(x [N·K,…], step)` is the prior's with the guided one;
    `likelihood(x)` is ψ_0, as a logarithm [N·K]. The last step is the prior's own: its variance is 0.
    """
    n, k = len(streams), particles

    def noise() -> Tensor:
        drawn = [torch.randn((k, *shape), generator=stream) for stream in streams]
        return torch.cat(drawn).to(levels[0][0].device)

    x = noise()
    now = guess(x, 0)
    weight = now.twist.view(n, k)
    for step in range(len(levels) - 1):
        rows = _resampled(weight, streams)
        if rows is not None:
            flat, whole = rows
            x, now = x[flat], Guess(now.out[flat], now.x0[flat], now.guided[flat], now.twist[flat])
            weight = torch.where(whole[:, None], 0, weight)
        free, variance = ancestral(now.x0, x, levels[step], levels[step + 1])
        led, _ = ancestral(now.guided, x, levels[step], levels[step + 1])
        z, before = noise(), now.twist
        x = led + variance.sqrt() * z
        # ln p − ln q of normals at led + σ z: −(‖led − free + σ z‖² − ‖σ z‖²) / 2σ²
        lost = ((led - free).square() + 2 * (led - free) * variance.sqrt() * z).flatten(1).sum(1) / (2 * variance)
        now = guess(x, step + 1)
        weight = weight + (now.twist - before - lost.view(-1)).view(n, k)
        report(step, x, now.guided)
    x0 = now.x0
    weight = weight + (likelihood(x0) - now.twist).view(n, k)
    shares = _shares(weight).cpu()
    chosen = [i * k + int(torch.multinomial(shares[i], 1, generator=stream)) for i, stream in enumerate(streams)]
    drawn = x0[torch.tensor(chosen, device=x0.device)]
    report(len(levels) - 1, x0, x0)
    return drawn


def _shares(weight: Tensor) -> Tensor:
    """Logarithms [N,K] -> weights that sum to 1 over K."""
    return weight.double().softmax(1)


def _resampled(weight: Tensor, streams: Sequence[torch.Generator]) -> tuple[Tensor, Tensor] | None:
    """Which particle follows each [N·K], and for which draws anything changed [N]; None where for none.

    Systematic resampling (Kitagawa 1996), where fewer than half of the particles count.
    """
    n, k = weight.shape
    shares = _shares(weight)
    poor = 1 / shares.square().sum(1) < k / 2
    if not bool(poor.any()):
        return None
    rows = torch.arange(n * k, device=weight.device).view(n, k)
    for i in poor.nonzero()[:, 0].tolist():
        start = torch.rand((), generator=streams[i]).double()
        marks = (torch.arange(k) + start) / k
        own = torch.searchsorted(shares[i].cumsum(0).cpu(), marks).clamp(max=k - 1)
        rows[i] = i * k + own.to(rows)
    return rows.view(-1), poor
