"""Photographs, guided by networks that no decoder was trained for: cycle error and MRR of one draw of each test image.

With --trained, the checkpoint's own decoder draws from the same images beside them, for networks that it knows.
"""

import argparse
import itertools
import time

import torch

import rcdm
from rcdm.data.datasets import load_dataset
from rcdm.measures.faithfulness import faithfulness_of
from rcdm.networks.reading import Reading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prior", default="cifar10-32")
    parser.add_argument("--backbone", required=True, help="as for `rcdm sample --backbone`")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--trained", metavar="SOURCE", help="of the prior, the same network")
    parser.add_argument("--methods", nargs="+", default=["regression", "dps"])
    parser.add_argument("--prior-images", type=int, nargs="+", default=[None], help="as for `rcdm sample`")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=48)
    options = parser.parse_args()
    yard = rcdm.load(options.prior)
    images = load_dataset(options.data, yard.image_size).held_out(options.images).images
    sources = rcdm.sources_of(options.backbone, reading=Reading(image_size=options.image_size))
    print("| source | way | cycle error (95 %) | MRR (95 %), chance | seconds before, per image | steps | N |")
    print("|---|---|---|---|---|---|---|")
    for method, prior_images in itertools.product(options.methods, options.prior_images):
        begun = time.process_time()
        pipe = rcdm.guided(options.prior, sources, method=method, prior_images=prior_images)
        for source in sources.names:
            way = f"{method}, {pipe.guidance[source].images} images of the prior"
            report(pipe, images, source, way, time.process_time() - begun)
    if options.trained:
        report(yard, images, options.trained, "trained decoder", 0.0)


def report(pipe: rcdm.RCDMPipeline, images: torch.Tensor, source: str, way: str, before: float) -> None:
    """One line of the table."""
    h = torch.cat([pipe.encode(some, source) for some in images.split(32)])
    begun = time.process_time()
    drawn = pipe.draw(h, source, range(len(images)))
    seconds = (time.process_time() - begun) / len(images)
    found = faithfulness_of(pipe, h, drawn, source)
    error, mrr = found["cycle_error"], found["mrr"]
    print(
        f"| {source} | {way} | {error.value:.2f} ({error.low:.2f}–{error.high:.2f}) "
        f"| {mrr.value:.2f} ({mrr.low:.2f}–{mrr.high:.2f}), {mrr.null:.2f} "
        f"| {before:.0f}, {seconds:.1f} | {pipe.config.default_steps} | {len(images)} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
