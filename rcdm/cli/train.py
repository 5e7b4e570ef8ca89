"""`rcdm train`, which is train_rcdm.py too."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from rcdm.cli.options import add_options, given, wait_for_torch
from rcdm.cli.refusals import refuse_data, refuse_number
from rcdm.networks.reading import Reading
from rcdm.training.config import PRESETS, TrainingConfig


def add(parser: argparse.ArgumentParser) -> None:
    """Every field of TrainingConfig, under its name, and a preset that they override; the plan of a run."""
    parser.set_defaults(run=_train)
    parser.formatter_class = argparse.HelpFormatter  # options say their defaults themselves
    parser.add_argument("--preset", choices=PRESETS, help=_presets_in_words())
    add_options(parser, TrainingConfig, leave_out=("reading",))
    add_options(parser, Reading)
    plan = parser.add_argument_group("plan", "what a run would cost; nothing is trained")
    plan.add_argument("--plan", action="store_true", help="print the plan of the run that the other options describe")
    plan.add_argument("--plan_images", type=int, help="images to train on; those of max_train_steps if not given")
    plan.add_argument("--plan_devices", type=int, default=1, help="how many devices, a process each (default: 1)")
    plan.add_argument("--plan_tflops", type=float, help="10^12 operations/s of a device; measured here if not given")
    plan.add_argument(
        "--plan_share",
        type=float,
        default=0.4,
        help="share of them that a step reaches; runs print theirs (default: 0.4)",
    )


def _train(options: argparse.Namespace) -> None:
    chosen = PRESETS.get(options.preset, {}) | given(options, TrainingConfig)
    chosen["reading"] = Reading(**given(options, Reading))
    if options.plan:
        needed: dict[str, Any] = {"output_dir": "-", "max_train_steps": 1}  # what a plan does without
        _plan(options, TrainingConfig(**needed | chosen), "max_train_steps" in chosen)
        return
    config = TrainingConfig(**chosen)
    refuse_data(config.train_data_dir)
    wait_for_torch("train")
    from rcdm.training.denoiser import train
    from rcdm.training.loop import Diverged

    try:
        print(train(config))
    except Diverged as error:
        raise ValueError(str(error)) from error


def _plan(options: argparse.Namespace, config: TrainingConfig, has_steps: bool) -> None:
    for name in ("plan_images", "plan_devices"):
        refuse_number(f"--{name}", getattr(options, name))
    if not 0 < options.plan_share <= 1 or (options.plan_tflops is not None and options.plan_tflops <= 0):
        raise ValueError("--plan_share lies above 0 and at most at 1, and --plan_tflops above 0.")
    wait_for_torch("train")
    from rcdm.training.mixed_precision import precision_of
    from rcdm.training.plan import in_words, plan, rate_here
    from rcdm.training.setup import sources_for

    config = replace(config, mixed_precision=precision_of(config.mixed_precision))
    steps = config.max_train_steps if has_steps else None
    per_step = config.train_batch_size * config.gradient_accumulation_steps * options.plan_devices
    images = options.plan_images or (None if steps is None else steps * per_step)
    rate = rate_here(config) if options.plan_tflops is None else options.plan_tflops * 1e12
    print(in_words(plan(config, sources_for(config)), images, options.plan_devices, rate, options.plan_share))


def _presets_in_words() -> str:
    return (
        "options at once; what is given beside it overrides it. adm-*: network and loss of the released RCDMs, except "
        "that representations are standardised (adm-128: 423 M parameters; for a cluster). small-*: for one GPU. "
        + " ".join(f"{name}: channels {' '.join(map(str, options['channels']))}." for name, options in PRESETS.items())
    )
