"""What drawing in bfloat16 saves and changes, beside float32 in the same run.

Distances are root mean squares in levels of 255, between draws of the same h and noise; beside that of bfloat16 stands
the one of a single denoising step more in float32.
"""

import argparse
import time

import torch
from torch import Tensor

import rcdm
from rcdm.data.datasets import load_dataset
from rcdm.measures.faithfulness import encode_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*", default=["sprites-32"])
    parser.add_argument("--data", default="sprites")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--strength", type=float, help="of guidance by regression")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.images} images, the faster of {options.runs} runs, {torch.get_num_threads()} threads")
    print("\n| checkpoint | float32, s | bfloat16, s | ratio | distance (largest) | of one step more |")
    print("|---|---|---|---|---|---|")
    for name in options.checkpoints:
        pipe = rcdm.load(name)
        source = pipe.sources.names[0]
        h = encode_all(pipe, load_dataset(options.data, pipe.image_size).held_out(options.images).images, source)
        steps = pipe.config.default_steps

        def drawn(
            precision: str, steps: int, pipe: rcdm.RCDMPipeline = pipe, h: Tensor = h, source: str = source
        ) -> tuple[Tensor, float]:
            pipe.unet.use_mixed_precision(precision)
            begun = time.monotonic()
            images = pipe.draw(
                h, source, range(len(h)), num_inference_steps=steps, guidance_strength=options.strength
            ).cpu()
            return 127.5 * images, time.monotonic() - begun

        drawn("no", 1), drawn("bf16", 1)
        runs = [(drawn("no", steps), drawn("bf16", steps)) for _ in range(options.runs)]
        (own, _), (half, _) = runs[0]
        more, _ = drawn("no", steps + 1)
        whole, fast = (min(run[k][1] for run in runs) for k in (0, 1))
        off, other = (float((images - own).square().mean().sqrt()) for images in (half, more))
        largest = float((half - own).abs().max())
        print(f"| `{name}` | {whole:.2f} | {fast:.2f} | {fast / whole:.2f} | {off:.2f} ({largest:.0f}) | {other:.2f} |")


if __name__ == "__main__":
    main()
