"""What a trained decoder is worth: guided draws, projections alone and a decoder, from nothing to draws in equal time.

On the drawn world, whose truth is known. A row is a source, a way and so many minutes of one core's computing (so that
it does not matter what else the machine does; give one thread, OMP_NUM_THREADS=1), in which everything has to be done:
what the way needs beforehand, and then images x draws. Guidance takes as many denoising steps (tds: particles) as
fit; the others train for as long as their draws leave them; *led* is a decoder that is guided by regression, with
strength 1, which the minutes include. The networks have new names, so that the denoiser that all
begin from has never seen them. Every row is measured with the same yardstick: the statistics of the checkpoint, its
reader, its probes. A row that is complete is not computed again; a training goes on from its last state.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rcdm
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.guided import STEPS
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.places import find
from rcdm.diffusion.process import Process
from rcdm.diffusion.regressor import Regressor, learn_source
from rcdm.measures.faithfulness import encode_all, faithfulness_of
from rcdm.measures.metrics import bootstrap, variance
from rcdm.measures.readers import attributes_of
from rcdm.measures.retention import draw_each, retention_numbers
from rcdm.networks.sources import network_folder, read_sources
from rcdm.training import loop
from rcdm.training.config import TrainingConfig
from rcdm.training.denoiser import train
from rcdm.training.resume import saved_states

GUIDED = ("mpgd", "dps", "regression", "tds")
TRAINED = ("projections", "decoder", "led")
AS_IT_IS = ("shipped", "shipped and led")
LED = ("led", "shipped and led")
WAYS = (*GUIDED, *TRAINED, *AS_IT_IS)
LED_STEPS, STRENGTH, LEARNT_FROM = 20, 1.0, 1024
FEWEST_STEPS, MOST_STEPS, MOST_PARTICLES = 4, 250, 256
TRIAL = 4  # draws and steps that tell how fast a way draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="sprites-32")
    parser.add_argument(
        "--sources", nargs="+",
        default=["simclr/backbone", "simclr/projector", "supervised/backbone", "simclr-nojitter/backbone"],
    )  # fmt: skip
    parser.add_argument("--minutes", nargs="+", type=float, default=[1.0, 10.0, 60.0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--skip", type=int, default=24, help="held-out images that the defaults were chosen on")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32, help="of training")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    shipped = rcdm.load(options.checkpoint)
    images = load_dataset("sprites", shipped.image_size).held_out(options.skip + options.images).images[options.skip :]
    _renamed(options, options.out / "sources")
    for minutes in options.minutes:
        for source in options.sources:
            for way in options.ways:
                if way in AS_IT_IS and minutes != options.minutes[0]:
                    continue
                file = options.out / f"{way.replace(' ', '-')}-{source.replace('/', '-')}-{minutes:g}.json"
                if not file.is_file():
                    row = _row(options, shipped, images, source, way, minutes)
                    partial = file.with_suffix(".partial")
                    partial.write_text(json.dumps(row, indent=1) + "\n")
                    partial.replace(file)
    print(table([json.loads(file.read_text()) for file in sorted(options.out.glob("*.json"))]))


def _renamed(options: argparse.Namespace, folder: Path) -> None:
    """The networks of the sources under names that no denoiser knows."""
    for network in {source.partition("/")[0] for source in options.sources}:
        if not (folder / f"new-{network}").is_dir():
            shutil.copytree(network_folder(find(options.checkpoint) / "sources", network), folder / f"new-{network}")


def _row(
    options: argparse.Namespace, shipped: RCDMPipeline, images: Tensor, source: str, way: str, minutes: float
) -> dict[str, Any]:
    """One row: its draws, what they took, and what they are worth."""
    h = shipped.encode(images, source)
    seeds, jobs = range(options.draws), len(images) * options.draws
    budget, begun, waited, about = 60 * minutes, time.process_time(), time.monotonic(), dict[str, Any]()
    name = source if way in AS_IT_IS else f"new-{source}"
    steps = LED_STEPS if way in LED else shipped.config.default_steps
    shipped.use_guidance()
    if way in GUIDED:
        pipe: RCDMPipeline = rcdm.guided(
            options.checkpoint, read_sources(options.out / "sources", [name]), method=way, particles=1
        )
        left = budget - (time.process_time() - begun)
        fit = left / (jobs * _seconds_per_step(pipe, h, name))  # denoising steps per draw, of one particle
        steps = int(min(max(fit, FEWEST_STEPS), STEPS if way == "tds" else MOST_STEPS))
        if way == "tds":
            pipe.unet.particles = int(min(max(fit / steps, 1), MOST_PARTICLES))
            about["particles"] = pipe.unet.particles
        about |= {"strength": pipe.guidance[name].strength, "target": pipe.guidance[name].target}
    elif way in AS_IT_IS:
        pipe = shipped
        if way in LED:
            _lead(pipe, name, LEARNT_FROM)
    else:
        left = budget
        if way in LED:  # a sixteenth of the learning, on a pipeline that costs the same
            before = time.process_time()
            _lead(shipped, source, LEARNT_FROM // 16)
            left -= 16 * (time.process_time() - before)
        left -= jobs * steps * _seconds_per_step(shipped, h, source)
        shipped.use_guidance()
        pipe = _trained(options, shipped, name, way, minutes, max(left, 1.0))
        if way in LED:
            _lead(pipe, name, LEARNT_FROM)
        about["trained_images"] = json.loads((_run_folder(options, name, way, minutes) / "training.json").read_text())[
            "images"
        ]
    before = time.process_time() - begun
    drawn = draw_each(pipe, h, name, seeds, steps)
    seconds = time.process_time() - begun
    about |= {"steps": steps, "seconds_before": round(before, 1), "seconds": round(seconds, 1)}
    about["waited"] = round(time.monotonic() - waited, 1)  # more than `seconds` where others used the core, too
    about |= {"seconds_per_image": (seconds - before) / jobs, "threads": torch.get_num_threads()}
    worth = measured(shipped, images, h, drawn, source, options.draws)
    return {"source": source, "way": way, "minutes": minutes, **about, **worth}


def _lead(pipe: RCDMPipeline, name: str, n: int) -> None:
    """Learn the regression of a source on n training images, and guide by it."""
    images = load_dataset("sprites", pipe.image_size).batch(0, n).images
    learnt = learn_source(pipe.unet, pipe.sources, Process(pipe.scheduler), images, name)
    pipe.use_regressor(Regressor.of({name: learnt}, pipe.image_size))
    pipe.use_guidance(strengths={name: STRENGTH})


def _seconds_per_step(pipe: RCDMPipeline, h: Tensor, source: str) -> float:
    """Of one image, with one particle."""
    some = h[: TRIAL * 4]
    begun = time.process_time()
    pipe.draw(some, source, range(len(some)), num_inference_steps=TRIAL)
    return (time.process_time() - begun) / (TRIAL * len(some))


class _CoreClock:
    """Seconds of computing since it was made, in place of the clock of a training."""

    def __init__(self) -> None:
        self._begun = time.process_time()

    def __call__(self) -> float:
        return time.process_time() - self._begun


def _run_folder(options: argparse.Namespace, name: str, way: str, minutes: float) -> Path:
    folder: Path = options.out / "runs" / f"{way}-{name.replace('/', '-')}-{minutes:g}"
    return folder


def _trained(
    options: argparse.Namespace, shipped: RCDMPipeline, name: str, way: str, minutes: float, seconds: float
) -> RCDMPipeline:
    """The checkpoint's denoiser, trained for a new source: all of it, or the projection alone."""
    folder = _run_folder(options, name, way, minutes)
    if not (folder / "model_index.json").is_file():
        config = TrainingConfig(
            sources_dir=str(options.out / "sources"),
            sources=(name,),
            output_dir=str(folder),
            pretrained_model_name_or_path=options.checkpoint,
            coarse_size=shipped.unet.config.coarse_size,
            only_projections=way == "projections",
            max_train_minutes=seconds / 60,
            train_batch_size=options.batch,
            lr_warmup_steps=20,
            mixed_precision="auto",
            whiten_representations=True,
            num_statistics_images=1024,
            num_inference_steps=8,
            validation_steps=10**9,
            regressor_images=0,
            resume_from_checkpoint="latest" if saved_states(folder) else None,
        )
        loop.Clock = _CoreClock
        train(config)
    return rcdm.load(folder)


