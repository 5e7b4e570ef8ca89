"""The options of a training run, with their help texts: the command line is made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rcdm.networks.reading import Reading

PRECISIONS = ("no", "bf16", "fp16", "auto")
"""Of training."""

FEWEST = 10
"""Images that a regression of guesses can be learnt on."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def check_precision(name: str) -> None:
    """Raises ValueError for a name that is none of PRECISIONS."""
    if name not in PRECISIONS:
        raise ValueError(f"mixed_precision must be one of {', '.join(PRECISIONS)}, and is {name!r}.")


def check_counts(options: Any, least: Mapping[str, int]) -> None:
    """Raises ValueError for a whole number below 1, or below what `least` says of it, and for a run of no minutes."""
    for option in fields(options):
        value, low = getattr(options, option.name), least.get(option.name, 1)
        for number in value if isinstance(value, tuple) else [value]:
            if isinstance(number, int) and not isinstance(number, bool) and number < low:
                raise ValueError(f"{option.name} must be at least {low}, and is {number}.")
        if option.name in ("max_minutes", "max_train_minutes") and value is not None and not value > 0:
            raise ValueError(f"{option.name} must be more than 0, and is {value:g}.")


_ANY = -(2**63)
LEAST = {"coarse_size": _ANY, "lr_warmup_steps": 0, "regressor_images": _ANY, "seed": _ANY}
"""The least that may be asked for, where that is not 1; or any number, where more is asked of it below."""


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that a run depends on; the names follow the training scripts of diffusers."""

    sources_dir: str = _option("", "folder with one source folder per network (see `rcdm pretrain`)")
    backbone: str | None = _option(
        None,
        "instead of sources_dir: published network, checkpoint file or folder, TIMM_NAME=FILE, hf://OWNER/NAME or "
        "package.module:function",
    )
    reading: Reading = field(default=Reading(), metadata={"help": "how a file given as backbone is read"})
    share_sources: bool = _option(
        False, "refer to the networks in sources_dir, by their digest, instead of copying them"
    )
    output_dir: str = _option("", "where the run and, at its end, the checkpoint are written")
    train_data_dir: str = _option(
        "sprites", "'sprites', a folder of images, of .parquet files or of .tar shards, or hf://datasets/OWNER/NAME"
    )
    pretrained_model_name_or_path: str | None = _option(None, "checkpoint to start from; other sources begin anew")
    only_projections: bool = _option(
        False, "learn the way from each representation into the denoiser alone, which stays as it is: minutes on a CPU"
    )
    sources: tuple[str, ...] = _option((), "NETWORK/LEVEL …, or LEVEL …; by default backbone and projector of each")
    more_of: tuple[str, ...] = _option((), "NETWORK/LEVEL …: one more share of the images for each mention")
    resolution: int = _option(32, "side of the images in pixels, a multiple of patch_size x 2^(number of channels - 1)")
    channels: tuple[int, ...] = _option((48, 96, 160), "channels at each resolution of the U-Net")
    layers_per_block: int = _option(1, "residual blocks per resolution")
    attention_resolutions: tuple[int, ...] = _option((8,), "sizes of the feature maps that attend")
    attention_heads: int | None = _option(
        None,
        "heads of every attention layer; by default one per 64 channels, or per as many as the narrowest level has",
    )
    patch_size: int = _option(2, "pixels per side that form one position of the U-Net")
    coarse_size: int = _option(
        0,
        "side of the coarse image that a regression reads from h for the denoiser, so that colours and layout need "
        "not be learnt from noise; 0: none",
    )
    learn_sigma: bool = _option(
        False, "predict the noise and its variance on the linear schedule, as the released networks do, instead of v"
    )
    train_batch_size: int = _option(64, "images per process and step")
    gradient_accumulation_steps: int = _option(1, "batches per optimiser step")
    max_train_steps: int | None = _option(None, "stop after this many optimiser steps")
    max_train_minutes: float | None = _option(None, "stop after this many minutes, with a finished schedule")
    optimizer: str = _option("adamw", "adamw, or muon (Jordan et al. 2024): every update of a matrix orthogonalised")
    learning_rate: float = _option(8e-4, "peak learning rate of the optimizer")
    lr_warmup_steps: int = _option(200, "steps of linear warm-up; a cosine to zero follows")
    adam_weight_decay: float = _option(0.0, "weight decay of the optimizer")
    max_grad_norm: float = _option(1.0, "gradients are clipped to this norm")
    representation_dropout: float = _option(
        0.1, "share of images drawn without their representation; 0: no guidance, no unconditional draws"
    )
    random_flip: bool = _option(False, "mirror half of the images, for the source and for the denoiser alike")
    cache_representations: bool = _option(True, "compute the representations of images in memory once, beforehand")
    representations_dir: str | None = _option(
        None, "keep the representations in this folder instead, for data of any size; later runs read them from there"
    )
    snr_gamma: float | None = _option(
        None,
        "weaken the loss where little noise is left (min-SNR, Hang et al. 2023): max(min(snr, GAMMA) / (snr + 1), 0.1)",
    )
    ema_decay: float = _option(0.999, "decay of the averaged weights that are shipped")
    mixed_precision: str = _option("no", "no, bf16, fp16, or auto: bf16 where the hardware multiplies it, else no")
    compile: bool = _option(False, "compile the denoiser: pays on a GPU, costs minutes on a CPU")
    seed: int = _option(0, "fixes images, noise and initial weights")
    num_inference_steps: int = _option(10, "denoising steps in validation, and the default of the checkpoint")
    whiten_representations: bool = _option(
        False,
        "learn what narrow directions hold as soon as what wide ones do: for a representation of which a probe reads "
        "more than the draws keep",
    )
    regressor_images: int = _option(
        1024,
        "training images on which the finished denoiser learns a regression of what its guesses miss of h: "
        "`--guidance-strength 1` leads draws by it; 0: none",
    )
    num_statistics_images: int = _option(4096, "images that fix mean and covariance of the representations")
    checkpointing_minutes: float = _option(5.0, "minutes between saved states")
    checkpointing_steps: int | None = _option(None, "save a state every so many steps, too")
    checkpoints_total_limit: int = _option(2, "how many saved states are kept")
    validation_steps: int = _option(2000, "steps between validations (cycle error, MRR, a picture)")
    num_validation_images: int = _option(64, "held-out images of a validation")
    resume_from_checkpoint: str | None = _option(None, "'latest' or the name of a saved state")
    report_to: str | None = _option(None, "tracker, for instance tensorboard")

    def __post_init__(self) -> None:
        if not (self.sources_dir or self.backbone) or not self.output_dir:
            raise ValueError("Say where the sources are (sources_dir, or backbone) and where to write (output_dir).")
        if self.max_train_steps is None and self.max_train_minutes is None:
            raise ValueError("Say how long to train: max_train_steps, max_train_minutes, or both.")
        if self.share_sources and self.backbone is not None:
            raise ValueError("share_sources refers to the networks of sources_dir: leave it out with backbone.")
        if self.only_projections and self.pretrained_model_name_or_path is None:
            raise ValueError("only_projections needs a denoiser that has learnt: give pretrained_model_name_or_path.")
        if self.learn_sigma and self.snr_gamma is not None:
            raise ValueError("snr_gamma weights the error of v: leave it out with learn_sigma.")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer must be adamw or muon, and is {self.optimizer!r}.")
        check_precision(self.mixed_precision)
        check_counts(self, LEAST)
        if self.num_inference_steps > 1000:
            raise ValueError(f"num_inference_steps must be at most 1000, and is {self.num_inference_steps}.")
        if self.resolution < 1 or self.resolution % (unit := self.patch_size * 2 ** (len(self.channels) - 1)):
            raise ValueError(f"resolution must be a multiple of {unit} with these channels, and is {self.resolution}.")

        if self.regressor_images != 0 and self.regressor_images < FEWEST:
            raise ValueError(f"regressor_images must be 0 or at least {FEWEST}, and is {self.regressor_images}.")
        if not 0 <= self.coarse_size <= self.resolution:
            raise ValueError(f"coarse_size must be from 0 to {self.resolution} pixels, and is {self.coarse_size}.")


HARMLESS = (
    "output_dir", "sources_dir", "train_data_dir", "representations_dir", "cache_representations", "max_train_steps",
    "max_train_minutes", "checkpointing_minutes", "checkpointing_steps", "checkpoints_total_limit", "validation_steps",
    "num_validation_images", "resume_from_checkpoint", "report_to", "num_inference_steps", "share_sources", "compile",
    "pretrained_model_name_or_path", "regressor_images", "learning_rate", "lr_warmup_steps", "max_grad_norm",
)  # fmt: skip
"""Options that may change when a run is continued: how long it is, where things lie, what is looked at, and how it goes
on from here, as after a loss that was no number."""


_ADM = {
    "patch_size": 1,
    "layers_per_block": 2,
    "attention_resolutions": (32, 16, 8),
    "attention_heads": 4,
    "learn_sigma": True,
    "representation_dropout": 0.0,
    "learning_rate": 1e-4,
    "lr_warmup_steps": 1000,
    "ema_decay": 0.9999,
    "num_inference_steps": 100,
}
_SMALL = {"layers_per_block": 2, "random_flip": True, "learning_rate": 2e-4, "lr_warmup_steps": 1000}

PRESETS: dict[str, dict[str, Any]] = {
    "adm-64": {**_ADM, "resolution": 64, "channels": (256, 512, 768, 1024)},
    "adm-128": {**_ADM, "resolution": 128, "channels": (256, 256, 512, 768, 1024)},
    "adm-256": {**_ADM, "resolution": 256, "channels": (256, 256, 512, 512, 1024, 1024)},
    "small-64": {
        **_SMALL,
        "resolution": 64,
        "patch_size": 1,
        "channels": (64, 128, 192),
        "attention_resolutions": (16,),
        "ema_decay": 0.9995,
    },
    "small-128": {
        **_SMALL,
        "resolution": 128,
        "patch_size": 2,
        "channels": (96, 192, 288, 384),
        "attention_resolutions": (16, 8),
        "ema_decay": 0.9995,
    },
}
"""Name -> what differs from the defaults of TrainingConfig.

`adm-*` is the network of the released RCDMs and their loss: 256 channels times the multipliers of that image size, four
heads, learned variance, never a dropped representation; `adm-128` has 422,603,782 parameters for a representation of
2048. Ours are: representations are standardised, the learning rate warms up and ends in a cosine, gradients are
clipped, timesteps are spread evenly, the average begins at once, and initial weights are those of diffusers.
"""
