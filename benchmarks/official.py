"""Time per call of a released RCDM's network, converted: channels_last and bf16 (compiled on a GPU) against plain fp32.

The weights are random, in the format of the released files, and go through `rcdm.from_official`. Sampling is one
call without gradients, with weights in bf16; training is a forward and backward pass with fp32 weights, autocast.
The share is that of the matrix products which the device reaches in the same number format, measured in the same run.

`--channels 64 --cpu-batch-sizes 1 4` (26.9 M parameters, 40.7 GFLOP per image and call, 128 px; two CPU cores, one
thread, shortest of 3), in ms; it has not been run on a GPU:

| batch | what | plain fp32 | share | ours | share | ratio | largest difference |
|---|---|---|---|---|---|---|---|
| 1 | sampling | 671 | 79 % | 393 | 53 % | 1.71 | 0.070 |
| 1 | training | 1980 | 81 % | 1461 | 43 % | 1.36 | 0.000 |
| 4 | sampling | 2656 | 80 % | 1255 | 66 % | 2.12 | 0.064 |
| 4 | training | 7088 | 90 % | 5308 | 47 % | 1.34 | 0.000 |

The largest difference is over all pixels, in deviations of the output; for training it is the share of the loss.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from rcdm.diffusion.official import convert
from rcdm.diffusion.unet import RepresentationUNet
from rcdm.training.throughput import count_flops, matrix_rate

SOURCE = "official/backbone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--channels", type=int, default=256, help="fewer fit a small machine (a multiple of 32)")
    parser.add_argument("--representation", type=int, default=2048, help="width of the representation")
    parser.add_argument("--devices", nargs="+", default=["cpu", *["cuda"] * torch.cuda.is_available()])
    parser.add_argument("--cpu-batch-sizes", type=int, nargs="+", default=[1])
    parser.add_argument("--gpu-batch-sizes", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--repeats", type=int, default=3, help="timed calls, of which the shortest counts")
    options = parser.parse_args()
    flags = convert.RELEASED_FLAGS | {"image_size": options.image_size, "num_channels": options.channels}
    state = official_state(flags, options.representation)
    unet = convert.from_official(state, flags, source=SOURCE)
    flops = count_flops(lambda: call(unet.to("meta"), *inputs(unet, 1, options.representation, "meta")))
    parameters = sum(tensor.numel() for tensor in state.values())
    print(f"{parameters / 1e6:.1f} M parameters, {flops / 1e9:.1f} GFLOP per image and call, {options.image_size} px")
    print(f"CPU threads: {torch.get_num_threads()}, torch {torch.__version__}, shortest of {options.repeats}\n")
    print("| device | batch | what | plain fp32 ms | share | ours ms | share | ratio | largest difference |")
    print("|---|---|---|---|---|---|---|---|---|")
    for device in map(torch.device, options.devices):
        rates = [matrix_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16)]
        for batch in options.gpu_batch_sizes if device.type == "cuda" else options.cpu_batch_sizes:
            for what in (sampling, training):
                plain, ours, difference = what(state, flags, batch, options, device)
                work = batch * flops * (3 if what is training else 1)  # backward costs twice the forward pass
                shares = [100 * work / spent / rate for spent, rate in zip((plain, ours), rates, strict=True)]
                print(
                    f"| {device.type} | {batch} | {what.__name__} | {1000 * plain:.0f} | {shares[0]:.0f} % "
                    f"| {1000 * ours:.0f} | {shares[1]:.0f} % | {plain / ours:.2f} | {difference:.3f} |",
                    flush=True,
                )


def official_state(flags: dict, width: int) -> dict[str, Tensor]:
    """Random weights under the names and in the shapes of a released file."""
    torch.manual_seed(0)
    unet = convert._empty(flags, SOURCE, {"ssl_emb.weight": torch.empty(0, width)})
    parameters = {name.removeprefix("unet."): tensor.detach() for name, tensor in unet.named_parameters()}
    state = {}
    for old, new, kind in convert._places(flags, SOURCE):
        parts = {"residual": convert._RESIDUAL, "attention": convert._ATTENTION, "layer": {"": ""}}[kind]
        for old_part, new_part in parts.items():
            for end in ("weight", "bias"):
                target = ".".join(filter(None, (old, old_part, end)))
                if old_part == "qkv":
                    letters = [parameters[f"{new}.to_{letter}.{end}"] for letter in "qkv"]
                    heads = [tensor.unflatten(0, (flags["num_heads"], -1)) for tensor in letters]
                    state[target] = torch.stack(heads, 1).flatten(0, 2)
                elif (name := ".".join(filter(None, (new, new_part, end)))) in parameters:
                    state[target] = parameters[name]
    return state


def sampling(state, flags, batch, options, device) -> tuple[float, float, float]:
    """Seconds of a call without gradients: plain, ours; and the largest difference, in deviations of the output."""
    unet = convert.from_official(state, flags, source=SOURCE).to(device)
    given = inputs(unet, batch, options.representation, device)
    with torch.no_grad():
        expected = call(unet, *given)
        plain = seconds(lambda: call(unet, *given), options.repeats, device)
        unet.to(torch.bfloat16).to(memory_format=torch.channels_last)
        if device.type == "cuda":
            unet.unet.compile()
        x, t, h = given
        given = x.to(torch.bfloat16, memory_format=torch.channels_last), t, h.bfloat16()
        found = call(unet, *given).float()
        ours = seconds(lambda: call(unet, *given), options.repeats, device)
    return plain, ours, float((found - expected).abs().max() / expected.std())


def training(state, flags, batch, options, device) -> tuple[float, float, float]:
    """Seconds of a forward and backward pass: plain, ours; and the difference of the losses, as a share."""
    unet = convert.from_official(state, flags, source=SOURCE).to(device).requires_grad_(True)
    x, t, h = inputs(unet, batch, options.representation, device)
    losses = []

    def step(autocast: bool) -> None:
        unet.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            out = call(unet, x, t, h)
        loss = out.float().square().mean()
        loss.backward()
        losses.append(loss.detach())

    plain = seconds(lambda: step(False), options.repeats, device)
    unet.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    if device.type == "cuda":
        unet.unet.compile()
    ours = seconds(lambda: step(True), options.repeats, device)
    return plain, ours, float((losses[-1] - losses[0]).abs() / losses[0])


def inputs(unet: RepresentationUNet, batch: int, width: int, device: torch.device | str) -> tuple[Tensor, ...]:
    """Noisy images, timesteps and representations."""
    stream = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, unet.image_size, unet.image_size, generator=stream)
    t, h = torch.randint(1000, (batch,), generator=stream), torch.randn(batch, width, generator=stream)
    return x.to(device), t.to(device), h.to(device)


def call(unet: RepresentationUNet, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    return unet(x, t, h, SOURCE).sample


def seconds(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Shortest of some runs, after one that warms up (and compiles)."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times[1:])


if __name__ == "__main__":
    main()
