"""What fewer denoising steps cost: cycle error, MRR, spread and time by number of steps, on held-out images."""

import argparse
import time

import torch

import rcdm
from rcdm.attributes import attributes_of
from rcdm.datasets import load_dataset
from rcdm.faithfulness import encode_all, faithfulness
from rcdm.metrics import calibration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", default="sprites-32")
    parser.add_argument("--data", default="sprites")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 12, 20, 50])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--sources", nargs="+", default=["simclr/backbone", "simclr/projector"])
    options = parser.parse_args()
    pipe = rcdm.load(options.checkpoint)
    images = load_dataset(options.data, pipe.image_size).held_out(options.images).images
    attributes = attributes_of(pipe)
    given = attributes.read(images[:64])
    print(f"{len(images)} held-out images, one draw each; calibration of hue and rotation on 64 images x 8 draws\n")
    print(
        "| source | steps | cycle error (95 %) | MRR | ρ hue | ρ rotation | ms/image |\n|---|---|---|---|---|---|---|"
    )
    for source in options.sources:
        h = encode_all(pipe, images[:64], source).repeat_interleave(8, 0)
        for steps in options.steps:
            begun = time.perf_counter()
            numbers = faithfulness(pipe, images, source, num_inference_steps=steps)
            spent = 1000 * (time.perf_counter() - begun) / len(images)
            read = attributes.read(pipe.draw(h, source, range(len(h)), num_inference_steps=steps))
            rho = {
                name: calibration(read[name].unflatten(0, (-1, 8)), given[name]).value for name in ("hue", "rotation")
            }
            c = numbers["cycle_error"]
            print(
                f"| {source} | {steps} | {c.value:.3f} ({c.low:.3f}–{c.high:.3f}) | {numbers['mrr'].value:.2f} "
                f"| {rho['hue']:.2f} | {rho['rotation']:.2f} | {spent:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
