"""`rcdm pretrain`, and `rcdm evaluate` for a folder of sources: several networks in one call share the decoded data."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch

from rcdm.datasets import Dataset, load_dataset
from rcdm.options import given
from rcdm.representation import load_network
from rcdm.ssl.pretraining import PretrainingDiverged, pretrain, training_of
from rcdm.ssl.pretraining_config import DRAWN_WORLD, PHOTOGRAPHS, PretrainConfig
from rcdm.ssl.probe_table import format_table
from rcdm.ssl.source_metrics import SourceEvaluationSize, format_levels, measure_source
from rcdm.ssl.views import ViewStrengths

log = logging.getLogger(__name__)


def pretrain_all(options: argparse.Namespace) -> None:
    """One source folder per objective, each with its metrics.json; one that diverges does not stop the others.

    Raises ValueError for options that do not fit together, and at the end when a run has diverged.
    """
    names = options.name or options.objective
    if len(names) != len(options.objective) or len(set(names)) != len(names):
        raise ValueError("Give one --name per --objective, all different.")
    preset = DRAWN_WORLD if options.data == "sprites" else PHOTOGRAPHS
    configs = [_config(options, objective, preset) for objective in options.objective]
    size = options.resolution or (32 if options.data == "sprites" else 64)
    dataset = load_dataset(options.data, size, seed=options.seed or 0)
    failed = []
    for name, config in zip(names, configs, strict=True):
        folder = options.out / name
        if options.resume and (folder / "metrics.json").exists():
            print(f"{folder} is finished already.")
            continue
        if not (options.resume and (folder / "model.safetensors").exists()):
            try:
                pretrain(dataset, config, folder, resume=options.resume)
            except PretrainingDiverged as error:
                failed.append(str(error))
                print(error, file=sys.stderr)
                continue
        _measure(folder, dataset, SourceEvaluationSize())
    if failed:
        raise ValueError(" ".join(failed))


def evaluate_sources(folder: Path, data: str, size: SourceEvaluationSize | None = None) -> None:
    """Measure every source folder below `folder` again and write its metrics.json."""
    for source in sorted(path.parent for path in folder.glob("*/model.safetensors")):
        _, preprocessing = load_network(source)
        _measure(source, load_dataset(data, preprocessing.size), size or SourceEvaluationSize())


def _config(options: argparse.Namespace, objective: str, preset: dict[str, Any]) -> PretrainConfig:
    fields = {**preset, **given(options, PretrainConfig), "objective": objective}
    if options.max_steps or options.max_minutes:  # what the user says replaces the preset's budget
        fields |= {"max_steps": options.max_steps, "max_minutes": options.max_minutes}
    fields["projector_hidden_dim"] = fields.get("projector_hidden_dim", PretrainConfig.projector_hidden_dim) or None
    views = preset.get("views", ViewStrengths())
    return PretrainConfig(**{**fields, "views": dataclasses.replace(views, **given(options, ViewStrengths))})


def _measure(folder: Path, dataset: Dataset, size: SourceEvaluationSize) -> None:
    network, preprocessing = load_network(folder)
    network.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False)
    views = ViewStrengths(**training_of(folder)["views"])
    metrics = measure_source(
        network,
        preprocessing,
        dataset,
        views,
        size,
        on_progress=lambda text: print(f"{folder.name}: {text}", file=sys.stderr),
    )
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(f"{folder.name}: held-out images of {metrics['data']}, N {metrics['n']}")
    print(format_levels(metrics["levels"]))
    if "ridge_r2" in metrics:
        print("ridge R² of each factor (1 read perfectly, 0 not at all)")
        print(format_table(metrics["ridge_r2"]))
