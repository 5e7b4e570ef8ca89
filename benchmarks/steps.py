"""What fewer denoising steps cost: cycle error, MRR, KID, calibration and time by their number, on held-out images.

Steps of DPM-Solver++, even ones and those that lie closer where less noise is left; beside the numbers how far draws
are from those in many even steps with the same noise (root mean square).
"""

import argparse
import itertools
import time

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

import rcdm
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.checkpoints import load_source
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.spaced import SpacedDPMSolverScheduler
from rcdm.measures.faithfulness import encode_all, faithfulness_of
from rcdm.measures.judge import Evaluator
from rcdm.measures.metrics import calibration
from rcdm.measures.readers import attributes_of

SPACINGS = {"even": DPMSolverMultistepScheduler, "spaced": SpacedDPMSolverScheduler}
CALIBRATION_IMAGES, CALIBRATION_DRAWS = 64, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", default="sprites-32")
    parser.add_argument("--data", default="sprites")
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8, 12, 20, 50, 250])
    parser.add_argument("--spacings", nargs="+", choices=SPACINGS, default=list(SPACINGS))
    parser.add_argument("--reference", type=int, default=60, help="even steps that the others are compared with")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--sources", nargs="+", default=["simclr/backbone", "simclr/projector"])
    parser.add_argument("--evaluator", help="source of another network, for KID: CHECKPOINT/NETWORK/LEVEL")
    parser.add_argument("--attributes", nargs="*", default=["hue", "rotation"], help="whose calibration is shown")
    options = parser.parse_args()
    pipe = rcdm.load(options.checkpoint)
    dataset = load_dataset(options.data, pipe.image_size)
    images = dataset.held_out(options.images).images
    evaluator = Evaluator(load_source(options.evaluator).to(pipe.device), dataset) if options.evaluator else None
    columns = [
        "source",
        "steps",
        "from the reference",
        "cycle error (95 %)",
        "MRR",
        *(["KID x 1000"] if evaluator else []),
    ]
    columns += [*(f"ρ {name}" for name in options.attributes), "ms/image"]
    print(f"{len(images)} held-out images, one draw each", end="")
    print(f"; calibration ρ on {CALIBRATION_IMAGES} images x {CALIBRATION_DRAWS} draws" if options.attributes else "")
    print("\n| " + " | ".join(columns) + " |\n" + len(columns) * "|---" + "|")
    for source in options.sources:
        h = encode_all(pipe, images, source)
        _space(pipe, "even")
        reference = pipe.draw(h, source, range(len(h)), num_inference_steps=options.reference)
        for steps, spacing in itertools.product(options.steps, options.spacings):
            _space(pipe, spacing)
            begun = time.perf_counter()
            drawn = pipe.draw(h, source, range(len(h)), num_inference_steps=steps)
            spent = 1000 * (time.perf_counter() - begun) / len(h)
            found = faithfulness_of(pipe, h, drawn, source)
            error = found["cycle_error"]
            cells = [source, f"{steps} {spacing}", f"{(drawn - reference).square().mean().sqrt():.3f}"]
            cells += [f"{error.value:.3f} ({error.low:.3f}–{error.high:.3f})", f"{found['mrr'].value:.3f}"]
            if evaluator is not None:
                kid = evaluator.kid(drawn, images)
                cells.append(f"{kid['value']:.2f} ± {kid['deviation']:.2f}")
            cells += calibrations(pipe, images[:CALIBRATION_IMAGES], source, steps, options.attributes)
            print("| " + " | ".join([*cells, f"{spent:.0f}"]) + " |", flush=True)


def _space(pipe: RCDMPipeline, spacing: str) -> None:
    pipe.register_modules(scheduler=SPACINGS[spacing].from_config(pipe.scheduler.config))


def calibrations(pipe: RCDMPipeline, images: Tensor, source: str, steps: int, names: list[str]) -> list[str]:
    """ρ of each attribute, in words."""
    if not names:
        return []
    attributes, k = attributes_of(pipe), CALIBRATION_DRAWS
    given = attributes.read(images)
    h = encode_all(pipe, images, source).repeat_interleave(k, 0)
    read = attributes.read(pipe.draw(h, source, range(len(h)), num_inference_steps=steps))
    return [f"{calibration(read[name].unflatten(0, (-1, k)), given[name]).value:.2f}" for name in names]


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
