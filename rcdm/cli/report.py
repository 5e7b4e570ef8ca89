"""`rcdm report`: what backbones hold at each level, as a table and a figure."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rcdm.checkpoints import checkpoint_folder
from rcdm.cli.options import command
from rcdm.figures import levels_figure, levels_table


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = command(commands, "report", "Table and figure of what backbones hold at each level.", _report)
    parser.add_argument("--checkpoint", required=True, help="folder or name: its sources/NAME/metrics.json are read")
    parser.add_argument("--sweep", type=Path, help="folder of sources pretrained with --strength 0 … 1")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for levels.md, .png and .pdf")


def _report(options: argparse.Namespace) -> None:
    folder = checkpoint_folder(options.checkpoint)
    if folder is None:
        raise ValueError(f"There is no checkpoint {options.checkpoint!r}.")
    metrics = _metrics_below(folder / "sources")
    if not metrics:
        raise ValueError(
            f"The networks of {options.checkpoint} have not been measured level by level: `rcdm pretrain` does so at "
            "its end, and `rcdm evaluate FOLDER --data DATA` does for a folder that holds sources/ alone."
        )
    sweep = _by_strength(options.sweep) if options.sweep else None
    options.out.mkdir(parents=True, exist_ok=True)
    table, figure = levels_table(metrics), levels_figure(metrics, sweep)
    (options.out / "levels.md").write_text(table + "\n")
    for kind in ("png", "pdf"):
        figure.savefig(options.out / f"levels.{kind}", dpi=160)
    print(table)
    print(options.out / "levels.png")


def _metrics_below(folder: Path) -> dict[str, Any]:
    """Name -> metrics.json of the source folders below a folder that were measured at every level."""
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/metrics.json"))}
    return {name: metrics for name, metrics in found.items() if "levels" in metrics}


def _by_strength(folder: Path) -> dict[float, Any]:
    """Strength of the views, as a share of the strongest in the folder -> metrics.json."""
    configs = {name: json.loads((folder / name / "config.json").read_text()) for name in _metrics_below(folder)}
    crops = {name: config["training"]["views"]["crop"] for name, config in configs.items()}
    if len(set(crops.values())) < 2:
        raise ValueError(f"{folder} holds no sweep: pretrain with --strength 0, 0.25, 0.5 and 1 and different --name.")
    return {crops[name] / max(crops.values()): metrics for name, metrics in _metrics_below(folder).items()}
