"""A compiled training step of a denoiser with PyTorch's GroupNorm, and with sums over channels: seconds and ratio.

Of one checkpoint's U-Net in channels_last, forwards and backwards, in bfloat16 where the device multiplies it. The two
take turns, so that what else the machine does is shared; shortest of some steps.
"""

import argparse
import copy
import time

import torch

import rcdm
from rcdm.diffusion.checkpoints import best_device
from rcdm.diffusion.precision import multiplies_bfloat16
from rcdm.training.channel_norm import normalise_by_channels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="cifar10-32")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default=best_device())
    options = parser.parse_args()
    plain = rcdm.load(options.checkpoint, device="cpu").unet.unet.float().train().requires_grad_(True)
    other = copy.deepcopy(plain)
    normalise_by_channels(other)
    networks = {"PyTorch's": plain, "by channels": other}
    for network in networks.values():
        network.to(options.device).to(memory_format=torch.channels_last).compile()
    shape = options.batch_size, plain.config.in_channels, plain.config.sample_size, plain.config.sample_size
    x = torch.randn(shape, device=options.device).contiguous(memory_format=torch.channels_last)
    t = torch.randint(0, 1000, (len(x),), device=options.device)
    embedding = torch.randn(len(x), plain.time_embedding.linear_2.out_features, device=options.device)
    half = multiplies_bfloat16(options.device)

    def step(network: torch.nn.Module) -> float:
        begun = now(options.device)
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=half):
            out = network(x, t, class_labels=embedding).sample
        out.float().square().mean().backward()
        network.zero_grad(set_to_none=True)
        return now(options.device) - begun

    taken: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(2 + options.repeats):
        for name, network in networks.items():
            seconds = step(network)
            if turn >= 2:  # what is compiled first
                taken[name].append(seconds)
    first = min(taken["PyTorch's"])
    print(f"{options.device}, {'bfloat16' if half else 'float32'}, batches of {options.batch_size}\n")
    print("| GroupNorm | s per step | ratio |\n|---|---|---|")
    for name, of_one in taken.items():
        print(f"| {name} | {min(of_one):.4f} | {min(of_one) / first:.2f} |")


def now(device: str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
