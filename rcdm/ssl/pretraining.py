"""Pretrain a small backbone: images -> two views -> backbone -> projector -> SSL loss -> source folder."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rcdm.backbones import build_backbone
from rcdm.datasets import Dataset
from rcdm.representation import Preprocessing, SSLNetwork, save_network
from rcdm.ssl.objectives import OBJECTIVES
from rcdm.ssl.views import ViewStrengths, random_view


@dataclass(frozen=True)
class PretrainConfig:
    """How a backbone is pretrained; the defaults suit the drawn world at 32 px."""

    objective: str = "simclr"
    views: ViewStrengths = field(default_factory=ViewStrengths)
    width: int = 16
    stem_stride: int = 1
    projector_dim: int = 64
    batch_size: int = 256
    steps: int = 1000
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 50
    seed: int = 0


def pretrain(dataset: Dataset, config: PretrainConfig, *, device: torch.device | str = "cpu") -> SSLNetwork:
    """Train backbone and projector together; returns them in eval mode. Raises ValueError for an unknown objective.

    AdamW with linear warm-up and cosine decay, bf16 autocast, channels_last. Deterministic given the seed.
    """
    if config.objective not in OBJECTIVES:
        raise ValueError(f"There is no objective {config.objective!r}; choose one of {', '.join(OBJECTIVES)}.")
    torch.manual_seed(config.seed)
    arguments: dict[str, Any] = {"width": config.width, "stem_stride": config.stem_stride}
    backbone = build_backbone("small_resnet", **arguments)
    objective = OBJECTIVES[config.objective](8 * config.width, config.projector_dim, dataset.classes)
    backbone.to(device).to(memory_format=torch.channels_last)
    objective.to(device)
    parameters = [*backbone.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, config))
    stream = torch.Generator(device).manual_seed(config.seed)
    progress = tqdm(range(config.steps), desc=config.objective, unit="step")
    for step in progress:
        images, labels = (t.to(device) for t in dataset.batch(step, config.batch_size))
        views = [random_view(images, config.views, stream) for _ in range(objective.views)]
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            z = objective.projector(backbone(torch.cat(views).contiguous(memory_format=torch.channels_last)))
        z = z.float()
        loss = objective(z[: len(images)], z[-len(images) :], labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return SSLNetwork(backbone, objective.projector).eval().requires_grad_(False)


def _warm_cosine(step: int, config: PretrainConfig) -> float:
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def save_source(folder: Path, network: SSLNetwork, dataset: Dataset, config: PretrainConfig, seconds: float) -> None:
    """Write the source folder of a pretrained backbone, with how it came about."""
    save_network(
        folder,
        network,
        {
            "architecture": "small_resnet",
            "arguments": {"width": config.width, "stem_stride": config.stem_stride},
            "levels": list(network.levels()),
            "preprocessing": asdict(Preprocessing(dataset.size)),
            "training": {"data": dataset.name, **asdict(config), "seconds": round(seconds)},
            "licence": "MIT",
        },
    )
