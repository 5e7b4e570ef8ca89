"""A checkpoint file of torchvision's ResNet-50 that nobody has seen: some minutes of SimCLR, from random weights.

For trying what a visitor would: `rcdm sample photo.jpg --prior cifar10-32 --backbone FILE`.
"""

import argparse
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from rcdm.data.datasets import load_dataset
from rcdm.data.view_strengths import ViewStrengths
from rcdm.data.views import random_view
from rcdm.networks.backbones import resnet50
from rcdm.ssl.objectives import SimCLR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    dataset = load_dataset(options.data, options.resolution)
    backbone, simclr = resnet50(), SimCLR(2048, 128, 10, 512)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *simclr.parameters()], 1e-3)
    stream, begun, step = torch.Generator().manual_seed(0), time.monotonic(), 0
    with tqdm(unit="step") as shown:
        while time.monotonic() - begun < 60 * options.minutes:
            batch = dataset.batch(step, options.batch)
            views = [random_view(batch.images, ViewStrengths(), stream) for _ in range(2)]
            with torch.autocast("cpu", torch.bfloat16):
                z = simclr.projector(backbone(torch.cat(views).to(memory_format=torch.channels_last)))
            loss = simclr(*z.float().chunk(2), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            shown.update()
            shown.set_postfix(loss=f"{float(loss):.3f}", images=step * options.batch)
    torch.save({"state_dict": backbone.state_dict()}, options.out)


if __name__ == "__main__":
    main()
