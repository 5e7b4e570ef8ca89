"""What a run takes from training images before its first step: statistics of the sources, and maps to coarse images."""

from __future__ import annotations

from collections.abc import Container, Iterator

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import Tensor

from rcdm.data.dataset_protocol import Dataset, NumberedDataset
from rcdm.diffusion.coarse import coarse_map
from rcdm.diffusion.unet import RepresentationUNet
from rcdm.diffusion.whitening import shrunk_covariance
from rcdm.networks.sources import Sources
from rcdm.training.config import TrainingConfig
from rcdm.training.representation_cache import RepresentationCache

REGRESSION_IMAGES = 2**16
"""At most. From 1280 numbers 0.36 of the variance of 8 x 8 pixels was read in new images of CIFAR-10 after 16,384,
0.38 after 50,000."""

CHUNK = 2**12


def set_statistics(
    unet: RepresentationUNet,
    config: TrainingConfig,
    sources: Sources,
    dataset: Dataset,
    cache: RepresentationCache | None,
    known: Container[str] = (),
) -> None:
    """Mean and deviation of every source, and where that is asked for its covariance and its map to coarse images.

    Those that are `known`, by the names of their tensors, stay: weights that have learnt belong to them. Several
    processes take those of the first.
    """
    for name, h in _sample(config, sources, dataset, cache):
        if not unet.has_loaded(name, "mean", known):
            unet.set_statistics(name, _same(h.mean(0), sources), _same(h.std(0), sources))
        if config.whiten_representations:
            unet.learn_whitened(name, _same(shrunk_covariance(unet.standardise(h.cpu(), name)), sources))
    if config.coarse_size:
        if all(unet.has_loaded(name, "coarse", known) for name in sources.names):
            return
        for name, h, images in _pairs(config, sources, dataset, cache):
            if unet.has_loaded(name, "coarse", known):
                continue
            weight = coarse_map(unet.standardise(h.cpu(), name), images, config.coarse_size)
            unet.set_coarse(name, _same(weight, sources))


def _same(value: Tensor, sources: Sources) -> Tensor:
    shared: Tensor = broadcast(value.to(sources.device))
    return shared.cpu()


def _sample(
    config: TrainingConfig, sources: Sources, dataset: Dataset, cache: RepresentationCache | None
) -> Iterator[tuple[str, Tensor]]:
    """Every source's name and representations [N,D] of training images; each network runs once per image."""
    if cache is not None:
        yield from ((name, cache.sample(name)) for name in sources.names)
        return
    images = dataset.batch(0, config.num_statistics_images).images
    parts = [sources.encode_all(chunk) for chunk in images.split(256)]
    yield from ((name, torch.cat([part[name] for part in parts])) for name in sources.names)


def _pairs(
    config: TrainingConfig, sources: Sources, dataset: Dataset, cache: RepresentationCache | None
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Every source's name, and representations [N,D] with coarse images [N,3,s,s], of which every other is mirrored."""
    if cache is None:
        images = _mirrored(dataset.batch(0, config.num_statistics_images).images, config)
        for name in sources.names:
            h = torch.cat([sources.encode(chunk, name) for chunk in images.split(256)])
            yield name, h, _coarse(images, config)
        return
    assert isinstance(dataset, NumberedDataset)  # what is kept goes by number
    rows = torch.linspace(0, dataset.n_train - 1, min(dataset.n_train, REGRESSION_IMAGES), dtype=torch.float64)
    rows = rows.round().long()
    coarse = torch.cat([_coarse(dataset.take(some).images, config) for some in rows.split(CHUNK)])
    coarse, rows = _mirrored(coarse, config), rows.to(coarse.device)
    for name in sources.names:
        yield name, cache([name] * len(rows), rows, _odd(rows) if config.random_flip else None), coarse


def _mirrored(images: Tensor, config: TrainingConfig) -> Tensor:
    """Every other image mirrored, where the run mirrors images."""
    return torch.where(_odd(images).view(-1, 1, 1, 1), images.flip(3), images) if config.random_flip else images


def _odd(rows: Tensor) -> Tensor:
    """Which places are odd, bool [N]."""
    return torch.arange(len(rows), device=rows.device) % 2 == 1


def _coarse(images: Tensor, config: TrainingConfig) -> Tensor:
    return F.adaptive_avg_pool2d(images.float(), config.coarse_size)
