"""How fast a device multiplies, and how many floating-point operations a step costs: what a run could reach."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Mixed precision -> the type that matrices are multiplied in; float32 otherwise."""


def matrix_rate(device: torch.device | str, dtype: torch.dtype, *, seconds: float = 0.5) -> float:
    """Operations per second (2 per multiply-add) of square matrix products on a device: the best of many short runs,
    since other work on it only ever slows them. Where one product takes longer than `seconds`, it is the only one.
    """
    device = torch.device(device)
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device).to(dtype)
    for _ in range(3):
        start = _now(device)
        a @ a
        if (took := _now(device) - start) > seconds:  # a CPU that emulates the type
            return 2 * side**3 / took
    shortest, begun = float("inf"), _now(device)
    while (start := _now(device)) - begun < seconds:
        for _ in range(5):
            a @ a
        shortest = min(shortest, _now(device) - start)
    return 5 * 2 * side**3 / shortest


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations (2 per multiply-add) of the matrix products and convolutions that `work` runs."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def in_words(images_per_second: float, flops: float, device: torch.device | str, mixed_precision: str) -> str:
    """A run's images per second, operations per image, and share of the matrix rate measured here and now."""
    rate = matrix_rate(device, DTYPES.get(mixed_precision, torch.float32))
    share = 100 * images_per_second * flops / rate
    return (
        f"{images_per_second:.0f} images/s, {flops / 1e9:.2f} GFLOP each, "
        f"{share:.0f} % of the {rate / 1e12:.2f} TFLOP/s that matrix products reach here"
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
