"""The mixed precision of a run, as it was asked for and as the hardware has it."""

from __future__ import annotations

import logging

from accelerate import PartialState

from rcdm.diffusion.precision import multiplies_bfloat16, warn_of_emulation

log = logging.getLogger(__name__)


def precision_of(wish: str) -> str:
    """`auto` -> bf16 where the device of the run multiplies it, else no; what else is asked for is taken.

    Says so where auto means float32, and where the device only emulates what is asked for.
    """
    here = PartialState()
    found = wish if wish != "auto" else "bf16" if multiplies_bfloat16(here.device) else "no"
    if here.is_main_process:
        warn_of_emulation(found, here.device)
        if found != wish and found == "no":
            log.warning("In float32, as this %s does not multiply bfloat16.", here.device.type)
    return found
