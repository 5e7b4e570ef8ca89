"""What `rcdm evaluate` does: the numbers of a checkpoint, or of a folder of backbones, written beside it."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Collection, Sequence

from rcdm.cli.guiding import pipeline_of
from rcdm.cli.options import announce
from rcdm.cli.study_data import other_images
from rcdm.data.dataset_protocol import Dataset
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.checkpoints import load_source, save_guidance
from rcdm.diffusion.model_card import markdown_tables
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.places import checkpoint_folder
from rcdm.measures.directions import directions_in, write_directions
from rcdm.measures.judge import Evaluator, is_sister
from rcdm.measures.parts import Parts, keeping
from rcdm.measures.processes import first, meet, sharing
from rcdm.networks.catalogue import JUDGE
from rcdm.networks.source_folder import load_network, read_config
from rcdm.studies.evaluation import EvaluationSize, enough_images, evaluate, write_metrics
from rcdm.studies.study_files import identity_of, kept_draws
from rcdm.ui.examples import default_sources
from rcdm.ui.loaded import Loaded
from rcdm.ui.shipped import draw


def measure_checkpoint(options: argparse.Namespace) -> None:
    """Measure a pipeline; writes metrics.json and directions, prints tables. Several processes share the draws.

    Finished batches are kept in evaluation.parts until the end, so that after an interruption the same call continues.
    """
    folder = options.out or checkpoint_folder(options.checkpoint)
    if folder is None:
        raise ValueError("A checkpoint from the hub has no folder here; say where with --out.")
    meet()
    pipe = pipeline_of(options, options.checkpoint)
    dataset = load_dataset(options.data or _known(pipe.config.trained_on), pipe.image_size)
    sizes = {f.name: getattr(options, f.name) for f in dataclasses.fields(EvaluationSize)}
    if options.guidance_scale is not None or options.guidance_strength is not None:
        announce("all draws are guided as the options say: no guidance is chosen")
        sizes["guidance_images"] = 0
    size = EvaluationSize(**sizes)
    if words := other_images(pipe, dataset):
        announce(words)
    images = enough_images(dataset, size)  # refused before anybody waits for a judge
    parts = Parts(folder / "evaluation.parts", identity_of(pipe))
    if len(parts):
        announce(f"continues with {len(parts)} finished parts")
    with sharing(pipe), keeping(parts), kept_draws(pipe):
        judges = _judges(options.evaluator, pipe, dataset)
        metrics = evaluate(
            pipe,
            dataset,
            size,
            evaluator=judges[0] if judges else None,
            class_readers=judges[1:],
            num_inference_steps=options.steps,
            images=images,
            on_progress=announce,
        )
    if not first():
        return
    folder.mkdir(parents=True, exist_ok=True)
    written = write_metrics(metrics, folder)
    print(markdown_tables(metrics))
    if (folder / "model_index.json").is_file() and "guidance" in metrics:
        save_guidance(pipe, folder)
        announce(f"{folder / 'model_index.json'} says from now on how strongly draws are guided")
    print(written, file=sys.stderr)
    announce("directions of attributes and main directions")
    print(write_directions(directions_in(pipe, dataset), folder), file=sys.stderr)
    chosen = (options.guidance_scale, options.guidance_strength, options.scheduler)
    if chosen == (None, None, None) and pipe.unet.mixed_precision == "no":
        announce("the drawing that its page opens with")
        loaded = Loaded(options.checkpoint, pipe)
        print(draw(loaded, tuple(default_sources(pipe.sources.names)), folder), file=sys.stderr)
    parts.clear()


def _known(data: str) -> str:
    """The data of this name, where they need no folder. Raises ValueError for others."""
    if data not in ("", "sprites"):
        raise ValueError(f"This checkpoint has learned from {data}: say where that is with --data FOLDER.")
    return "sprites"


CLASSIFIER = "backbones-cifar10/supervised/backbone"
"""Reads the class of CIFAR-10 beside a judge that is a sister of a source."""


def _judges(names: Sequence[str] | None, pipe: RCDMPipeline, dataset: Dataset) -> list[Evaluator]:
    """The networks that look at the draws, the judge first. Raises ValueError for one that is a source."""
    own = {name.partition("/")[0] for name in pipe.sources}
    if names is None:
        names = _usual_judges(own, pipe, dataset.name)
    sources = [load_source(name) for name in names if name != "none"]
    for source, name in zip(sources, names, strict=False):
        if source.name.partition("/")[0] in own:
            raise ValueError(f"{name} is a source of this checkpoint: the evaluator has to be another network.")
    judges: list[Evaluator] = []
    for source in sources:
        announce(f"{source.name} looks at training images")
        alone = {"known": 0} if judges else {}  # the others read the class: nobody asks them for copies
        judges.append(Evaluator(source.to(pipe.device), dataset, **alone))
    return judges


def _usual_judges(own: Collection[str], pipe: RCDMPipeline, data: str) -> list[str]:
    """The published judge, where it is installed and no source; beside its sister a network of another family, too.

    Of the drawn world every attribute is known: it needs no judge.
    """
    if data == "sprites" or JUDGE in own:
        return []
    try:
        load_source(f"{JUDGE}/backbone")
    except ValueError as error:
        announce(f"Nobody judges the draws (KID, FID, class, copying): {error}")
        return []
    sisters = any(is_sister(JUDGE, name, pipe.sources.config_of(name)) for name in own)
    classifier = checkpoint_folder(CLASSIFIER.partition("/")[0])
    beside = sisters and classifier is not None and "supervised" not in own and "cifar" in data.lower()
    return [f"{JUDGE}/backbone", *([CLASSIFIER] if beside else [])]


def measure_backbones(options: argparse.Namespace) -> None:
    """Measure every network of a folder that holds sources/ alone."""
    folder, data = checkpoint_folder(options.checkpoint), options.data
    assert folder is not None
    try:
        from rcdm.ssl.source_metrics import measure_folder
    except ModuleNotFoundError as error:
        raise ValueError(f"Measuring backbones needs {error.name}: `pip install -e '.[ssl]'`.") from error
    sources = sorted(path.parent for path in folder.glob("sources/*/model.safetensors"))
    learnt_from = {source: read_config(source).get("training", {}).get("data", "") for source in sources}
    usual = next(filter(None, learnt_from.values()), "")  # a published network is measured on what the others know
    for source in sources:
        _, preprocessing = load_network(source)
        own = data or _known(learnt_from[source] or usual)
        out = source if options.out is None else options.out / "sources" / source.name
        print(measure_folder(source, load_dataset(own, preprocessing.size), out=out, on_progress=announce))
        print(out / "metrics.json", file=sys.stderr)
