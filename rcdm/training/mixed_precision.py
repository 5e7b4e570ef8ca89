"""The mixed precision of a run, as it was asked for and as the hardware has it."""

from __future__ import annotations

import logging

import torch
from accelerate.utils import parse_flag_from_env

from rcdm.diffusion.checkpoints import best_device
from rcdm.diffusion.precision import multiplies_bfloat16, warn_of_emulation
from rcdm.training.run_folder import is_first

log = logging.getLogger(__name__)


def precision_of(wish: str) -> str:
    """`auto` -> bf16 where the device of the run multiplies it, else no; what else is asked for is taken.

    Says so where auto means float32, and where the device only emulates what is asked for. It is asked before
    accelerate has found the other processes: `PartialState()` would settle that there are none on CPUs. Raises
    ValueError for fp16 on a CPU.
    """
    device = "cpu" if parse_flag_from_env("ACCELERATE_USE_CPU") else best_device()
    if wish == "fp16" and torch.device(device).type == "cpu":
        raise ValueError("fp16 needs a GPU, and would be float32 on a CPU: take bf16, auto or no.")
    found = wish if wish != "auto" else "bf16" if multiplies_bfloat16(device) else "no"
    if is_first():
        warn_of_emulation(found, device)
        if found != wish and found == "no":
            log.warning("In float32, as this %s does not multiply bfloat16.", device)
    return found
