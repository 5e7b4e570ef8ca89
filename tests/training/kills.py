"""Kill a training at random moments, two thirds of them while it saves, and see that it ends as if nothing had been.

    python tests/training/kills.py 100

Each run is killed and resumed until it ends; its weights must be those of a run that was left alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from rcdm.training.config import TrainingConfig
from rcdm.training.denoiser import train
from rcdm.training.resume import saved_states

LONGEST = 3.0  # seconds before a kill; a run takes about as long


def _run(config: TrainingConfig) -> None:
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a bar and warnings per run
    train(config)


def survive(config: TrainingConfig, kills: int, rng: random.Random) -> int:
    """Train to the end, killed up to `kills` times on the way; returns how often it was."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rcdm.training.denoiser"])
    killed, folder = 0, Path(config.output_dir)
    while True:
        resume = "latest" if saved_states(folder) else None
        if resume is None:
            shutil.rmtree(folder, ignore_errors=True)  # nothing was saved yet: the run is begun, not resumed
        child = context.Process(target=_run, args=(dataclasses.replace(config, resume_from_checkpoint=resume),))
        child.start()
        if killed < kills and _wait_for_a_moment(child, folder, rng, while_saving=killed % 3 < 2):
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            killed += 1
            continue
        child.join()
        assert child.exitcode == 0, f"a resumed run ended with {child.exitcode}"
        return killed


def _wait_for_a_moment(child: multiprocessing.Process, folder: Path, rng: random.Random, while_saving: bool) -> bool:
    """Wait for a random moment of a run, or of its next save; False where it ended before."""
    if while_saving:
        while child.is_alive() and not any(folder.glob("partial-*")):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.03))
    else:
        end = time.monotonic() + rng.uniform(0.05, LONGEST)
        while child.is_alive() and time.monotonic() < end:
            time.sleep(0.005)
    return child.is_alive()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kills", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from conftest import make_tiny_sources
    from test_training import same, tiny

    torch.set_num_threads(1)
    rng, killed, runs = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as place:
        make_tiny_sources().save_pretrained(Path(place) / "sources")
        whole = train(tiny(Path(place) / "sources", Path(place) / "whole"))
        while killed < options.kills:
            config = tiny(Path(place) / "sources", Path(place) / f"run-{runs}")
            killed += survive(config, min(10, options.kills - killed), rng)
            runs += 1
            assert same(Path(config.output_dir), whole), f"run {runs} ended with other weights"
            print(f"{killed} kills in {runs} runs: the weights are those of an uninterrupted run", flush=True)


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    main()
