"""What a run would cost, before it is begun: parameters, operations, memory, and hours; nothing is computed.

Networks are built without memory (fake tensors), so that a plan for a cluster can be made on a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from rcdm.diffusion.checkpoints import best_device
from rcdm.diffusion.unet import RepresentationUNet
from rcdm.networks.sources import Sources
from rcdm.training.config import TrainingConfig
from rcdm.training.setup import network_arguments
from rcdm.training.throughput import DTYPES, count_flops, matrix_rate

COPIES = {"adamw": 5, "muon": 4}
"""Numbers in float32 that a process keeps per parameter that is trained: weight, average, gradient, and one moment or
two; of others it keeps weight and average."""

_BYTES = 4


@dataclass(frozen=True)
class Plan:
    """What one process and one image of a run take.

    Args:
        parameters: of the denoiser. trained: those of them that move, all but with only_projections.
        frozen: of the networks that are read.
        flops: operations per image and step (2 per multiply-add): forward and backward, and the networks' forward.
        kept: bytes that the backward pass needs of each image. batch: images per process and step.
        copies: numbers in float32 per parameter that is trained.
        beforehand: operations with which all networks read an image once, before the first step; 0 where they do not.
    """

    parameters: int
    trained: int
    frozen: int
    flops: int
    kept: int
    batch: int
    copies: int
    beforehand: int = 0

    def bytes_per_process(self, shards: int = 1) -> int:
        """Weights, gradients, moments and average (split over `shards` by FSDP), frozen networks, one batch."""
        numbers = 2 * self.parameters + (self.copies - 2) * self.trained
        return _BYTES * numbers // shards + _BYTES * self.frozen + self.batch * self.kept

    def images_per_second(self, rate: float, share: float) -> float:
        """Of one device that multiplies at `rate` operations a second, of which a step reaches the `share`."""
        return share * rate / self.flops

    def hours(self, images: int, devices: int, rate: float, share: float) -> float:
        """For so many images on so many devices that do not wait for each other."""
        return images / (devices * self.images_per_second(rate, share)) / 3600


def plan(config: TrainingConfig, sources: Sources) -> Plan:
    """The plan of a run. With representations that are computed beforehand, the networks' operations fall away."""
    dtype = DTYPES.get(config.mixed_precision)
    n, widths = len(sources.names), sources.widths()
    one, two = (_measured(config, widths, times, dtype) for times in (1, 2))
    beforehand = _beforehand(config)
    return Plan(
        parameters=one.parameters,
        trained=one.trained,
        frozen=sum(p.numel() for p in sources.parameters()),
        flops=(two.flops - one.flops) // n + (0 if beforehand else _read(config, sources)),
        kept=(two.kept - one.kept) // n,
        batch=config.train_batch_size,
        copies=COPIES[config.optimizer],
        beforehand=_read_once(config, sources) if beforehand else 0,
    )


@dataclass(frozen=True)
class _Measured:
    parameters: int
    trained: int
    flops: int
    kept: int


def _measured(config: TrainingConfig, widths: Mapping[str, int], times: int, dtype: torch.dtype | None) -> _Measured:
    """Parameters, and of a step with so many images per source the operations and what the backward pass keeps."""
    names = [name for name in widths for _ in range(times)]
    with FakeTensorMode():
        unet = RepresentationUNet(widths, **network_arguments(config))
        unet.unet.requires_grad_(not config.only_projections)
        x = torch.randn(len(names), *unet.space.shape(config.resolution))
        t, h = torch.zeros(len(names), dtype=torch.long), torch.randn(len(names), max(widths.values()))
        kept = _Kept({p.untyped_storage()._cdata for p in unet.parameters()})

        def step() -> None:
            mixed = torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None)
            with mixed, saved_tensors_hooks(kept.note, lambda tensor: tensor):
                loss = unet(x, t, h, names).sample.float().square().mean()
            loss.backward()

        flops = count_flops(step)
        trained = sum(p.numel() for p in unet.parameters() if p.requires_grad)
        return _Measured(sum(p.numel() for p in unet.parameters()), trained, flops, kept.bytes)


class _Kept:
    """Bytes of the tensors that the backward pass needs, each storage once, parameters not at all."""

    def __init__(self, known: set[int]) -> None:
        self.bytes, self._known, self._held = 0, known, list[Tensor]()

    def note(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd saves, of any shape; returns it."""
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter) and storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._held.append(tensor)  # so that no other storage gets its place
            self.bytes += storage.nbytes()
        return tensor


def _beforehand(config: TrainingConfig) -> bool:
    """Whether representations are read rather than computed in each step: those in a folder, and of data in memory."""
    data = config.train_data_dir
    streamed = data == "sprites" or data.startswith("hf://") or any(Path(data).glob("*.tar"))
    return config.representations_dir is not None or (config.cache_representations and not streamed)


def _read(config: TrainingConfig, sources: Sources) -> int:
    """Operations with which the networks read an image, on average over the sources."""
    images = torch.zeros(1, 3, config.resolution, config.resolution)
    total = sum(count_flops(partial(sources.encode, images, name)) for name in sources.names)
    return total // len(sources.names)


def _read_once(config: TrainingConfig, sources: Sources) -> int:
    """Operations with which the networks read an image at all levels, and mirrored where it is."""
    images = torch.zeros(1, 3, config.resolution, config.resolution)
    return (1 + config.random_flip) * count_flops(partial(sources.encode_all, images))


def rate_here(config: TrainingConfig) -> float:
    """Operations per second of matrix products on the device at hand, in the precision of the run."""
    return matrix_rate(best_device(), DTYPES.get(config.mixed_precision, torch.float32))


def in_words(found: Plan, images: int | None, devices: int, rate: float, share: float) -> str:
    """The plan as lines of text, with what it assumes. `rate` in operations per second."""
    speed = found.images_per_second(rate, share)
    rows: list[tuple[str, str]] = [
        ("parameters", f"{found.parameters:,} of the denoiser, {found.frozen:,} frozen"),
        ("operations", f"{found.flops / 1e9:.2f} GFLOP per image and step"),
        ("memory", f"{_gib(found.bytes_per_process())} per process: {found.copies} x 4 bytes per parameter that "
                   f"learns, {found.batch} images x {found.kept / 2**20:.1f} MiB kept for the backward pass"),
        ("with FSDP", f"{_gib(found.bytes_per_process(devices))} per process, on {devices} devices"),
        ("matrix rate", f"{rate / 1e12:.2f} TFLOP/s, of which {share:.0%} are assumed to be reached"),
        ("speed", f"{speed:,.0f} images/s per device, {devices * speed:,.0f} on {devices}"),
    ]  # fmt: skip
    if devices == 1:
        del rows[3]
    if found.beforehand:
        before = devices * share * rate / found.beforehand
        rows.append(("beforehand", f"networks read every image once, {found.beforehand / 1e9:.2f} GFLOP, {before:,.0f} "
                                   "images/s: comes before --max_train_minutes"))  # fmt: skip
    if images is not None:
        rows.append(("time", f"{found.hours(images, devices, rate, share):,.2f} h for {images:,} images"))
    return "\n".join(f"{name:<12} {text}" for name, text in rows)


def _gib(number: int) -> str:
    return f"{number / 2**30:.2f} GiB"
