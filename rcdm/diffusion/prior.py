"""What draws without a representation: a checkpoint of ours, or an unconditional pipeline of diffusers on pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import SchedulerMixin

from rcdm.diffusion.checked_folder import check_fit, check_foreign_prior
from rcdm.diffusion.checkpoints import load
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.places import find
from rcdm.diffusion.process import Process
from rcdm.diffusion.unet import RepresentationUNet
from rcdm.networks.checked_files import read_object, read_tensors, shapes_of


@dataclass(frozen=True)
class Prior:
    """An unconditional denoiser with its noise.

    Args:
        unet: `unet(x_t, t).sample`. scheduler: of its noise.
        folder: where it was loaded from. trained_on: name of its data, where it says so.
    """

    unet: RepresentationUNet
    scheduler: SchedulerMixin
    folder: Path
    trained_on: str = ""


def load_prior(name: str | Path) -> Prior:
    """A name, folder or hub id -> the prior, in float32 on the CPU.

    Raises ValueError, with what to do, for what cannot draw without a representation.
    """
    if str(name).startswith("official/"):
        raise ValueError(f"{name} never learned to draw without a representation, so it is no prior: take another one.")
    folder = find(name)
    index = read_object(folder / "model_index.json")
    if "sources" not in index:
        return _foreign(folder, str(name))
    pipe: RCDMPipeline = load(folder, device="cpu")
    if not pipe.unet.config.has_unconditional:
        raise ValueError(f"{name} never learned to draw without a representation, so it is no prior: take another one.")
    return Prior(pipe.unet, pipe.components["scheduler"], folder, pipe.config.trained_on)


def _foreign(folder: Path, name: str) -> Prior:
    """A pipeline folder of diffusers: its UNet2DModel is ours with an embedding that is always zero."""
    arguments, weights, noise = check_foreign_prior(folder)
    config = {"sources": {}, "unet_config": {**arguments, "class_embed_type": "identity"}}
    with torch.device("meta"):
        blank = RepresentationUNet(**config).unet
    check_fit(blank, {_today(name): shape for name, shape in shapes_of(weights).items()}, weights[0])
    unet = RepresentationUNet(**config)
    for file in weights:
        tensors = {_today(name): tensor for name, tensor in read_tensors(file).items()}
        unet.unet.load_state_dict(tensors, strict=False)  # one of several files; `check_fit` saw all
    Process(noise)  # refuses timesteps that name no noise
    return Prior(unet.eval().requires_grad_(False), noise, folder, f"the data of {name}")


def _today(name: str) -> str:
    """The name that a tensor of an attention layer has today: they were query, key, value and proj_attn."""
    found = re.fullmatch(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", name)
    if found is None:
        return name
    now = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}[found[2]]
    return f"{found[1]}.{now}.{found[3]}"
