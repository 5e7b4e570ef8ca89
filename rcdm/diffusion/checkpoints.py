"""Checkpoints by name: a folder, one that is shipped, or a repository of the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from rcdm.diffusion.memory import keep_freed_memory
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.places import checkpoint_folder, find
from rcdm.diffusion.precision import warn_of_emulation
from rcdm.networks.representation import RepresentationSource
from rcdm.networks.resolve import is_network, source_of
from rcdm.networks.source_folder import load_network
from rcdm.networks.sources import network_folder


def folder_of(pipe: RCDMPipeline) -> Path | None:
    """The local folder that a pipeline was loaded from, or None."""
    return checkpoint_folder(pipe.config._name_or_path or "") if "_name_or_path" in pipe.config else None


def world_of(pipe: RCDMPipeline) -> Path | None:
    """The local folder that says what images a pipeline draws: its own or, where it is guided, that of its prior."""
    return checkpoint_folder(pipe.config.prior) if pipe.config.get("prior") else folder_of(pipe)


def load(
    name: str | Path,
    *,
    device: torch.device | str | None = None,
    scheduler: str | None = None,
    mixed_precision: str = "no",
) -> RCDMPipeline:
    """A shipped name, a folder or a name of the hub -> RCDMPipeline in float32, on a GPU if there is one.

    `official/simclr-backbone` and its like are the networks released with the paper: downloaded and converted once.
    `scheduler` draws with another one of diffusers than the checkpoint's own (`RCDMPipeline.use_scheduler`);
    `mixed_precision` "bf16" draws with the U-Net in bfloat16. Raises ValueError, listing what there is, when a name
    means nothing.
    """
    if checkpoint_folder(name) is None and str(name).startswith("official/"):
        from rcdm.diffusion.official.released import official_folder

        folder = official_folder(str(name).removeprefix("official/"))
    else:
        folder = find(name)
    device = usable(device or best_device())
    keep_freed_memory()
    pipe = RCDMPipeline.from_pretrained(folder)
    pipe.unet.float().eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipe.use_scheduler(scheduler)
    pipe.unet.use_mixed_precision(mixed_precision)
    warn_of_emulation(mixed_precision, device)
    return pipe.to(device)


def save_guidance(pipe: RCDMPipeline, folder: Path) -> None:
    """Write the guidance of a pipeline, and what it needs, into a checkpoint's folder, and nothing else.

    The regressor is kept where truth has refused it, too, for calls that ask for it.
    """
    regressor = pipe.regressor
    place, beside = folder / "regressor", folder / "regressor.partial"
    if regressor is not None:
        shutil.rmtree(beside, ignore_errors=True)
        regressor.save_pretrained(beside)
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
    index = folder / "model_index.json"
    content = json.loads(index.read_text())
    content |= {name: pipe.config[name] for name in ("guidance_scales", "guidance_interval", "guidance_strengths")}
    content["regressor"] = ["rcdm", "Regressor"] if regressor is not None else [None, None]
    partial = index.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    partial.replace(index)
    if regressor is None:
        shutil.rmtree(place, ignore_errors=True)


def best_device() -> str:
    """Where a checkpoint goes when nobody says."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable(device: torch.device | str) -> torch.device | str:
    """The device. Raises ValueError where torch knows no such device, or has none here."""
    try:
        torch.empty(1, device=device)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"There is no device {str(device)!r} here: leave it out, or take cpu ({first}).") from error
    return device


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
