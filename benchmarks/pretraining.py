"""Images per second of SimCLR pretraining: our loop against lightly's example loop with PIL views in its workers.

Both train the same network with the same batch size on the same encoded images; two views count as one image.
"""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import torch
from lightly.loss import NTXentLoss
from lightly.transforms.simclr_transform import SimCLRTransform
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from rcdm.data.datasets import load_dataset
from rcdm.ssl.pretraining import PretrainConfig, _Learner, _Run


class Encoded(Dataset):
    """The images of parquet files, decoded and turned into two views at each access, as lightly's examples do."""

    def __init__(self, folder: Path, size: int) -> None:
        tables = [pq.read_table(shard) for shard in sorted(folder.glob("train*.parquet"))]
        cells = [cell for table in tables for cell in table.column("image").to_pylist()]
        self.images = [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
        self.transform = SimCLRTransform(input_size=size, cj_strength=0.5, gaussian_blur=0.0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return self.transform(Image.open(io.BytesIO(self.images[index])).convert("RGB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of train*.parquet files")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--width", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each loop, after a few that warm up")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="DataLoader workers of the example loop")
    parser.add_argument("--compile", action="store_true", help="compile the network of our loop")
    options = parser.parse_args()
    config = PretrainConfig(
        "simclr", width=options.width, batch_size=options.batch_size, max_steps=10**6, compile=options.compile
    )
    dataset = load_dataset(str(options.data), options.resolution)
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(dataset, config, Path(folder))

        def step() -> None:
            run.step()
            run.progress.step += 1

        ours = rate(step, options, run.device)
        views = rate(lambda: run._views(run.progress.step), options, run.device)
    plain = rate(plain_loop(options, dataset, config, run.device), options, run.device)
    print(f"{run.device}, {torch.get_num_threads()} threads, {options.resolution} px, width {options.width}, ", end="")
    print(f"batches of {options.batch_size}, {options.workers} workers")
    print("| loop | images/s | ratio |\n|---|---|---|")
    print(f"| lightly's example | {plain:.0f} | 1.00 |")
    print(f"| ours | {ours:.0f} | {ours / plain:.2f} |")
    print(f"| ours, the views alone | {views:.0f} | {views / plain:.2f} |")


def rate(step: Callable[[], object], options: argparse.Namespace, device: torch.device) -> float:
    """Images per second of `step`, called again and again."""
    for _ in range(3):
        step()
    wait(device)
    begun = time.perf_counter()
    for _ in range(options.steps):
        step()
    wait(device)
    return options.steps * options.batch_size / (time.perf_counter() - begun)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def plain_loop(
    options: argparse.Namespace, dataset: object, config: PretrainConfig, device: torch.device
) -> Callable[[], None]:
    """One step of the example loop per call: fp32, plain memory layout, SGD."""
    learner = _Learner(dataset, config).to(device)
    backbone, projector = learner.backbone, learner.objective.projector
    criterion = NTXentLoss()
    optimizer = torch.optim.SGD([*backbone.parameters(), *projector.parameters()], lr=0.06)
    loader = DataLoader(
        Encoded(options.data, options.resolution),
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
    )

    def batches():
        while True:
            yield from loader

    stream = batches()

    def step() -> None:
        x0, x1 = (x.to(device) for x in next(stream))
        loss = criterion(projector(backbone(x0)), projector(backbone(x1)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
