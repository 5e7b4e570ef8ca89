"""What a network says of photographs at its own size, and through the size that a decoder draws.

Similarity of the two representations (beside that to another photograph), their distance over that of two photographs,
and how far the decoder's draws follow either.
"""

import argparse
from pathlib import Path

import torch

import rcdm
from rcdm.data import images as im
from rcdm.measures.metrics import Number, cycle_error, mean, similarity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("photos", type=Path, help="folder of photographs, looked through with those in it")
    parser.add_argument("--source", help="the first if none is given")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    pipe = rcdm.load(options.checkpoint)
    source = options.source or pipe.sources.names[0]
    side = max(pipe.sources[source].preprocessing.size, pipe.image_size)
    files = sorted(file for file in options.photos.rglob("*") if file.suffix in (".jpg", ".png"))
    photos = [im.halved(im.decode(file), 2 * side) for file in files]
    given = {}
    for name, full in (("through the drawn size", False), ("at full resolution", True)):
        pipe.register_to_config(full_resolution=full)
        given[name] = torch.cat([pipe.encode(photo, source) for photo in photos])
    small, sharp = (pipe.unet.standardise(h, source).cpu() for h in given.values())
    print(
        f"{len(photos)} photographs, {source}: {pipe.sources[source].preprocessing.size} px, {pipe.image_size} px drawn"
    )
    print("similarity of the two", shown(mean(similarity(small, sharp))))
    print("similarity to the next photograph", shown(mean(similarity(small, sharp.roll(1, 0)))))
    print("distance over that of two photographs", shown(cycle_error(sharp, small)))
    for name, h in given.items():
        drawn = pipe.draw(h, source, range(len(h)), num_inference_steps=options.steps)
        again, wanted = (pipe.unet.standardise(x, source).cpu() for x in (pipe.encode(drawn, source), h))
        error = cycle_error(again, wanted)
        print(f"cycle error of draws, {name}: {shown(error)}, of the next photograph's {error.null:.2f}")


def shown(number: Number) -> str:
    return f"{number.value:.2f} ({number.low:.2f}-{number.high:.2f})"


if __name__ == "__main__":
    main()
