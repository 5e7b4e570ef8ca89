"""What a run begins with: the denoiser, its optimizer, what it learns, and which source each image is for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import DistributedType
from diffusers import SchedulerMixin
from timm.optim import muon

from rcdm.diffusion.image_space import space_of
from rcdm.diffusion.official.convert import official_scheduler
from rcdm.diffusion.official.loss import VariationalLoss
from rcdm.diffusion.places import checkpoint_folder
from rcdm.diffusion.precision import multiplies_bfloat16
from rcdm.diffusion.process import Denoising, VelocityError, velocity_scheduler
from rcdm.diffusion.unet import RepresentationUNet, unet_arguments
from rcdm.networks.resolve import sources_of
from rcdm.networks.sources import Sources, read_sources
from rcdm.training.config import TrainingConfig
from rcdm.training.deepening import deepened
from rcdm.training.muon_together import orthogonalise_together

log = logging.getLogger(__name__)

FIRST = "unet.conv_in.weight"


def sources_for(config: TrainingConfig) -> Sources:
    """The networks that a run reads."""
    if config.backbone is not None:
        return sources_of(config.backbone, config.sources, reading=config.reading)
    return read_sources(Path(config.sources_dir), config.sources)


def new_unet(config: TrainingConfig, sources: Sources) -> RepresentationUNet:
    """A denoiser with initial weights, in float32 on the CPU."""
    return RepresentationUNet(sources.widths(), **network_arguments(config))


def network_arguments(config: TrainingConfig) -> dict[str, Any]:
    """What the options say about the network: arguments of RepresentationUNet, all but the sources."""
    space = {"kind": "pixels", "channels": 3, "patch": config.patch_size}
    arguments = unet_arguments(
        config.resolution,
        channels=config.channels,
        layers_per_block=config.layers_per_block,
        attention_resolutions=config.attention_resolutions,
        space=space_of(space),
    )
    arguments["in_channels"] += 3 * (config.coarse_size > 0)
    arguments["out_channels"] *= 1 + config.learn_sigma
    has_unconditional = config.representation_dropout > 0
    heads = config.attention_heads
    return {
        "unet_config": arguments,
        "space": space,
        "has_unconditional": has_unconditional,
        "projection_bias": not has_unconditional,  # with a bias there would be one unconditional denoiser per source
        "attention_heads": None if heads is None else (heads, heads),
        "coarse_size": config.coarse_size,
    }


def start_from(unet: RepresentationUNet, checkpoint: str, *, only_projections: bool = False) -> set[str]:
    """Copy the weights of a checkpoint's denoiser; sources that it does not know keep their initial ones.

    Returns the names of the tensors that were copied. More residual blocks than it has begin as identities, a way in
    for coarse images at zero. Raises ValueError when there is no such checkpoint, or its U-Net is of another shape
    otherwise; and with `only_projections` for either of the two, as they would stay so.
    """
    folder = checkpoint_folder(checkpoint)
    if folder is None:
        raise ValueError(f"There is no checkpoint {checkpoint!r} to start from.")
    learnt = RepresentationUNet.from_pretrained(folder / "unet").float()
    own, theirs = unet.state_dict(), learnt.state_dict()
    before, after = (one.unet.config.layers_per_block for one in (learnt, unet))
    coarse = bool(unet.config.coarse_size) and theirs[FIRST].shape[1] + 3 == own[FIRST].shape[1]
    if only_projections and (coarse or before < after):
        which = "--coarse_size" if coarse else "--layers_per_block"
        raise ValueError(f"With only_projections nothing else is learnt: leave {which} as {checkpoint} has it.")
    if before < after:
        theirs = deepened(theirs, own, before, after)
        log.warning(
            "%s has %d residual blocks per resolution: the further ones begin as identities.", checkpoint, before
        )
    if coarse:
        theirs[FIRST] = F.pad(theirs[FIRST], (0, 0, 0, 0, 0, 3))
        log.warning("%s has no coarse images: their way in begins at zero.", checkpoint)
    fitting = {name: weight for name, weight in theirs.items() if name in own and weight.shape == own[name].shape}
    missing = [name for name in own if name not in fitting and not name.endswith(".coarse")]
    if before > after or any(not name.startswith("projections.") for name in missing):
        raise ValueError(
            f"The denoiser of {checkpoint} has another shape than this run's: give the --channels, --layers_per_block, "
            "--attention_resolutions, --patch_size and --coarse_size that its training.json names."
        )
    unet.load_state_dict(fitting, strict=False)
    if new := sorted({name.split(".")[1].replace(":", ".") for name in missing}):
        log.warning("%s does not know %s: learned anew.", checkpoint, ", ".join(new))
    return set(fitting)


def optimizer_of(
    config: TrainingConfig, parameters: Iterable[torch.nn.Parameter], kind: DistributedType
) -> torch.optim.Optimizer:
    """torch's AdamW, or timm's Muon; raises ValueError for one that cannot work with parameters in shards."""
    lr, decay = config.learning_rate, config.adam_weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=True)
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError("muon needs whole matrices, which FSDP and DeepSpeed cut up: use adamw.")
    parameters = list(parameters)
    if parameters[0].device.type == "cuda":
        orthogonalise_together()
    if not multiplies_bfloat16(parameters[0].device):
        _orthogonalise_in_float32()
    return muon.Muon(parameters, lr=lr, weight_decay=decay, nesterov=True, betas=(0.9, 0.999))


def _orthogonalise_in_float32() -> None:
    """timm's Muon multiplies in bfloat16 and has no option for it: a CPU that lacks it takes seconds per matrix."""
    if not isinstance(muon.zeropower_via_newtonschulz, partial):
        muon.zeropower_via_newtonschulz = partial(muon.zeropower_via_newtonschulz, dtype=torch.float32)


def scheduler_of(config: TrainingConfig) -> SchedulerMixin:
    """The sampler, and with it the noise, of a run; with `learn_sigma` those of the released networks."""
    return official_scheduler() if config.learn_sigma else velocity_scheduler()


def objective_of(config: TrainingConfig, scheduler: SchedulerMixin, device: torch.device) -> Denoising:
    """What the denoiser learns: v, or with `learn_sigma` the noise and its variance."""
    if config.learn_sigma:
        return VariationalLoss(scheduler)
    return VelocityError(scheduler, device, config.snr_gamma)


def rotation_of(names: Sequence[str], more_of: Sequence[str]) -> list[str]:
    """The sources in the order in which images go round them; each mention in `more_of` is one more place."""
    if unknown := [name for name in more_of if name not in names]:
        raise ValueError(f"more_of: there is no source {unknown[0]!r}; choose of {', '.join(names)}.")
    return [name for name in names for _ in range(1 + list(more_of).count(name))]


def by_place(first: int, n: int, places: int) -> list[int]:
    """The n image numbers from `first` on, those of one place in the rotation together: image k has place k mod it."""
    return sorted(range(first, first + n), key=lambda number: number % places)
