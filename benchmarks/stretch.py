"""What a decoder in training draws: held-out error aside, the numbers of its log, with several kinds of guidance.

Of held-out images, each drawn once from a noise of its own: how often the class of the draw is that of its image, by a
judge that no source is (with how often it sees real images right), cycle error and MRR, KID, with class and KID of
unconditional draws beside them; and of some, drawn from the same noises, what image, source and noise decide. Prints a
line per source and guidance, and writes all as JSON; `--grid` draws ten images beside their draws. Scales above 1 are
also tried within an interval of noise levels alone, where one is given, and away from a weaker version of the denoiser
in place of the unconditional one (autoguidance, Karras et al. 2024, arXiv 2406.02507). `--strengths` guides by the
regression of the checkpoint, in place of a scale.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import rcdm
from rcdm.data import images as im
from rcdm.data.datasets import load_dataset
from rcdm.figures.grids import grid_png
from rcdm.measures.faithfulness import encode_all
from rcdm.measures.judge import Evaluator
from rcdm.measures.metrics import cycle_error, mean, ranks
from rcdm.measures.shares import seed_told, variance_shares

PROBED, OFFSET = 6000, 1000  # training images for the judge's probe; the first held-out images chose the guidance
SHARED, SEEDS = 48, 4  # images and noises of the draws that shares are of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True)
    parser.add_argument("--judge", default="efficientnet-lite1/backbone")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--sources", nargs="+", help="of the checkpoint; all")
    parser.add_argument("--steps", type=int, help="the checkpoint's own")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--strengths", type=float, nargs="*", default=[])
    parser.add_argument("--interval", type=float, nargs=2, metavar="LN_SNR", help="lowest and highest")
    parser.add_argument("--weaker", help="checkpoint of an earlier or smaller denoiser for the same sources")
    parser.add_argument("--out", type=Path, default=Path("stretch.json"))
    parser.add_argument("--grid", type=Path)
    options = parser.parse_args()
    pipe = rcdm.load(options.checkpoint)
    dataset = load_dataset(options.data, pipe.image_size)
    batch = dataset.held_out(OFFSET + options.images)
    images, labels = batch.images[OFFSET:].cpu(), batch.labels[OFFSET:].cpu()
    if options.grid:
        options.grid.write_bytes(grid(pipe, images, labels, options))
    judge = Evaluator(rcdm.load_source(options.judge), dataset, n=PROBED)
    real = mean((judge.classes(images).argmax(1) == labels).float())
    found: dict[str, Any] = {"images": len(images), "judge": judge.name, "real": real.to_json(), "scales": {}}
    print(f"{judge.name} sees real images right in {real.value:.2f} (N {len(images)})", flush=True)
    found["unconditional"] = unconditional(pipe, judge, images, labels, options.steps)
    print(f"unconditional  {told(found['unconditional'])}", flush=True)
    for way, guidance in ways(pipe, options):
        draws = []
        for source in options.sources or pipe.sources.names:
            begun = time.monotonic()
            h = encode_all(pipe, images, source)
            drawn = pipe.draw(h, source, range(len(h)), num_inference_steps=options.steps, **guidance).cpu()
            numbers = measured(pipe, judge, source, h, drawn, images, labels)
            numbers["seconds_per_image"] = (time.monotonic() - begun) / len(drawn)
            found["scales"].setdefault(way, {})[source] = numbers
            print(f"guidance {way}  {source:28} {told(numbers)}", flush=True)
            shared = h[:SHARED].repeat_interleave(SEEDS, 0)
            seeds = list(range(SEEDS)) * (len(shared) // SEEDS)
            drawn = pipe.draw(shared, source, seeds, num_inference_steps=options.steps, **guidance).cpu()
            draws.append(drawn.flatten(1).unflatten(0, (-1, SEEDS)))
        values = torch.stack(draws, 1)
        shares = {name: number.to_json() for name, number in variance_shares(values).items()}
        about = found["scales"][way]["shares"] = {**shares, "seed_told": seed_told(values).to_json()}
        print(told(about), flush=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")  # after each kind: it may be stopped between them


def told(numbers: dict[str, Any]) -> str:
    """Those that have a value, in a line."""
    return "  ".join(f"{name} {one['value']:.3f}" for name, one in numbers.items() if isinstance(one, dict))


def ways(pipe: rcdm.RCDMPipeline, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Name and options of each kind of guidance; the pipeline guides in that way until the next is asked for."""
    weak = None if options.weaker is None else rcdm.load(options.weaker).unet
    strong, both = pipe.unet, pipe.unet.with_and_without

    def away_from_weak(x: Any, t: Any, h: Any, source: Any) -> tuple[Any, Any]:
        return strong(x, t, h, source).sample, weak(x, t, h, source).sample

    for scale in options.scales:
        given = {"guidance_scale": scale}
        yield f"{scale:g}", given
        if scale == 1:
            continue
        if options.interval is not None:
            pipe.use_guidance({}, options.interval)
            yield f"{scale:g} in {options.interval[0]:g} … {options.interval[1]:g}", given
            pipe.use_guidance({})
        if weak is not None:
            strong.with_and_without = away_from_weak
            yield f"{scale:g} away from {Path(options.weaker).name}", given
            strong.with_and_without = both
    for strength in options.strengths:
        yield f"by regression {strength:g}", {"guidance_strength": strength}


def measured(pipe: Any, judge: Evaluator, source: str, h: Any, drawn: Any, images: Any, labels: Any) -> dict[str, Any]:
    """Of one draw [N,3,S,S] per image: class, cycle error, MRR and KID."""
    again = pipe.unet.standardise(encode_all(pipe, drawn, source), source).cpu()
    given = pipe.unet.standardise(h, source).cpu()
    return {
        "class": mean((judge.classes(drawn).argmax(1) == labels).float()).to_json(),
        "cycle_error": cycle_error(again, given).to_json(),
        "mrr": mean(1 / ranks(again, given).float()).to_json(),
        "kid": judge.kid(drawn, images),
    }


def unconditional(pipe: Any, judge: Evaluator, images: Any, labels: Any, steps: int | None) -> dict[str, Any]:
    """Of one draw beside each image that nothing is said of: class and KID, the nulls of the others."""
    drawn = pipe.draw(None, None, range(len(images)), num_inference_steps=steps).cpu()
    right = (judge.classes(drawn).argmax(1) == labels).float()
    return {"class": mean(right).to_json(), "kid": judge.kid(drawn, images)}


def grid(pipe: Any, images: Any, labels: Any, options: argparse.Namespace) -> bytes:
    """An image of each class, and four draws from the first source with the last guidance."""
    first = [int((labels == c).nonzero()[0]) for c in labels.unique()]
    source = (options.sources or pipe.sources.names)[0]
    guidance = (
        {"guidance_strength": options.strengths[-1]} if options.strengths else {"guidance_scale": options.scales[-1]}
    )
    h = encode_all(pipe, images[first], source).repeat_interleave(4, 0)
    drawn = pipe.draw(h, source, list(range(4)) * len(first), num_inference_steps=options.steps, **guidance)
    pictures = torch.cat([images[first][:, None], drawn.cpu().unflatten(0, (len(first), 4))], 1).flatten(0, 1)
    columns = ["given", *(f"seed {k}" for k in range(4))]
    return grid_png(im.to_pil(pictures), [""] * len(first), columns, pixels=96)


if __name__ == "__main__":
    main()