def measured(yard: RCDMPipeline, images: Tensor, h: Tensor, drawn: Tensor, source: str, draws: int) -> dict[str, Any]:
    """Cycle error and MRR of the first draw of each image, retention beside the probe, and calibration."""
    faithful = faithfulness_of(yard, h, drawn[::draws], source)
    target = yard.unet.standardise(encode_all(yard, images.roll(1, 3), source), source)
    given = yard.unet.standardise(h, source)
    attributes = attributes_of(yard)
    truth, read = attributes.read(images), attributes.read(drawn)
    kept = retention_numbers(read, {}, truth, draws)
    metrics = json.loads((find(yard.config._name_or_path) / "metrics.json").read_text())
    probe = {name: number["probe"] for name, number in metrics["sources"][source]["retention"].items()}
    within = {name: variance(read[name].unflatten(0, (-1, draws)), 1) for name in truth}

    def off(i: Tensor) -> Tensor:
        return torch.stack(
            [(1 - within[name][i].mean() / variance(truth[name][i]) - probe[name]).abs() for name in truth]
        ).mean()

    honest = [number["calibration"] for number in kept.values() if number["value"] <= 0.9]
    return {
        "n": len(images),
        "draws": draws,
        "cycle_error": faithful["cycle_error"].to_json(),
        "cycle_error_shifted": float((target - given).square().sum(1).mean() / (2 * given.var(0).sum())),
        "mrr": faithful["mrr"].to_json(),
        "off_the_probe": bootstrap(off, len(images)).to_json(),
        "calibrated": [sum(0.8 <= rho <= 1.25 for rho in honest), len(honest)],
        "calibration": statistics.median(honest) if honest else None,
        "retention": {name: {**number, "probe": probe[name]} for name, number in kept.items()},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    heads = (
        "source", "core minutes", "way", "cycle error (95 %)", "MRR (95 %)", "mean abs(R − probe) (95 %)",
        "median ρ", "cells with ρ in 0.8–1.25", "core s per image", "steps", "N x draws",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", len(heads) * "|---" + "|"]
    for row in sorted(rows, key=lambda row: (row["source"], row["minutes"], WAYS.index(row["way"]))):
        error, mrr, off = (
            f"{row[key]['value']:.2f} ({row[key]['low']:.2f}–{row[key]['high']:.2f})"
            for key in ("cycle_error", "mrr", "off_the_probe")
        )
        way = row["way"] + (f", {row['particles']} particles" if "particles" in row else "")
        rho = "" if row["calibration"] is None else f"{row['calibration']:.2f}"
        cells = (
            row["source"], "" if row["way"] in AS_IT_IS else f"{row['minutes']:g}", way, error, mrr, off, rho,
            "{} of {}".format(*row["calibrated"]), f"{row['seconds_per_image']:.2f}", str(row["steps"]),
            f"{row['n']} x {row['draws']}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
