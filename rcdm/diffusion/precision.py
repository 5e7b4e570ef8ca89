"""Whether a device multiplies bfloat16: where it does not, half as many bits take ten times as long."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)

PRECISIONS = ("no", "bf16")
"""Of drawing: float32, or the U-Net in bfloat16."""


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether matrix products and convolutions in bfloat16 are computed as such and not emulated.

    GPUs of NVIDIA do so from 2020 on, CPUs with AVX-512 BF16 or AMX; of other devices it is assumed.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return True


def warn_of_emulation(precision: str, device: torch.device | str) -> None:
    """Log a sentence where `precision` is bf16 and the device only emulates it."""
    if precision == "bf16" and not multiplies_bfloat16(device):
        kind = torch.device(device).type
        log.warning("This %s does not multiply bfloat16: bf16 is slower here, up to ten times. Leave it out.", kind)
