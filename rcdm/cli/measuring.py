"""What `rcdm evaluate` does: the numbers of a checkpoint, or of a folder of backbones, written beside it."""

from __future__ import annotations

import argparse
import dataclasses
import sys

import rcdm
from rcdm.cli.options import announce
from rcdm.data.dataset_protocol import Dataset
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.checkpoints import load_source
from rcdm.diffusion.model_card import markdown_tables
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.places import checkpoint_folder
from rcdm.measures.directions import directions_in, write_directions
from rcdm.measures.judge import Evaluator
from rcdm.measures.parts import Parts, keeping
from rcdm.measures.processes import first, meet, sharing
from rcdm.networks.source_folder import load_network, read_config
from rcdm.studies.evaluation import EvaluationSize, evaluate, write_metrics
from rcdm.studies.study_files import identity_of, kept_draws


def measure_checkpoint(options: argparse.Namespace) -> None:
    """Measure a pipeline; writes metrics.json and directions, prints tables. Several processes share the draws.

    Finished batches are kept in evaluation.parts until the end, so that after an interruption the same call continues.
    """
    folder = options.out or checkpoint_folder(options.checkpoint)
    if folder is None:
        raise ValueError("A checkpoint from the hub has no folder here; say where with --out.")
    meet()
    pipe = rcdm.load(options.checkpoint, device=options.device, scheduler=options.scheduler)
    dataset = load_dataset(options.data or _known(pipe.config.trained_on), pipe.image_size)
    sizes = {f.name: getattr(options, f.name) for f in dataclasses.fields(EvaluationSize)}
    parts = Parts(folder / "evaluation.parts", identity_of(pipe))
    if len(parts):
        announce(f"continues with {len(parts)} finished parts")
    with sharing(pipe), keeping(parts), kept_draws(pipe):
        metrics = evaluate(
            pipe,
            dataset,
            EvaluationSize(**sizes),
            evaluator=_evaluator(options.evaluator, pipe, dataset),
            num_inference_steps=options.steps,
            on_progress=announce,
        )
    if not first():
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(markdown_tables(metrics))
    print(write_metrics(metrics, folder), file=sys.stderr)
    announce("directions of attributes and main directions")
    print(write_directions(directions_in(pipe, dataset), folder), file=sys.stderr)
    parts.clear()


def _known(data: str) -> str:
    """The data of this name, where they need no folder. Raises ValueError for others."""
    if data not in ("", "sprites"):
        raise ValueError(f"This checkpoint has learned from {data}: say where that is with --data FOLDER.")
    return "sprites"


def _evaluator(name: str | None, pipe: RCDMPipeline, dataset: Dataset) -> Evaluator | None:
    if name is None:
        return None
    source = load_source(name)
    if source.name.partition("/")[0] in {own.partition("/")[0] for own in pipe.sources}:
        raise ValueError(f"{name} is a source of this checkpoint: the evaluator has to be another network.")
    announce("the evaluator looks at training images")
    return Evaluator(source.to(pipe.device), dataset)


def measure_backbones(options: argparse.Namespace) -> None:
    """Measure every network of a folder that holds sources/ alone."""
    folder, data = checkpoint_folder(options.checkpoint), options.data
    assert folder is not None
    try:
        from rcdm.ssl.source_metrics import measure_folder
    except ModuleNotFoundError as error:
        raise ValueError(f"Measuring backbones needs {error.name}: `pip install -e '.[ssl]'`.") from error
    for source in sorted(path.parent for path in folder.glob("sources/*/model.safetensors")):
        _, preprocessing = load_network(source)
        own = data or _known(read_config(source)["training"].get("data", ""))
        print(measure_folder(source, load_dataset(own, preprocessing.size), on_progress=announce))
