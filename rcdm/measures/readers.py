"""What suits a checkpoint to be read off its images; on the drawn world, a small network that reads every factor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur
from tqdm import tqdm

from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.data.sprites import HELD_OUT_SEED
from rcdm.diffusion.checked_folder import read_metrics
from rcdm.diffusion.checkpoints import world_of
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.precision import multiplies_bfloat16
from rcdm.measures.attributes import Attributes, photo_attributes
from rcdm.measures.metrics import variance
from rcdm.measures.probes import r_squared
from rcdm.networks.backbones import SmallResNet
from rcdm.networks.checked_files import check_fit, read_tensors, shapes_of

WIDTHS = {name: {"class": len(sprites.SHAPES), "angle": 2, "number": 1}[kind] for name, kind in sprites.KINDS.items()}


class Reader(nn.Module):
    """Images [N,3,H,W] in [-1,1] -> φ of every factor, as `sprites.phi` gives it. Reads at 32 px."""

    size = 32

    def __init__(self) -> None:
        super().__init__()
        self.backbone = SmallResNet(width=16)
        self.head = nn.Linear(self.backbone.out_features, sum(WIDTHS.values()))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Raw outputs: logits for the class, an unnormalised (cos, sin) for angles, numbers scaled to [-1,1]."""
        out = self.head(self.backbone(im.resize(images, self.size)))
        return dict(zip(WIDTHS, out.split(list(WIDTHS.values()), dim=1), strict=True))

    @torch.no_grad()
    def read(self, images: Tensor) -> dict[str, Tensor]:
        """φ of each factor: a one-hot class, a unit vector for an angle, a number in the factor's own unit."""
        parts = [self(chunk) for chunk in images.split(512)]
        raw = {name: torch.cat([part[name] for part in parts]) for name in WIDTHS}
        return {name: _to_phi(name, value) for name, value in raw.items()}


def _to_phi(name: str, raw: Tensor) -> Tensor:
    kind = sprites.KINDS[name]
    if kind == "class":
        return F.one_hot(raw.argmax(1), raw.shape[1]).float()
    if kind == "angle":
        return F.normalize(raw, dim=1)
    low, high = sprites.RANGES[name]
    return low + (raw + 1) / 2 * (high - low)


def _loss(raw: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    """Cross-entropy for the class, squared error for the rest, each of the order of one at the start."""
    total = F.cross_entropy(raw["shape"], truth["shape"].argmax(1)) / math.log(len(sprites.SHAPES))
    for name, (low, high) in sprites.RANGES.items():
        total = total + 3 * F.mse_loss(raw[name], (truth[name] - low) / (high - low) * 2 - 1)
    for name in (name for name, kind in sprites.KINDS.items() if kind == "angle"):
        total = total + F.mse_loss(raw[name], truth[name]) * 2
    return total


def disturb(images: Tensor, *, blur: float, noise: float, stream: torch.Generator) -> Tensor:
    """Gaussian blur of `blur` pixels, then white noise of deviation `noise`; [N,3,H,W] in [-1,1] -> the same."""
    if blur > 0:
        images = gaussian_blur(images, kernel_size=[5, 5], sigma=[blur, blur])
    return (images + noise * torch.randn(images.shape, generator=stream)).clamp(-1, 1)


def train_reader(*, steps: int = 1500, batch_size: int = 256, seed: int = 0) -> Reader:
    """Train on endless renders, lightly blurred and noised so that drawn images can be read as well."""
    torch.manual_seed(seed)
    reader = Reader().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    stream = torch.Generator().manual_seed(seed)
    for step in (progress := tqdm(range(steps), desc="reader", unit="step")):
        factors = sprites.sample_factors(batch_size, seed * 1_000_003 + step)
        blur, noise = (torch.rand(2, generator=stream) * torch.tensor([1.0, 0.1])).tolist()
        images = disturb(sprites.render(factors, Reader.size), blur=blur, noise=noise, stream=stream)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=multiplies_bfloat16("cpu")):
            raw = reader(images.contiguous(memory_format=torch.channels_last))
        loss = _loss({name: value.float() for name, value in raw.items()}, sprites.phi(factors))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    return reader.eval().requires_grad_(False)


def evaluate_reader(reader: Reader, n: int = 4096) -> dict[str, Any]:
    """Held-out R² per factor (trace form for angles; accuracy for the shape), clean and disturbed."""
    factors = sprites.sample_factors(n, HELD_OUT_SEED)
    clean, truth = sprites.render(factors, Reader.size), sprites.phi(factors)
    stream = torch.Generator().manual_seed(0)
    cases = {
        "clean": clean,
        "blur 0.7 px": disturb(clean, blur=0.7, noise=0, stream=stream),
        "noise 0.05": disturb(clean, blur=0, noise=0.05, stream=stream),
        "blur 0.7 px, noise 0.05": disturb(clean, blur=0.7, noise=0.05, stream=stream),
    }
    report: dict[str, Any] = {"n": n}
    for case, images in cases.items():
        read = reader.read(images)
        report[case] = {name: r_squared(read[name], truth[name]).to_json() for name in truth if name != "shape"}
        right = (read["shape"].argmax(1) == factors.shape).float().mean()
        report[case]["shape"] = {"accuracy": float(right), "n": n, "null": 1 / len(sprites.SHAPES)}
    return report


def save_reader(reader: Reader, folder: Path) -> None:
    """Write `model.safetensors` and `metrics.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in reader.state_dict().items()}
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    (folder / "metrics.json").write_text(json.dumps(evaluate_reader(load_reader(folder)), indent=2) + "\n")


def load_reader(folder: Path) -> Reader:
    """The reader below `folder`. Raises ValueError when it is not there."""
    file = folder / "model.safetensors"
    if not file.is_file():
        raise ValueError(f"There is no reader in {folder}; train one with `rcdm pretrain --objective reader`.")
    reader = Reader()
    check_fit(reader, shapes_of([file]), file)
    reader.load_state_dict(read_tensors(file))
    return reader.eval().requires_grad_(False)


def attributes_of(pipe: RCDMPipeline) -> Attributes:
    """The attributes that suit a checkpoint: the factors of the drawn world when it ships a reader, else those of
    any image (`photo_attributes`), whose spread over data images is in its metrics.json once it was evaluated.
    """
    folder = world_of(pipe)
    spread = {} if folder is None else read_metrics(folder).get("spread", {})
    if folder is not None and (folder / "reader").is_dir():
        return _sprite_attributes(folder / "reader", spread)
    return Attributes(photo_attributes, spread)


def _sprite_attributes(folder: Path, spread: Mapping[str, float]) -> Attributes:
    """With the spread that was measured once, or else measured now."""
    reader = load_reader(folder)
    if set(sprites.KINDS) <= set(spread):
        return Attributes(lambda images: reader.read(images.cpu()), spread)
    held_out = sprites.render(sprites.sample_factors(1024, HELD_OUT_SEED), reader.size)
    spread = {name: float(variance(phi)) for name, phi in reader.read(held_out).items()}
    return Attributes(lambda images: reader.read(images.cpu()), spread)
