"""Checkpoints by name: a folder, a name below `checkpoints/`, or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rcdm.diffusion.checked_folder import CONTINUE
from rcdm.diffusion.memory import keep_freed_memory
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.networks.checked_files import read_object
from rcdm.networks.representation import RepresentationSource
from rcdm.networks.resolve import is_network, source_of
from rcdm.networks.source_folder import load_network
from rcdm.networks.sources import network_folder

SHIPPED = Path(__file__).resolve().parents[2] / "checkpoints"


def checkpoint_folder(name: str | Path) -> Path | None:
    """The local folder that a name means, or None when it can only be a hub id."""
    return next((folder for folder in (Path(name), SHIPPED / name) if folder.is_dir()), None)


def folder_of(pipe: RCDMPipeline) -> Path | None:
    """The local folder that a pipeline was loaded from, or None."""
    return checkpoint_folder(pipe.config._name_or_path or "") if "_name_or_path" in pipe.config else None


def available() -> list[str]:
    """Names of the pipelines below `checkpoints/`."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model_index.json"))


def load(name: str | Path, *, device: torch.device | str | None = None, scheduler: str | None = None) -> RCDMPipeline:
    """A name below `checkpoints/`, a folder or a hub id -> RCDMPipeline in float32, on a GPU if there is one.

    `official/simclr-backbone` and its like are the networks released with the paper: downloaded and converted once.
    `scheduler` draws with another one of diffusers than the checkpoint's own (`RCDMPipeline.use_scheduler`). Raises
    ValueError, listing what there is, when a name means nothing.
    """
    folder = checkpoint_folder(name)
    if folder is None and str(name).startswith("official/"):
        from rcdm.diffusion.official.released import official_folder

        folder = official_folder(str(name).removeprefix("official/"))
    if folder is None and str(name).count("/") != 1:
        raise ValueError(f"There is no checkpoint {str(name)!r}; here are: {', '.join(available()) or 'none'}.")
    if folder is not None and not (folder / "model_index.json").is_file():
        raise ValueError(_what_else_it_is(folder))
    keep_freed_memory()
    pipe = RCDMPipeline.from_pretrained(folder or str(name))
    pipe.unet.float().eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipe.use_scheduler(scheduler)
    return pipe.to(device or best_device())


def _what_else_it_is(folder: Path) -> str:
    """What a folder is that is no checkpoint, and what to do."""
    if any(folder.glob("checkpoint-*")):
        return (
            f"{folder} is a run that has not written its checkpoint: it is under way, or was stopped. "
            + CONTINUE.format(folder)
        )
    if not (folder / "sources").is_dir():
        return f"{folder} is no checkpoint: it has no model_index.json. Train one with train_rcdm.py."
    draws = " or ".join(_drawing_with(folder))
    remedy = f"draw with {draws}" if draws else f"train one with train_rcdm.py --sources_dir {folder / 'sources'}"
    return f"{folder.name} holds backbones only and no denoiser; {remedy}."


def best_device() -> str:
    """Where a checkpoint goes when nobody says."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _drawing_with(backbones: Path) -> list[str]:
    """Names of the checkpoints beside a folder of backbones that share its networks."""
    whole = backbones.resolve()
    configs = {path.parts[-3]: read_object(path) for path in sorted(whole.parent.glob("*/sources/config.json"))}
    shared = {
        name: [one["checkpoint"] for one in config.get("shared", {}).values()] for name, config in configs.items()
    }
    return [name for name, checkpoints in shared.items() if whole.name in checkpoints]


def load_source(name: str, **options: Any) -> RepresentationSource:
    """`CHECKPOINT/NETWORK/LEVEL`, for instance `sprites-32/simclr/projector` -> the source alone.

    `NETWORK/LEVEL` is one of a published network (`dinov2-vits14/blocks.8`), of a file (`runs/last.ckpt/projector`), of
    a folder, or of the hub (`hf://OWNER/NAME/backbone`). `options` say how a file is read, see `sources_of`.
    """
    if is_network(name.rpartition("/")[0]):
        return source_of(name, **options)
    if options:
        raise ValueError(f"{name} is no file of another program: leave {', '.join(options)} out.")
    parent, network, level = ["", "", *name.rsplit("/", 2)][-3:]
    folder = checkpoint_folder(parent) if parent else None
    if folder is None:
        raise ValueError(f"There is no checkpoint in {name!r}; write CHECKPOINT/NETWORK/LEVEL.")
    ssl_network, preprocessing = load_network(network_folder(folder / "sources", network))
    return RepresentationSource(f"{network}/{level}", ssl_network, level, preprocessing)
