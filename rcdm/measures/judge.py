"""An outside judge: a network that was never a source tells what drawn images are like.

Its name stands beside every number that it gives: perceptual distance, KID, class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from tqdm import tqdm

from rcdm.data.dataset_protocol import Batch, Dataset
from rcdm.measures.metrics import Number, bootstrap, nearest
from rcdm.measures.parts import part, weights_digest
from rcdm.measures.probes import logistic_regression
from rcdm.measures.processes import first, over_processes
from rcdm.networks.representation import RepresentationSource

COPIED = 0.01
"""The share of held-out images that lie as near to a training image as what counts as a copy."""


def is_sister(judge: str, network: str, config: Mapping[str, Any]) -> bool:
    """Whether a source's network is of the judge's own family, so that the judge sees what it sees.

    `judge` is the name of the judge's source, `network` that of the other network, `config` its config.json.
    """
    family = "efficientnet-lite"
    names = (network, str(config.get("arguments", {}).get("name", "")).replace("_", "-"))
    return family in judge and any(family in name for name in names)


class Evaluator:
    """Features, classes and distances by a source that no pipeline is conditioned on.

    Args:
        source: the network, cut at its backbone.
        dataset: training images fit the class probe and are what draws might be copied from.
        n: how many training images fit the probe, at most.
        known: among how many training images copies are looked for, at most; all of those of smaller data sets.
    """

    def __init__(
        self, source: RepresentationSource, dataset: Dataset, *, n: int = 20_000, known: int = 100_000
    ) -> None:
        self.source = source
        self.name = source.name
        self.digest = weights_digest(source)
        self.training_images = dataset.n_train
        few = min(max(n, known), dataset.n_train or n)
        batches = [dataset.batch(step, min(500, few)) for step in range(-(-few // 500))]
        seen = over_processes(batches, self._looked_at)
        bar = {"desc": f"{self.name}, training images", "leave": False, "disable": None if first() else True}
        training = torch.cat(list(tqdm(seen, total=len(batches), unit="batch", **bar)))[:few].to(self._device)
        labels = torch.cat([batch.labels for batch in batches])[:n].to(training.device)
        self._mean, self._std = training[:n].mean(0), training[:n].std(0).clamp(min=1e-6)
        self._classes = dataset.classes
        self._probe = logistic_regression(self._standardise(training[:n]), labels, dataset.classes, 1e-4)
        self._training = F.normalize(training, dim=1)

    @property
    def _device(self) -> torch.device:
        return next(self.source.parameters()).device

    def _looked_at(self, batch: Batch) -> Tensor:
        """Features of training images: a part, as they are asked for again whenever an evaluation goes on."""
        return part("judge", {"network": self.digest, "images": batch.images}, lambda: self.features(batch.images))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[N,3,H,W] in [-1,1] -> [N,D], raw."""
        parts = over_processes(images.split(500), lambda chunk: self.source(chunk.to(self._device)))
        return torch.cat(list(parts)).to(self._device)

    def directions(self, images: Tensor) -> Tensor:
        """[N,3,H,W] in [-1,1] -> features of unit length [N,D]: a few large ones would drown every distance."""
        return F.normalize(self.features(images), dim=1)

    @torch.no_grad()
    def classes(self, images: Tensor) -> Tensor:
        """[N,3,H,W] -> the class that a linear probe of the features reads, one-hot [N,C] on the CPU."""
        read = self._probe(self._standardise(self.features(images))).argmax(1)
        return F.one_hot(read, self._classes).float().cpu()

    def kid(self, drawn: Tensor, real: Tensor, *, subset_size: int = 1000) -> dict[str, Any]:
        """Kernel distance x 1000 of two sets of images (Bińkowski et al. 2018): mean and deviation over subsets.

        Features have unit length times √D, so that the kernel is (cosine + 1)³. Subsets are at most half of the images.
        """
        size = min(subset_size, len(drawn) // 2, len(real) // 2)
        measure = KernelInceptionDistance(_Features(self), subsets=50, subset_size=size)
        for images, is_real in ((real, True), (drawn, False)):
            for chunk in images.split(500):
                measure.update(chunk, real=is_real)
        with torch.random.fork_rng():
            torch.manual_seed(0)  # which subsets are taken
            mean, deviation = measure.compute()
        return {"value": 1000 * float(mean), "deviation": 1000 * float(deviation), "n": len(drawn), "subset": size}

    def fid(self, drawn: Tensor, real: Tensor) -> dict[str, Any]:
        """Fréchet distance of two sets of images (Heusel et al. 2017), of the features that `kid` has.

        It falls with the number of images: it compares with numbers of the same judge and the same n alone.
        """
        measure = FrechetInceptionDistance(_Features(self))
        for images, is_real in ((real, True), (drawn, False)):
            for chunk in images.split(500):
                measure.update(chunk, real=is_real)
        return {"value": float(measure.compute()), "n": len(drawn), "n_real": len(real)}

    def copying(self, drawn: Tensor, real: Tensor) -> dict[str, dict[str, Any]]:
        """How near draws come to their nearest training image, beside held-out images.

        `copying`: the median distance over that of held-out images; well below 1 most draws repeat training images.
        `copied`: the share of draws that are nearer than all but a hundredth of the held-out images; null
        0.01. Both say among how many training images it was looked (`among`), and how many there are (`of`).
        """
        near, usual = (self._nearest(images).cpu() for images in (drawn, real))
        nearer = (near < usual.quantile(COPIED)).float()
        among = {"among": len(self._training)} | ({"of": known} if (known := self.training_images) else {})
        return {
            "copying": bootstrap(lambda i: near[i].median() / usual.median(), len(near), null=1.0).to_json() | among,
            "copied": bootstrap(lambda i: nearer[i].mean(), len(near), null=COPIED).to_json() | among,
        }

    def spread(self, draws: Tensor, real: Tensor) -> Number:
        """Mean distance between draws of one image, [N,K,3,H,W], over that between held-out images: 0 all the same."""
        n, k = draws.shape[:2]
        features = self.directions(draws.flatten(0, 1)).unflatten(0, (n, k))
        among = torch.stack([F.pdist(own).mean() for own in features]).cpu()
        usual = F.pdist(self.directions(real[:1000])).mean().cpu()
        return bootstrap(lambda i: among[i].mean() / usual, n, null=1.0)

    def _nearest(self, images: Tensor) -> Tensor:
        return nearest(self.directions(images), self._training)[0]

    def _standardise(self, features: Tensor) -> Tensor:
        return (features - self._mean) / self._std


class _Features(nn.Module):
    """The evaluator as torchmetrics asks for it: a module from images to features."""

    def __init__(self, evaluator: Evaluator) -> None:
        super().__init__()
        self.num_features = evaluator.source.dim
        self.evaluator = [evaluator]  # in a list, so that it is no part of the module

    def forward(self, images: Tensor) -> Tensor:
        return (self.evaluator[0].directions(images) * self.num_features**0.5).cpu()
