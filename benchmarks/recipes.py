"""Recipes of the denoiser compared at equal time: held-out loss, cycle error and MRR after so many minutes each.

Each recipe changes one thing of the first one. A recipe whose folder is complete is not trained again.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rcdm
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.process import velocity_scheduler
from rcdm.measures.faithfulness import encode_all, faithfulness
from rcdm.training.config import TrainingConfig
from rcdm.training.denoiser import train

RECIPES: dict[str, dict[str, Any]] = {
    "the first": {},
    "batches of 32": {"train_batch_size": 32},
    "batches of 128": {"train_batch_size": 128},
    "half the learning rate": {"learning_rate": 4e-4},
    "twice the learning rate": {"learning_rate": 1.6e-3},
    "attention nowhere": {"attention_resolutions": ()},
    "attention at 4 x 4": {"attention_resolutions": (4,)},
    "wider and shallower: 64 160": {"channels": (64, 160)},
    "wider: 64 128 192": {"channels": (64, 128, 192)},
    "narrower: 32 64 128": {"channels": (32, 64, 128)},
    "pixels, not patches": {"patch_size": 1, "channels": (32, 64, 96, 160)},
    "patches of 4": {"patch_size": 4, "channels": (96, 192)},
    "min-SNR weights, 5": {"snr_gamma": 5.0},
    "fp32": {"mixed_precision": "no"},
    "Muon": {"optimizer": "muon"},
    "whitened representations": {"whiten_representations": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources-dir", default="checkpoints/sprites-32/sources")
    parser.add_argument("--sources", nargs="+", default=["simclr/backbone", "vicreg/backbone"])
    parser.add_argument("--data", default="sprites")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help=", ".join(RECIPES))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    first = TrainingConfig(
        sources_dir=options.sources_dir,
        sources=tuple(options.sources),
        train_data_dir=options.data,
        output_dir=str(options.out),
        resolution=options.resolution,
        max_train_minutes=options.minutes,
        lr_warmup_steps=50,
        mixed_precision="bf16",
        compile=options.compile,
        validation_steps=10**9,
        regressor_images=0,
        checkpointing_minutes=10**9,
        num_statistics_images=1024,
        cache_representations=False,
    )
    dataset = load_dataset(options.data, options.resolution)
    images = dataset.held_out(512).images
    print(
        f"{options.minutes:g} minutes each; loss on {len(images)} held-out images, draws of 128 from {first.sources[0]}"
    )
    print("\n| recipe | M parameters | images seen | held-out loss | cycle error (95 %) | MRR |")
    print(6 * "|---" + "|")
    for name in options.recipes:
        folder = options.out / name.replace(" ", "-").replace(":", "").replace(",", "")
        if not (folder / "training.json").is_file():
            train(replace(first, output_dir=str(folder), **RECIPES[name]))
        pipe = rcdm.load(folder)
        seen = json.loads((folder / "training.json").read_text())["images"]
        numbers = faithfulness(pipe, images[:128], first.sources[0], num_inference_steps=8)
        error = numbers["cycle_error"]
        print(
            f"| {name} | {sum(p.numel() for p in pipe.unet.parameters()) / 1e6:.1f} | {seen} "
            f"| {held_out_loss(pipe, images, first.sources):.4f} "
            f"| {error.value:.3f} ({error.low:.3f}–{error.high:.3f}) | {numbers['mrr'].value:.2f} |",
            flush=True,
        )


@torch.no_grad()
def held_out_loss(pipe: RCDMPipeline, images: Tensor, sources: tuple[str, ...]) -> float:
    """Mean squared error of v, the same noise and timesteps for every recipe."""
    stream = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=stream).to(pipe.device)
    signal = velocity_scheduler().alphas_cumprod.sqrt()
    t = torch.randint(len(signal), (len(images),), generator=stream)
    s = signal[t].view(-1, 1, 1, 1).to(pipe.device)
    sigma, x = (1 - s**2).sqrt(), images.to(pipe.device)
    errors = []
    for source in sources:
        h = encode_all(pipe, images, source).to(pipe.device)
        for rows in torch.arange(len(images)).split(64):
            v = pipe.unet((s * x + sigma * noise)[rows], t[rows].to(pipe.device), h[rows], source).sample
            errors.append((v - (s * noise - sigma * x)[rows]).square().mean((1, 2, 3)))
    return float(torch.cat(errors).mean())


if __name__ == "__main__":
    main()
