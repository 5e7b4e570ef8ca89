"""How much of what a representation varies by is due to an attribute: its share of the variance of standardised h.

By linear regression of h on the attribute, on held-out images. What a guided draw leaves of the distance to h can hold
any value of an attribute whose share is smaller.
"""

import argparse

import torch

import rcdm
from rcdm.data.datasets import load_dataset
from rcdm.measures.faithfulness import encode_all
from rcdm.measures.metrics import bootstrap
from rcdm.measures.readers import attributes_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", default="sprites-32")
    parser.add_argument("--data", default="sprites")
    parser.add_argument("--sources", nargs="+", default=["simclr/backbone"])
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args()
    pipe = rcdm.load(options.checkpoint)
    images = load_dataset(options.data, pipe.image_size).held_out(options.images).images
    attributes = attributes_of(pipe).read(images)
    null = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    for source in options.sources:
        z = pipe.unet.standardise(encode_all(pipe, images, source), source).cpu().double()
        print(f"{source}, N {len(images)}: share of the variance (95 %), images shuffled")
        for name, values in attributes.items():
            phi = values.cpu().double().view(len(images), -1)
            number = bootstrap(lambda i, z=z, phi=phi: share(z[i], phi[i]), len(images), draws=100)
            print(f"{name:18} {number.value:.3f} ({number.low:.3f}-{number.high:.3f})  {share(z, phi[null]):.3f}")


def share(z: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """Of h [N,D], by attribute [N,P]."""
    design = torch.cat([torch.ones(len(phi), 1, dtype=phi.dtype), phi], 1)
    left = z - design @ torch.linalg.lstsq(design, z).solution
    return 1 - left.var(0).sum() / z.var(0).sum()


if __name__ == "__main__":
    main()
