"""`rcdm pretrain`: several backbones in one call share the decoded data."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rcdm.cli.options import add_options, announce, given, wait_for_torch
from rcdm.cli.refusals import refuse_data
from rcdm.data.view_strengths import ViewStrengths
from rcdm.ssl.pretraining_config import DRAWN_WORLD, OBJECTIVE_NAMES, PHOTOGRAPHS, PretrainConfig


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.set_defaults(run=_pretrain)
    parser.formatter_class = argparse.HelpFormatter  # the defaults depend on the data
    parser.add_argument("--data", default="sprites", help="'sprites', or as --train_data_dir of `rcdm train`")
    parser.add_argument(
        "--objective", required=True, nargs="+", help=f"one or more of {', '.join(OBJECTIVE_NAMES)}; or reader alone"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of source folders: writes OUT/NAME for each")
    parser.add_argument("--name", nargs="+", help="names of the source folders; the objectives' names if not given")
    parser.add_argument("--resolution", type=int, help="side of the images in pixels (sprites: 32, photographs: 64)")
    parser.add_argument("--resume", action="store_true", help="continue what was interrupted, skip what is finished")
    parser.add_argument("--strength", type=float, default=1.0, help="factor of all view strengths that are not given")
    add_options(parser, ViewStrengths, blank=True)
    add_options(parser, PretrainConfig, leave_out=("objective", "views"), blank=True)


def _pretrain(options: argparse.Namespace) -> None:
    refuse_data(options.data)
    if options.objective == ["reader"]:
        wait_for_torch("pretrain")
        from rcdm.measures.readers import save_reader, train_reader

        save_reader(train_reader(steps=options.max_steps or 2000, seed=options.seed or 0), options.out / "reader")
        print((options.out / "reader" / "metrics.json").read_text())
        return
    if unknown := [name for name in options.objective if name not in OBJECTIVE_NAMES]:
        raise ValueError(f"There is no objective {unknown[0]!r}; choose of {', '.join(OBJECTIVE_NAMES)}.")
    if find_spec("lightly") is None:
        raise ValueError("Pretraining needs lightly: install it with `pip install 'rcdm[ssl]'`.")
    wait_for_torch("pretrain")
    _pretrain_all(options)


def _pretrain_all(options: argparse.Namespace) -> None:
    """One source folder per objective, each with its metrics.json; one that diverges does not stop the others."""
    from accelerate import PartialState

    from rcdm.data.datasets import load_dataset
    from rcdm.ssl.pretraining import pretrain
    from rcdm.ssl.source_metrics import measure_folder
    from rcdm.training.loop import Diverged
    from rcdm.training.resume import saved_states

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
        try:
            if not (options.resume and (folder / "model.safetensors").exists() and not saved_states(folder)):
                pretrain(dataset, config, folder, resume=options.resume)
            if PartialState().is_main_process:
                print(measure_folder(folder, dataset, on_progress=announce))
            PartialState().wait_for_everyone()
        except Diverged as error:
            failed.append(str(error))
            print(error, file=sys.stderr)
    if failed:
        raise ValueError(" ".join(failed))


def _config(options: argparse.Namespace, objective: str, preset: dict[str, Any]) -> PretrainConfig:
    fields = {**preset, **given(options, PretrainConfig), "objective": objective}
    asked = {"max_steps": options.max_steps, "max_minutes": options.max_minutes}
    if any(value is not None for value in asked.values()):  # what the user says replaces the preset's budget
        fields |= asked
    fields["projector_hidden_dim"] = fields.get("projector_hidden_dim", PretrainConfig.projector_hidden_dim) or None
    views = preset.get("views", ViewStrengths()).scaled(options.strength)
    return PretrainConfig(**{**fields, "views": dataclasses.replace(views, **given(options, ViewStrengths))})
