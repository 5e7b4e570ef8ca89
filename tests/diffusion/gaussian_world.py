"""A world whose posterior is known: images are normal, h is linear in them, and the denoiser is exact.

x ~ N(0, S), z = A x, likelihood N(h; z, τ²). `python tests/diffusion/gaussian_world.py` prints what each method draws.
"""

from itertools import pairwise
from types import SimpleNamespace

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from rcdm.diffusion.guidance import GuidedUNet
from rcdm.diffusion.guided import GuidedPipeline
from rcdm.diffusion.image_space import SPACES, PixelSpace
from rcdm.diffusion.particles import ancestral
from rcdm.diffusion.process import Process, prediction
from rcdm.diffusion.unet import RepresentationUNet, unet_arguments
from rcdm.networks.representation import OpenNetwork, Preprocessing
from rcdm.networks.sources import Sources

D = 12
"""Numbers of an image: 3 channels of 2 x 2 pixels."""

SOURCE, TOLERANCE = "f/output", 0.1

IMAGES = 256
"""That the regression is fitted on."""


class Unbounded(PixelSpace):
    """Pixels that may be anything: the clamp would cut off the tails of a normal distribution."""

    def decode(self, x: Tensor) -> Tensor:
        return x


class ExactDenoiser(nn.Module):
    """E[x | x_t] = a S (a² S + s²)⁻¹ x_t, as the network of a RepresentationUNet."""

    def __init__(self, covariance: Tensor, process: Process) -> None:
        super().__init__()
        self.covariance, self.process = covariance, process
        self.config = SimpleNamespace(sample_size=2)
        self.time_embedding = SimpleNamespace(linear_2=SimpleNamespace(out_features=1))

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> SimpleNamespace:
        a, s = self.process.levels(torch.as_tensor(t).reshape(-1)[0])
        gain = a * self.covariance @ torch.linalg.inv(a**2 * self.covariance + s**2 * torch.eye(D))
        x0 = (x.flatten(1) @ gain.T).view_as(x)
        return SimpleNamespace(sample=prediction(self.process.kind, x0, (x - a * x0) / s, a, s))


def world() -> tuple[Tensor, Tensor, Tensor]:
    """S, whose deviations go from 2 to ½; A of two numbers, of which one reads a wide direction and one a narrow; h."""
    stream = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(D, D, generator=stream))[0]
    covariance = turn @ torch.diag(torch.logspace(0.6, -0.6, D)) @ turn.T
    encoder = torch.stack([turn[:, 0] + turn[:, 3], turn[:, 8] - turn[:, 11]])
    return covariance, encoder, torch.tensor([3.0, 1.0])


def pipeline(
    covariance: Tensor, encoder: Tensor, method: str, particles: int = 8, images: int = IMAGES
) -> GuidedPipeline:
    """Guided draws of that world: `strength` 1, `tolerance` TOLERANCE, nothing standardised."""
    SPACES["unbounded"] = Unbounded
    scheduler = DDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    prior = RepresentationUNet({}, unet_arguments(16, channels=(8, 16)), {"kind": "unbounded"})
    prior.unet = ExactDenoiser(covariance, Process(scheduler))
    linear = nn.Linear(D, len(encoder), bias=False)
    linear.weight.data = encoder
    network = OpenNetwork(nn.Sequential(nn.Flatten(), linear), ["output"])
    sources = Sources({"f": (network, Preprocessing(2))}, [SOURCE], {"f": {}})
    unet = GuidedUNet(prior, Process(scheduler), sources, method, particles)
    unet.set_tolerance(SOURCE, TOLERANCE)
    spread, stream = torch.linalg.cholesky(covariance), torch.Generator().manual_seed(1)
    seen = (torch.randn(images, D, generator=stream) @ spread.T).view(-1, 3, 2, 2)
    unet.learn(SOURCE, seen, sources.encode(seen, SOURCE))
    pipe = GuidedPipeline(unet, scheduler, sources)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn_from(pipe: GuidedPipeline, covariance: Tensor, steps: int) -> Tensor:
    """What the sampler draws without h has this covariance, which only many steps bring to that of the world."""
    variances, turn = torch.linalg.eigh(covariance)
    pipe.scheduler.set_timesteps(steps)
    levels = [Process(pipe.scheduler).levels(t) for t in pipe.scheduler.timesteps]
    spread = torch.ones(D)
    for now, then in pairwise(levels):
        gain = now[0] * variances / (now[0] ** 2 * variances + now[1] ** 2)
        kept, added = ancestral(gain, torch.ones(D), now, then)  # linear in x_t: the factor that it is taken times
        spread = kept**2 * spread + added
    a, s = levels[-1]
    return turn @ torch.diag((a * variances / (a**2 * variances + s**2)) ** 2 * spread) @ turn.T


def posterior(covariance: Tensor, encoder: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x given h."""
    exact = torch.linalg.inv(torch.linalg.inv(covariance) + encoder.T @ encoder / TOLERANCE)
    return exact @ encoder.T @ h / TOLERANCE, exact


def compare(
    method: str, n: int, *, particles: int = 8, steps: int = 20, numbers: int = 2, images: int = IMAGES
) -> tuple[float, float]:
    """How far mean and covariance of n draws are from the exact ones, in units of the posterior (0 and 0).

    By chance alone: √(D / n) and √(D (D + 1) / n). `numbers`: how many numbers h has. `method` "prior" is without h.
    """
    covariance, encoder, h = world()
    encoder, h = encoder[:numbers], h[:numbers]
    pipe = pipeline(covariance, encoder, "dps" if method == "prior" else method, particles, images)
    own = drawn_from(pipe, covariance, steps)
    mean, exact = (torch.zeros(D), own) if method == "prior" else posterior(own, encoder, h)
    given = (None, None) if method == "prior" else (h.expand(n, -1), SOURCE)
    x = pipe.draw(*given, range(n), num_inference_steps=steps, batch_size=n).flatten(1)
    units = torch.linalg.solve_triangular(torch.linalg.cholesky(exact), (x - mean).T, upper=False)
    return float(units.mean(1).norm()), float((torch.cov(units) - torch.eye(D)).norm())


if __name__ == "__main__":
    print("| method | numbers in h | steps | draws | error of the mean (chance) | of the covariance (chance) |")
    print("|---|---|---|---|---|---|")
    cases = [("prior", 8, 0), ("mpgd", 1, 0), ("dps", 1, 0), ("regression", 1, IMAGES), ("regression", 1, 4000)]
    cases += [("tds", particles, IMAGES) for particles in (1, 4, 16, 64)]
    for numbers in (1, 2):
        for method, particles, images in cases:
            for steps in (20, 100):
                n = 1000 if method == "tds" else 4000
                options = {"particles": particles, "steps": steps, "numbers": numbers, "images": images or IMAGES}
                mean, spread = compare(method, n, **options)
                name = {"regression": f"regression, {images} images", "tds": f"tds, {particles} particles"}
                chance = ((D / n) ** 0.5, (D * (D + 1) / n) ** 0.5)
                print(
                    f"| {name.get(method, method)} | {numbers} | {steps} | {n} | {mean:.2f} ({chance[0]:.2f}) "
                    f"| {spread:.2f} ({chance[1]:.2f}) |",
                    flush=True,
                )
