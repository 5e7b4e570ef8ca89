"""The denoiser that a run begins with: what its options say, or the weights of a checkpoint."""

from __future__ import annotations

import logging
from typing import Any

from rcdm.diffusion.checkpoints import checkpoint_folder
from rcdm.diffusion.unet import RepresentationUNet, unet_arguments
from rcdm.networks.sources import Sources
from rcdm.training.config import TrainingConfig

log = logging.getLogger(__name__)


def new_unet(config: TrainingConfig, sources: Sources) -> RepresentationUNet:
    """A denoiser with initial weights, in float32 on the CPU."""
    return RepresentationUNet(sources.widths(), **network_arguments(config))


def network_arguments(config: TrainingConfig) -> dict[str, Any]:
    """What the options say about the network: arguments of RepresentationUNet, all but the sources."""
    arguments = unet_arguments(
        config.resolution,
        channels=config.channels,
        layers_per_block=config.layers_per_block,
        attention_resolutions=config.attention_resolutions,
        patch_size=config.patch_size,
    )
    arguments["out_channels"] *= 1 + config.learn_sigma
    has_unconditional = config.representation_dropout > 0
    heads = config.attention_heads
    return {
        "unet_config": arguments,
        "patch_size": config.patch_size,
        "has_unconditional": has_unconditional,
        "projection_bias": not has_unconditional,  # with a bias there would be one unconditional denoiser per source
        "attention_heads": None if heads is None else (heads, heads),
    }


def start_from(unet: RepresentationUNet, checkpoint: str) -> None:
    """Copy the weights of a checkpoint's denoiser; sources that it does not know keep their initial ones.

    Raises ValueError when there is no such checkpoint, or its U-Net is of another shape.
    """
    folder = checkpoint_folder(checkpoint)
    if folder is None:
        raise ValueError(f"There is no checkpoint {checkpoint!r} to start from.")
    own, found = unet.state_dict(), RepresentationUNet.from_pretrained(folder / "unet").float().state_dict()
    fitting = {name: weight for name, weight in found.items() if name in own and weight.shape == own[name].shape}
    missing = [name for name in own if name not in fitting]
    if any(not name.startswith("projections.") for name in missing):
        raise ValueError(
            f"The denoiser of {checkpoint} has another shape than this run's: give the --channels, --layers_per_block, "
            "--attention_resolutions and --patch_size that its training.json names."
        )
    unet.load_state_dict(fitting, strict=False)
    if new := sorted({name.split(".")[1].replace(":", ".") for name in missing}):
        log.warning("%s does not know %s: learned anew.", checkpoint, ", ".join(new))
