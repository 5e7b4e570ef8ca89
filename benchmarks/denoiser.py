"""Cost of the denoiser: operations, and images per second by memory layout and number format, against plain fp32."""

import argparse
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from rcdm.diffusion.image_space import PixelSpace
from rcdm.diffusion.unet import RepresentationUNet, unet_arguments


def seconds(run: Callable[[], None], repeats: int) -> float:
    """Shortest of some runs, after one that warms up."""
    run()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--channels", type=int, nargs="+", default=[48, 96, 160])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    arguments = unet_arguments(
        32, channels=options.channels, layers_per_block=1, attention_resolutions=(8,), space=PixelSpace(patch=2)
    )
    unet = RepresentationUNet({"source": 128}, arguments, {"kind": "pixels", "patch": 2})
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(torch.zeros(1, 3, 32, 32), torch.zeros(1), torch.zeros(1, 128), "source")
    operations = counter.get_total_flops()
    parameters = sum(p.numel() for p in unet.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {operations / 1e6:.0f} MFLOP per image and call")
    print(f"{options.threads} threads, batches of {options.batch_size}\n")
    print("| layout | format | draws/s | ratio | GFLOP/s | trains/s | ratio |\n|---|---|---|---|---|---|---|")
    plain: tuple[float, float] | None = None
    for layout in (torch.contiguous_format, torch.channels_last):
        for dtype in (torch.float32, torch.bfloat16):
            drawing, training = rates(unet.to(memory_format=layout), layout, dtype, options)
            plain = plain or (drawing, training)
            print(
                f"| {str(layout).removeprefix('torch.')} | {str(dtype).removeprefix('torch.')} | {drawing:.0f} "
                f"| {drawing / plain[0]:.2f} | {drawing * operations / 1e9:.0f} | {training:.0f} "
                f"| {training / plain[1]:.2f} |",
                flush=True,
            )


def rates(
    unet: RepresentationUNet, layout: torch.memory_format, dtype: torch.dtype, options: argparse.Namespace
) -> tuple[float, float]:
    """Images per second: one network call, and one training step's forward and backward pass."""
    n = options.batch_size
    x = torch.randn(n, 3, 32, 32).contiguous(memory_format=layout)
    t, h = torch.randint(0, 1000, (n,)), torch.randn(n, 128)

    def call() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            return unet(x, t, h, "source").sample

    def draw() -> None:
        with torch.no_grad():
            call()

    def train() -> None:
        call().float().square().mean().backward()
        unet.zero_grad(set_to_none=True)

    return n / seconds(draw, options.repeats), n / seconds(train, options.repeats)


if __name__ == "__main__":
    main()
