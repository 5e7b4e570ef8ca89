"""The command line: `rcdm sample | study | pretrain | train | evaluate | serve`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

import rcdm
from rcdm import images as im
from rcdm.attributes import attributes_of, kept_by_draws
from rcdm.metrics import similarity
from rcdm.options import add_options, given
from rcdm.pipeline import RCDMPipeline
from rcdm.ssl.pretraining_config import PretrainConfig
from rcdm.ssl.views import ViewStrengths
from rcdm.training_config import TrainingConfig


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; bad input ends with one sentence on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="rcdm", description="See what a representation keeps.")
    parser.add_argument("--version", action="version", version=f"rcdm {rcdm.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_sample, _add_study, _add_pretrain, _add_train, _add_evaluate, _add_serve):
        add(commands)
    _run(parser, arguments)


def train_main(arguments: Sequence[str] | None = None) -> None:
    """`rcdm train` as a script of its own."""
    parser = argparse.ArgumentParser(description="Train a denoiser on the representations of frozen networks.")
    _train_options(parser)
    _run(parser, arguments)


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _command(commands: Any, name: str, text: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def _add_drawing_options(parser: argparse.ArgumentParser, *, samples: int) -> None:
    parser.add_argument("--checkpoint", default="sprites-32", help="name, folder or hub id")
    parser.add_argument("--source", nargs="+", default=[], help="NETWORK/LEVEL …; all if none is given")
    parser.add_argument("--samples", type=int, default=samples, help="images drawn per photograph and source")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first draw; the next use the next numbers")
    parser.add_argument("--steps", type=int, default=None, help="denoising steps; the checkpoint's own if not given")
    parser.add_argument("--device", default=None, help="cpu, cuda, mps")


# sample


def _add_sample(commands: Any) -> None:
    parser = _command(commands, "sample", "Draw images that share the representation of photographs.", _sample)
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="image files")
    _add_drawing_options(parser, samples=8)
    parser.add_argument("--guidance-scale", type=float, default=1.0, help="1 is off")
    parser.add_argument("--out", type=Path, default=Path("sample.png"), help="grid; FILE.json is written beside it")


def _sample(options: argparse.Namespace) -> None:
    if options.out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, and is {options.out}.")
    photos = [im.decode(path) for path in options.photos]
    if options.samples < 1:
        raise ValueError("--samples must be at least 1.")
    pipe = rcdm.load(options.checkpoint, device=options.device)
    sources = options.source or list(pipe.sources.names)
    seeds = list(range(options.seed, options.seed + options.samples))
    steps = options.steps or pipe.config.default_steps
    drawings = len(photos) * len(sources)
    drawn, numbers = [], []
    with tqdm(total=drawings * steps, unit="step", desc="drawing") as bar:
        for photo, path in zip(photos, options.photos, strict=True):
            for source in sources:
                images = pipe.draw(
                    pipe.encode(photo, source).expand(len(seeds), -1),
                    source,
                    seeds,
                    num_inference_steps=steps,
                    guidance_scale=options.guidance_scale,
                    batch_size=len(seeds),
                    callback_on_step_end=lambda *_: bar.update(),
                )
                drawn.append([im.centre_crop(photo, 4 * pipe.image_size), *im.to_pil(images)])
                numbers.append({"photo": str(path), "source": source, **_numbers_of(pipe, photo, source, images)})
    labels = [f"{Path(n['photo']).name} {n['source']}" for n in numbers]
    grid = im.grid(drawn, row_labels=labels, column_labels=["given", *(f"seed {seed}" for seed in seeds)])
    _write_sample(options, grid, {"seeds": seeds, "steps": steps, "sources": sources, "draws": numbers}, pipe.caution)


def _numbers_of(pipe: RCDMPipeline, photo: Image.Image, source: str, drawn: torch.Tensor) -> dict[str, Any]:
    """Similarity of each draw to the given representation, and what share of each attribute the draws keep."""
    given = pipe.unet.standardise(pipe.encode(photo, source), source)
    kept = pipe.unet.standardise(pipe.encode(drawn, source), source)
    numbers: dict[str, Any] = {"similarity": similarity(kept, given.expand_as(kept)).tolist()}
    if len(drawn) > 1:
        try:
            numbers["kept_by_draws"] = kept_by_draws(attributes_of(pipe), drawn)
        except ValueError as error:
            numbers["kept_by_draws_absent"] = str(error)
    return numbers


def _write_sample(options: argparse.Namespace, grid: Image.Image, record: dict[str, Any], caution: str) -> None:
    options.out.parent.mkdir(parents=True, exist_ok=True)
    grid.save(options.out)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "run"}
    libraries = {name: version(name) for name in ("torch", "diffusers", "pillow")}
    versions = {"rcdm": rcdm.__version__, "python": platform.python_version(), **libraries}
    report = options.out.with_suffix(".json")
    report.write_text(json.dumps({"settings": settings, "versions": versions, **record}, indent=1) + "\n")
    print(f"{options.out} and {report}")
    if caution:
        print(f"Note: {caution}", file=sys.stderr)


# study


def _add_study(commands: Any) -> None:
    parser = _command(commands, "study", "Ask one question of a checkpoint; numbers and a figure.", _study)
    parser.add_argument("study", help="retention")
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="image files; else held-out drawn images")
    _add_drawing_options(parser, samples=16)
    parser.add_argument("--images", type=int, default=128, help="how many held-out images, when no PHOTO is given")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for NAME.json and NAME.png")


def _study(options: argparse.Namespace) -> None:
    from rcdm.datasets import load_dataset
    from rcdm.studies import STUDIES

    if options.study not in STUDIES:
        raise ValueError(f"There is no study {options.study!r}; choose one of {', '.join(STUDIES)}.")
    pipe = rcdm.load(options.checkpoint, device=options.device)
    if options.photos:
        images: Any = [im.decode(path) for path in options.photos]
    else:
        images = load_dataset("sprites", pipe.image_size).held_out(options.images).images
    result = STUDIES[options.study](
        pipe,
        images,
        sources=options.source or pipe.sources.names,
        seeds=range(options.seed, options.seed + options.samples),
        num_inference_steps=options.steps,
        on_progress=_announce,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    width = len(result.columns)
    rows = [result.images[i : i + width] for i in range(0, len(result.images), width)]
    figure, report = (options.out / f"{options.study}.{kind}" for kind in ("png", "json"))
    im.grid(rows, row_labels=result.rows, column_labels=result.columns).save(figure)
    report.write_text(json.dumps(result.numbers, indent=1) + "\n")
    print(result.summary)
    print(f"{figure} and {report}")


def _announce(text: str) -> None:
    tqdm.write(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)


# pretrain


def _add_pretrain(commands: Any) -> None:
    parser = _command(commands, "pretrain", "Pretrain small backbones; needs the extra `ssl`.", _pretrain)
    parser.formatter_class = argparse.HelpFormatter  # the defaults depend on the data
    parser.add_argument("--data", default="sprites", help="'sprites', a folder of images or parquet files")
    parser.add_argument(
        "--objective", required=True, nargs="+", help="one or more of them (an unknown one lists all), or reader"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of source folders: writes OUT/NAME for each")
    parser.add_argument("--name", nargs="+", help="names of the source folders; the objectives' names if not given")
    parser.add_argument("--resolution", type=int, help="side of the images in pixels (sprites: 32, photographs: 64)")
    parser.add_argument("--resume", action="store_true", help="continue what was interrupted, skip what is finished")
    add_options(parser, ViewStrengths, blank=True)
    add_options(parser, PretrainConfig, leave_out=("objective", "views"), blank=True)


def _pretrain(options: argparse.Namespace) -> None:
    if options.objective == ["reader"]:
        from rcdm.readers import save_reader, train_reader

        save_reader(train_reader(steps=options.max_steps or 2000, seed=options.seed or 0), options.out / "reader")
        print((options.out / "reader" / "metrics.json").read_text())
        return
    try:
        from rcdm.ssl.command import pretrain_all
    except ModuleNotFoundError as error:
        raise ValueError(f"Pretraining needs {error.name}: install it with `pip install -e '.[ssl]'`.") from error
    pretrain_all(options)


# train


def _add_train(commands: Any) -> None:
    _train_options(_command(commands, "train", "Train a denoiser (the same as train_rcdm.py).", _train))


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_train)
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add_options(parser, TrainingConfig)


def _train(options: argparse.Namespace) -> None:
    from rcdm.training import TrainingDiverged, train

    try:
        print(train(TrainingConfig(**given(options, TrainingConfig))))
    except TrainingDiverged as error:
        raise ValueError(str(error)) from error


# evaluate


def _add_evaluate(commands: Any) -> None:
    from rcdm.evaluation import EvaluationSize

    parser = _command(commands, "evaluate", "Measure a checkpoint; writes metrics.json and prints tables.", _evaluate)
    parser.add_argument(
        "checkpoint", nargs="?", default="sprites-32", help="name or folder, of a pipeline or of backbones"
    )
    parser.add_argument("--data", default="sprites", help="what the checkpoint was trained on: 'sprites' or a folder")
    for option in dataclasses.fields(EvaluationSize):
        name = option.name.replace("_", "-")
        parser.add_argument(f"--{name}", type=int, default=option.default, help="how many")
    parser.add_argument("--steps", type=int, default=None, help="denoising steps; the checkpoint's own if not given")
    parser.add_argument("--out", type=Path, default=None, help="folder for metrics.json; the checkpoint's if not given")
    parser.add_argument("--device", default=None, help="cpu, cuda, mps")


def _evaluate(options: argparse.Namespace) -> None:
    from rcdm.checkpoints import checkpoint_folder
    from rcdm.datasets import load_dataset
    from rcdm.evaluation import EvaluationSize, evaluate, markdown_tables, write_metrics

    folder = checkpoint_folder(options.checkpoint)
    if folder is not None and (folder / "sources").is_dir() and not (folder / "model_index.json").is_file():
        _evaluate_sources(folder / "sources", options.data)
        return
    pipe = rcdm.load(options.checkpoint, device=options.device)
    dataset = load_dataset(options.data, pipe.image_size)
    sizes = {f.name: getattr(options, f.name) for f in dataclasses.fields(EvaluationSize)}
    metrics = evaluate(pipe, dataset, EvaluationSize(**sizes), num_inference_steps=options.steps, on_progress=_announce)
    folder = options.out or folder
    if folder is None:
        raise ValueError("A checkpoint from the hub has no folder here; say where with --out.")
    folder.mkdir(parents=True, exist_ok=True)
    print(markdown_tables(metrics))
    print(write_metrics(metrics, folder), file=sys.stderr)


def _evaluate_sources(folder: Path, data: str) -> None:
    try:
        from rcdm.ssl.command import evaluate_sources
    except ModuleNotFoundError as error:
        raise ValueError(f"Measuring backbones needs {error.name}: `pip install -e '.[ssl]'`.") from error
    evaluate_sources(folder, data)


# serve


def _add_serve(commands: Any) -> None:
    parser = _command(commands, "serve", "Open the page.", _serve)
    parser.add_argument("--checkpoint", default="sprites-32", help="name, folder or hub id")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=None, help="port; the first free one from 7860 if not given")
    parser.add_argument("--share", action="store_true", help="make a public link")


def _serve(options: argparse.Namespace) -> None:
    from rcdm.ui import serve

    serve(options.checkpoint, host=options.host, port=options.port, share=options.share)


if __name__ == "__main__":
    main()
