"""At which level of noise draws lose what they should show.

Held-out images are given noise of a level, and denoised from there with their own h: what is wrong then has been lost
at that level or below it, as nothing else was drawn. The rows of the least noise say what the finest details cost, the
last rows are those of whole draws. Prints a Markdown table: the class, by a judge that no source is, KID, and squared
distance from the image.
"""

import argparse
import copy
from typing import Any

import torch
from torch import Tensor

import rcdm
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.process import Process, add_noise, network_input
from rcdm.diffusion.spaced import spaced
from rcdm.measures.faithfulness import encode_all
from rcdm.measures.judge import Evaluator
from rcdm.measures.metrics import mean

PROBED, OFFSET, BATCH = 6000, 1000, 100  # as `stretch.py`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True)
    parser.add_argument("--judge", default="efficientnet-lite1/backbone")
    parser.add_argument("--source", help="of the checkpoint; its first")
    parser.add_argument("--without-h", action="store_true", help="denoise without h")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--steps", type=int, default=10, help="from each level")
    parser.add_argument("--levels", type=float, nargs="+", default=[4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -3.0, -5.0])
    options = parser.parse_args()
    pipe = rcdm.load(options.checkpoint)
    source = options.source or pipe.sources.names[0]
    dataset = load_dataset(options.data, pipe.image_size)
    batch = dataset.held_out(OFFSET + options.images)
    images, labels = batch.images[OFFSET:].cpu(), batch.labels[OFFSET:].cpu()
    judge = Evaluator(rcdm.load_source(options.judge), dataset, n=PROBED)
    h = None if options.without_h else encode_all(pipe, images, source)
    print(f"{source}, N {len(images)}{', without h' if h is None else ''}")
    print("| ln SNR | class (95 %) | KID x 1000 | squared distance |\n|---|---|---|---|", flush=True)
    print(row("the image itself", judge, images, images, labels), flush=True)
    for level in options.levels:
        drawn = denoised(pipe, images, h, source, level, options.steps)
        print(row(f"{level:g}", judge, drawn, images, labels), flush=True)


@torch.no_grad()
def denoised(pipe: RCDMPipeline, images: Tensor, h: Tensor | None, source: str, level: float, steps: int) -> Tensor:
    """Images [N,3,S,S] with noise of ln SNR `level`, denoised in so many steps with h [N,D] -> [N,3,S,S]."""
    process, space = Process(pipe.scheduler), pipe.unet.space
    start = int((process.logsnr() - level).abs().argmin())
    times = spaced(start + 1, min(steps, start + 1))
    drawn = []
    for part in torch.arange(len(images)).split(BATCH):
        scheduler = copy.deepcopy(pipe.scheduler)
        scheduler.set_timesteps(timesteps=times)
        x0 = space.encode(images[part])
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(int(part[0])))
        x = add_noise(x0, noise, *process.levels(start))
        for t in scheduler.timesteps:
            given: tuple[Any, ...] = (None, None) if h is None else (h[part], source)
            out = pipe.unet(network_input(scheduler, x, t), t, *given).sample
            x = scheduler.step(out, t, x).prev_sample
        drawn.append(space.decode(x))
    return torch.cat(drawn)


def row(name: str, judge: Evaluator, drawn: Tensor, images: Tensor, labels: Tensor) -> str:
    right = mean((judge.classes(drawn).argmax(1) == labels).float())
    kid = "" if drawn is images else f"{judge.kid(drawn, images)['value']:.0f}"
    distance = float((drawn - images).square().mean())
    return f"| {name} | {right.value:.2f} ({right.low:.2f}–{right.high:.2f}) | {kid} | {distance:.4f} |"


if __name__ == "__main__":
    main()
