"""What a denoiser knows of an image from h alone: its guess at pure noise beside a ridge regression of the pixels on h.

Prints per source the share of the held-out images' pixel variance that either explains, with the interval over images,
and that of the guess from the next image's h (null). `--way_in` scales the weights through which coarse images enter.
"""

import argparse

import torch
from torch import Tensor

import rcdm
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.coarse import coarse_map
from rcdm.measures.faithfulness import encode_all
from rcdm.measures.metrics import Number, bootstrap

OFFSET = 500  # held-out images that other numbers are about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--learnt", type=int, default=2000, help="training images of the regression")
    parser.add_argument("--sources", nargs="+")
    parser.add_argument("--way_in", type=float, default=1.0)
    options = parser.parse_args()
    pipe = rcdm.load(options.checkpoint)
    pipe.unet.unet.conv_in.weight.data[:, pipe.unet.space.network_shape(1)[0] :] *= options.way_in
    dataset = load_dataset(options.data, pipe.image_size)
    images = dataset.held_out(OFFSET + options.images).images[OFFSET:].to(pipe.device)
    training = dataset.batch(0, options.learnt).images.to(pipe.device)
    mean = training.mean(0)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(pipe.device)
    for source in options.sources or pipe.sources.names:
        h = encode_all(pipe, images, source)
        learnt = pipe.unet.standardise(encode_all(pipe, training, source), source)
        weight = coarse_map(learnt, training, pipe.image_size).to(h.device)
        straight = (pipe.unet.standardise(h, source) @ weight.T).unflatten(1, mean.shape) + mean
        found = {"guess": guess(pipe, noise, h, source), "regression": straight,
                 "null": guess(pipe, noise, h.roll(1, 0), source)}  # fmt: skip
        told = {name: explained(image, images, mean) for name, image in found.items()}
        words = [f"{name} {n.value:.3f} ({n.low:.3f} to {n.high:.3f})" for name, n in told.items()]
        print(f"{source}, N {len(images)}: " + ", ".join(words), flush=True)


@torch.no_grad()
def guess(pipe: rcdm.RCDMPipeline, noise: Tensor, h: Tensor, source: str) -> Tensor:
    """The image that v at pure noise stands for, [N,3,S,S]."""
    last = int(pipe.scheduler.config.num_train_timesteps) - 1
    rows = torch.arange(len(h)).split(100)
    return torch.cat([-pipe.unet(noise[i], torch.full((len(i),), last), h[i], source).sample for i in rows])


def explained(found: Tensor, images: Tensor, mean: Tensor) -> Number:
    left, all_of_it = (x.square().flatten(1).sum(1) for x in (images - found, images - mean))
    return bootstrap(lambda i: 1 - left[i].sum() / all_of_it[i].sum(), len(images))


if __name__ == "__main__":
    main()
