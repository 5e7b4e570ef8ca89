"""What is known of a pretrained network: classes, transformations, rank and invariance at each of its levels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightly.utils.benchmarking.knn import knn_predict
from torch import Tensor

from rcdm.data.dataset_protocol import Batch, Dataset, NumberedDataset, first_images
from rcdm.data.sprites import Sprites
from rcdm.data.transformations import TELLING
from rcdm.data.views import ViewStrengths, random_view
from rcdm.measures.levels import levels_of, transformation_probe
from rcdm.measures.metrics import Number, accuracy, cosines, effective_rank
from rcdm.measures.probes import linear_probe
from rcdm.networks.representation import OpenNetwork, Preprocessing, SSLNetwork
from rcdm.networks.source_folder import load_network, read_config
from rcdm.ssl.probe_table import format_table, probe_table


@dataclass(frozen=True)
class SourceEvaluationSize:
    """How many images are looked at, at most; fewer on a CPU, where probes of 100,000 would take half an hour."""

    train_images: int = 100_000 if torch.cuda.is_available() else 20_000
    test_images: int = 10_000
    transformation_images: int = 4000
    probe_images: int = 4096


def measure_source(
    network: SSLNetwork | OpenNetwork,
    preprocessing: Preprocessing,
    dataset: Dataset,
    views: ViewStrengths,
    size: SourceEvaluationSize | None = None,
    *,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """What metrics.json of a source folder holds.

    `levels`: level -> `knn20` and `linear_top1` (top-1 on held-out images), `effective_rank`, `positive`, `random` and
    `margin` cosine of two views, and `transformation_probe`: name -> accuracy at telling which case was applied; on the
    drawn world also `ridge_r2`: level -> factor -> R².
    """
    size = size or SourceEvaluationSize()
    device = next(network.parameters()).device
    dataset = dataset.to(device)
    on_progress("representations of the training images")
    train, labels = _levels_of_training(network, preprocessing, dataset, size.train_images)
    held_out = dataset.held_out(size.test_images)
    on_progress("representations of the held-out images")
    test = levels_of(network, preprocessing, held_out.images)
    stream = torch.Generator().manual_seed(0)
    first, second = (
        levels_of(network, preprocessing, held_out.images, lambda images: random_view(images, views, stream))
        for _ in range(2)
    )
    levels: dict[str, Any] = {}
    for level in network.levels():
        on_progress(f"probes at {level}")
        numbers = {
            "knn20": knn(train[level], labels, test[level], held_out.labels, dataset.classes),
            "linear_top1": linear_probe(train[level], labels, test[level], held_out.labels),
            **cosines(first[level].cpu(), second[level].cpu()),
        }
        levels[level] = {name: number.to_json() for name, number in numbers.items()}
        levels[level]["effective_rank"] = {"value": effective_rank(test[level]), "n": len(test[level])}
        levels[level]["width"] = test[level].shape[1]
        levels[level]["transformation_probe"] = {}

    def encode(images: Tensor) -> dict[str, Tensor]:
        return levels_of(network, preprocessing, images)

    for name in TELLING:
        on_progress(f"transformation probe: {name}")
        n = size.transformation_images
        accuracies = transformation_probe(
            encode, first_images(dataset, n).images, dataset.held_out(n // 2).images, name
        )
        for level, number in accuracies.items():
            levels[level]["transformation_probe"][name] = number.to_json()
    result: dict[str, Any] = {"data": dataset.name, "n_train": len(labels), "n": len(held_out.labels), "levels": levels}
    if isinstance(dataset, Sprites):
        result["ridge_r2"] = probe_table(network, dataset, n=size.probe_images)
    return result


def knn(h: Tensor, labels: Tensor, h_test: Tensor, labels_test: Tensor, classes: int, *, k: int = 20) -> Number:
    """Top-1 accuracy of the k nearest neighbours by cosine, weighted by exp(cos / 0.1) (Wu et al. 2018)."""
    bank = F.normalize(h, dim=1).T.contiguous()
    parts = [
        knn_predict(F.normalize(rows, dim=1), bank, labels, classes, knn_k=min(k, len(h)), knn_t=0.1)[:, 0]
        for rows in h_test.split(500)
    ]
    return accuracy(torch.cat(parts).cpu(), labels_test.cpu(), classes)


def pieces(dataset: Dataset, n: int, chunk: int = 500) -> Iterator[Batch]:
    """The first n training images of the dataset's order, a few at a time, as far as whole pieces go.

    Where there are no more than n, each of them once.
    """
    if isinstance(dataset, NumberedDataset) and dataset.n_train <= n:
        yield from map(dataset.take, torch.arange(dataset.n_train).split(chunk))
    else:
        few = min(chunk, n)
        yield from (dataset.batch(step, few) for step in range(n // few))


def _levels_of_training(
    network: SSLNetwork | OpenNetwork, preprocessing: Preprocessing, dataset: Dataset, n: int
) -> tuple[dict[str, Tensor], Tensor]:
    """The first n training images of the dataset's order, at every level, and their labels."""
    parts, labels = [], []
    for batch in pieces(dataset, n):
        parts.append(levels_of(network, preprocessing, batch.images))
        labels.append(batch.labels)
    return {level: torch.cat([part[level] for part in parts]) for level in network.levels()}, torch.cat(labels)


def measure_folder(
    folder: Path,
    dataset: Dataset,
    size: SourceEvaluationSize | None = None,
    *,
    out: Path | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> str:
    """Measure the network of a source folder; write metrics.json there, or in the folder `out`, and return a table.

    Views are those that it was trained with, or where its config.json does not tell, the defaults of `ViewStrengths`.
    """
    network, preprocessing = load_network(folder)
    network.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False)
    views = read_config(folder).get("training", {}).get("views", {})
    metrics = measure_source(
        network,
        preprocessing,
        dataset,
        ViewStrengths(**views),
        size,
        on_progress=lambda text: on_progress(f"{folder.name}: {text}"),
    )
    out = out or folder
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    lines = [f"{folder.name}: held-out images of {metrics['data']}, N {metrics['n']}", format_levels(metrics["levels"])]
    if "ridge_r2" in metrics:
        lines += ["ridge R² of each factor (1 read perfectly, 0 not at all)", format_table(metrics["ridge_r2"])]
    return "\n".join(lines)


def format_levels(levels: dict[str, Any]) -> str:
    """The `levels` of `measure_source` as text, one row per level; accuracies are top-1."""
    columns: dict[str, Callable[[dict[str, Any]], float]] = {
        "width": lambda m: m["width"],
        "rank": lambda m: m["effective_rank"]["value"],
        "kNN-20": lambda m: m["knn20"]["value"],
        "linear": lambda m: m["linear_top1"]["value"],
        "positive": lambda m: m["positive"]["value"],
        "random": lambda m: m["random"]["value"],
        **{name: lambda m, name=name: m["transformation_probe"][name]["value"] for name in TELLING},  # type: ignore[misc]
    }
    lines = [" " * 12 + "".join(name.rjust(10) for name in columns)]
    for level, numbers in levels.items():
        cells = (
            f"{column(numbers):10.0f}" if name == "width" else f"{column(numbers):10.3f}"
            for name, column in columns.items()
        )
        lines.append(level.ljust(12) + "".join(cells))
    return "\n".join(lines)
