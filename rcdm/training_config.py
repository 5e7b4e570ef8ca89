"""The options of a training run, with their help texts: the command line is made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that a run depends on; the names follow the training scripts of diffusers."""

    sources_dir: str = _option("", "folder with one source folder per network (see `rcdm pretrain`)")
    backbone: str | None = _option(
        None, "instead of sources_dir: published network, checkpoint file, TIMM_NAME=FILE or package.module:function"
    )
    share_sources: bool = _option(
        False, "refer to the networks in sources_dir, by their digest, instead of copying them"
    )
    output_dir: str = _option("", "where the run and, at its end, the checkpoint are written")
    train_data_dir: str = _option("sprites", "'sprites', a folder of images, a parquet file or a folder of them")
    pretrained_model_name_or_path: str | None = _option(None, "checkpoint whose denoiser the run starts from")
    sources: tuple[str, ...] = _option((), "NETWORK/LEVEL …, or LEVEL …; by default backbone and projector of each")
    resolution: int = _option(32, "side of the images in pixels")
    channels: tuple[int, ...] = _option((48, 96, 160), "channels at each resolution of the U-Net")
    layers_per_block: int = _option(1, "residual blocks per resolution")
    attention_resolutions: tuple[int, ...] = _option((8,), "sizes of the feature maps that attend")
    patch_size: int = _option(2, "pixels per side that form one position of the U-Net")
    train_batch_size: int = _option(64, "images per process and step")
    gradient_accumulation_steps: int = _option(1, "batches per optimiser step")
    max_train_steps: int | None = _option(None, "stop after this many optimiser steps")
    max_train_minutes: float | None = _option(None, "stop after this many minutes, with a finished schedule")
    learning_rate: float = _option(8e-4, "peak learning rate of AdamW")
    lr_warmup_steps: int = _option(200, "steps of linear warm-up; a cosine to zero follows")
    adam_weight_decay: float = _option(0.0, "weight decay of AdamW")
    max_grad_norm: float = _option(1.0, "gradients are clipped to this norm")
    representation_dropout: float = _option(0.1, "share of images drawn without their representation")
    random_flip: bool = _option(False, "mirror half of the images, for the source and for the denoiser alike")
    cache_representations: bool = _option(True, "compute the representations of photographs once, before training")
    snr_gamma: float | None = _option(None, "weight max(min(snr, GAMMA) / (snr + 1), 0.1) instead of 1")
    ema_decay: float = _option(0.999, "decay of the averaged weights that are shipped")
    mixed_precision: str = _option("no", "no, bf16 or fp16")
    compile: bool = _option(False, "compile the denoiser: pays on a GPU, costs minutes on a CPU")
    seed: int = _option(0, "fixes images, noise and initial weights")
    num_inference_steps: int = _option(12, "denoising steps in validation, and the default of the checkpoint")
    num_statistics_images: int = _option(4096, "images that fix the mean and deviation of the representations")
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
