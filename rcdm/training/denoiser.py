"""Train the denoiser: images -> representations -> denoising loss -> checkpoint folder."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, ProjectConfiguration
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from rcdm.data.dataset_protocol import Dataset, digest_of
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.checked_folder import UNFINISHED, unfinished
from rcdm.diffusion.memory import keep_freed_memory
from rcdm.diffusion.model_card import set_aside
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.process import random_numbers, spread_evenly
from rcdm.diffusion.whitening import folded
from rcdm.measures.faithfulness import comparison_grid, faithfulness
from rcdm.measures.metrics import finite
from rcdm.networks.sources import Sources, refuse_far_sources, share_networks
from rcdm.training.budget import Budget
from rcdm.training.channel_norm import compile_for
from rcdm.training.config import HARMLESS, TrainingConfig
from rcdm.training.held_out_error import HELD_OUT, held_out_error
from rcdm.training.leading import learn_to_lead
from rcdm.training.loop import LONGEST_WAIT, Loop
from rcdm.training.mixed_precision import precision_of
from rcdm.training.representation_folder import cache_for
from rcdm.training.resume import lacks_room, remains, saved_states
from rcdm.training.run_folder import alone_in, check_settings, remember_left_out, remember_settings
from rcdm.training.setup import (
    by_place,
    new_unet,
    objective_of,
    optimizer_of,
    rotation_of,
    scheduler_of,
    sources_for,
    start_from,
)
from rcdm.training.statistics import set_statistics

log = logging.getLogger(__name__)

ALL_WARM_UP = "The run ends at step %d, within its warm-up: lower --lr_warmup_steps, or train longer."
LARGEST_FILE = "15MB"
"""The weights of a checkpoint are split into files of at most this size, as those of its networks are."""


def train(config: TrainingConfig) -> Path:
    """Train until the steps or the minutes are used up; returns the checkpoint folder that `rcdm.load` opens.

    Every random number of image k of the run comes from a stream seeded with (seed, k). So an interrupted run that is
    resumed ends with the same weights, and so do, up to rounding, one process and several that share its batch. Raises
    Diverged when the loss is not finite, leaving the last good checkpoint.
    """
    keep_freed_memory()
    with alone_in(Path(config.output_dir)):
        return _train(replace(config, mixed_precision=precision_of(config.mixed_precision)))


def _train(config: TrainingConfig) -> Path:
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.report_to,
        project_config=ProjectConfiguration(config.output_dir, logging_dir=str(Path(config.output_dir) / "logs")),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )
    if config.share_sources:
        refuse_far_sources(Path(config.sources_dir), Path(config.output_dir))
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    dataset = load_dataset(config.train_data_dir, config.resolution, seed=config.seed)
    remember_left_out(Path(config.output_dir), dataset)
    digest_of(dataset)  # while the images are in this memory; it is kept
    sources = sources_for(config).to(accelerator.device)
    run = _Run(config, accelerator, dataset, sources)
    run.resume()
    if run.finished:
        if accelerator.is_main_process:
            log.warning(
                "%s has run to its end (%d steps): to go on, give more --max_train_steps or --max_train_minutes.",
                config.output_dir,
                run.progress.step,
            )
        if run.is_exported():
            return run.folder
    if accelerator.is_main_process and config.report_to:
        accelerator.init_trackers("rcdm", config={k: str(v) for k, v in asdict(config).items()})
    if accelerator.is_main_process and (config.max_train_steps or config.lr_warmup_steps) < config.lr_warmup_steps:
        log.warning(ALL_WARM_UP, config.max_train_steps)
    run.loop()
    if accelerator.is_main_process and config.max_train_steps is None and run.progress.step < config.lr_warmup_steps:
        log.warning(ALL_WARM_UP, run.progress.step)
    folder = run.export()
    speed = run.speed()
    if accelerator.is_main_process:
        log.warning("%s", speed)
    accelerator.end_training()
    return folder


class _Run(Loop):
    """The pieces of one training run and what is done with them."""

    def __init__(self, config: TrainingConfig, accelerator: Accelerator, dataset: Dataset, sources: Sources) -> None:
        self.rotation = rotation_of(sources.names, config.more_of)
        if config.train_batch_size < len(self.rotation):
            raise ValueError(f"train_batch_size must be at least {len(self.rotation)}: every batch covers all sources.")
        batch = config.train_batch_size * config.gradient_accumulation_steps
        super().__init__(
            accelerator,
            Path(config.output_dir),
            Budget(config.max_train_steps, config.max_train_minutes, config.lr_warmup_steps),
            peak=config.learning_rate,
            images_per_step=batch * accelerator.num_processes,
            minutes_between_saves=config.checkpointing_minutes,
            kept_states=config.checkpoints_total_limit,
        )
        self.config, self.sources = config, sources
        self.dataset = dataset.to(accelerator.device)
        unet = new_unet(config, sources)
        begun, known = config.pretrained_model_name_or_path, set[str]()
        if begun is not None:
            known = start_from(unet, begun, only_projections=config.only_projections)
        unet.unet.requires_grad_(not config.only_projections)
        self.space = unet.space
        self.cache = cache_for(config, sources, self.dataset)
        set_statistics(unet, config, sources, self.dataset, self.cache, known)
        unet.to(accelerator.device).to(memory_format=_memory_format(accelerator.device, config.compile))
        if config.compile:
            compile_for(unet.unet, accelerator.device)
        optimizer = optimizer_of(
            config, [p for p in unet.parameters() if p.requires_grad], accelerator.distributed_type
        )
        if accelerator.state.deepspeed_plugin is not None:  # it cannot see a data loader
            deepspeed = accelerator.state.deepspeed_plugin.deepspeed_config
            deepspeed["train_micro_batch_size_per_gpu"] = config.train_batch_size
        self.unet, self.optimizer = accelerator.prepare(unet, optimizer)
        self.sharded = accelerator.distributed_type == DistributedType.FSDP
        self.ema = self._new_average()
        accelerator.register_for_checkpointing(self.progress, *([] if self.sharded else [self.ema]))
        self.scheduler = scheduler_of(config)
        self.objective = objective_of(config, self.scheduler, accelerator.device)

    def saves_now(self, seconds: float) -> bool:
        every = self.config.checkpointing_steps
        return super().saves_now(seconds) or bool(every and self.progress.step % every == 0)

    def trained(self) -> nn.Module:
        return self.unet

    def looks_now(self, seconds: float) -> bool:
        return self.progress.step % self.config.validation_steps == 0

    def shown(self, loss: float) -> dict[str, str]:
        self.accelerator.log({"loss": loss, "lr": self.learning_rate()}, step=self.progress.step)
        return {"loss": f"{loss:.4f}", "lr": f"{self.learning_rate():.1e}"}

    def diverged(self, loss: float) -> str:
        return (
            f"The loss is {loss} at step {self.progress.step}; the last good checkpoint is kept in {self.folder}. "
            "Resume from it with a lower learning rate."
        )

    def speed(self) -> str:
        """How fast the run was, in words."""
        words = self.throughput(
            lambda: self.accelerator.backward(self._loss(self._place(0))), self.config.train_batch_size
        )
        self.optimizer.zero_grad(set_to_none=True)
        return words

    def step(self) -> Tensor:
        """One optimiser step over all micro-batches; the average follows. Returns their mean loss (scalar)."""
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        total = torch.zeros((), device=accelerator.device)
        for micro in range(config.gradient_accumulation_steps):
            with accelerator.accumulate(self.unet):
                loss = self._loss(self._place(micro))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.unet.parameters(), config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            total += loss.detach() / config.gradient_accumulation_steps
        self.ema.step(self.unet.parameters())
        return total

    def _place(self, micro: int) -> int:
        """Which batch of the run this process takes next; `micro` counts those of one optimiser step.

        Counted by images: a run that goes on with more processes, or fewer, repeats none.
        """
        first = self.progress.images // self.config.train_batch_size
        return first + micro * self.accelerator.num_processes + self.accelerator.process_index

    def _loss(self, place: int) -> Tensor:
        """Mean error for the batch at this place of the run, every image at a timestep of its own."""
        config, device = self.config, self.accelerator.device
        batch = self.dataset.batch(place, config.train_batch_size)
        numbers = by_place(place * config.train_batch_size, len(batch.images), len(self.rotation))
        names = [self.rotation[number % len(self.rotation)] for number in numbers]
        order = torch.tensor(numbers, device=device) - place * config.train_batch_size
        images = batch.images[order]
        space = self.space
        noise, uniform = random_numbers(config.seed, numbers, space.shape(config.resolution), device)
        t = self.objective.timesteps(spread_evenly(config.seed, numbers, len(self.rotation)).to(device))
        drop = uniform[:, 0] < config.representation_dropout
        flipped = uniform[:, 1] < (0.5 if config.random_flip else 0)
        if config.random_flip:
            images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)
        if self.cache is not None and batch.rows is not None:
            representation = self.cache(names, batch.rows[order], flipped if config.random_flip else None)
        else:
            representation = self.sources.encode(images, names)
        x0 = space.encode(images)
        x_t = self.objective.noisy(x0, t, noise).contiguous(memory_format=_memory_format(device, self.config.compile))
        out = self.unet(x_t, t, representation, names, drop=drop).sample.float()
        return self.objective.error(out, x0, t, noise).mean()

    def resume(self) -> None:
        """Continue from `resume_from_checkpoint`; a damaged checkpoint is passed over for the one before it."""
        wish = self.config.resume_from_checkpoint
        if wish is None and saved_states(self.folder):
            raise ValueError(
                f"{self.folder} holds a run already: continue it with --resume_from_checkpoint latest, "
                "or choose another output_dir."
            )
        if wish is not None:
            check_settings(self.folder, self._settings(), HARMLESS)
        if wish is None or not self.load(wish):
            remember_settings(self.folder, self._settings())
            return
        if self.sharded:  # each process has a part, and a state would keep that of the main process alone
            log.warning("The averaged weights begin anew from the present ones.")
            self.ema = self._new_average()
        self.ema.to(self.accelerator.device)

    def _settings(self) -> dict[str, Any]:
        """What a run that is continued must have again: options, networks, images."""
        networks = {name.partition("/")[0]: name for name in self.sources.names}
        digests = {f"{network} (digest)": self.sources.fingerprint(name)[:16] for network, name in networks.items()}
        return {**asdict(self.config), **digests, "training images (digest)": digest_of(self.dataset)}

    def _new_average(self) -> EMAModel:
        """Averaged weights that begin with the present ones; torch cannot copy lists of sharded tensors at once."""
        return EMAModel(self.unet.parameters(), decay=self.config.ema_decay, foreach=not self.sharded)

    def _averaged(self) -> RCDMPipeline:
        """A pipeline whose denoiser is a copy with the averaged weights: on the main process, but all have to ask."""
        unet = new_unet(self.config, self.sources)
        self.ema.store(self.unet.parameters())
        self.ema.copy_to(self.unet.parameters())
        try:
            state = self.accelerator.get_state_dict(self.unet)
            if self.accelerator.is_main_process:
                unet.load_state_dict(folded(state))
        finally:
            self.ema.restore(self.unet.parameters())
        unet.to(self.accelerator.device).eval()
        pipe = RCDMPipeline(
            unet, self.scheduler, self.sources, self.config.num_inference_steps, trained_on=self.dataset.name
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def look(self) -> None:
        """Cycle error and MRR on held-out images, and a grid of draws: what the loss does not show."""
        pipe = self._averaged()
        if self.accelerator.is_main_process:
            self._monitor(pipe)
        self.accelerator.wait_for_everyone()

    def _monitor(self, pipe: RCDMPipeline) -> None:
        """Error, cycle error and MRR on held-out images, and a grid of draws: what the loss does not show."""
        held_out = self.dataset.held_out(self.config.num_validation_images).images
        record = {"step": float(self.progress.step), "images": float(self.progress.images)}
        record["held_out_error"] = held_out_error(pipe, self.objective, self.dataset.held_out(HELD_OUT).images)
        for name in self.sources.names:
            numbers = faithfulness(pipe, held_out, name)
            record |= {f"{name} {key}": number.value for key, number in numbers.items()}
        self.progress.history.append(record)
        self.accelerator.log(record, step=self.progress.step)
        log.warning("validation: %s", {key: round(value, 3) for key, value in record.items()})
        grid = comparison_grid(pipe, held_out[:6])
        target = self.folder / "validation" / f"step-{self.progress.step:07d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        grid.save(target)

    def export(self) -> Path:
        """Write the averaged weights as a pipeline folder (fp16 safetensors) into `output_dir`; returns it."""
        pipe = self._averaged()
        if self.accelerator.is_main_process:
            try:
                with unfinished(self.folder):
                    self._write(pipe)
            except Exception as error:
                if not lacks_room(error):
                    raise
                raise ValueError(f"There is no room on the disk for the checkpoint. {remains(self.folder)}") from error
            learn_to_lead(pipe, self.dataset, self.config.regressor_images, self.folder)
        self.accelerator.wait_for_everyone()
        return self.folder

    def is_exported(self) -> bool:
        """Whether the checkpoint of these weights is whole: then it stays, with the guidance that was chosen since."""
        led = not self.config.regressor_images or (self.folder / "regressor").is_dir()
        if not led or not (self.folder / "model_index.json").is_file() or (self.folder / UNFINISHED).exists():
            return False
        step: int = json.loads((self.folder / "training.json").read_text())["step"]
        return step == self.progress.step

    def _write(self, pipe: RCDMPipeline) -> None:
        training = {
            "config": {k: v for k, v in asdict(self.config).items() if not k.endswith("_dir")},
            "data": self.dataset.name,
            "images_digest": digest_of(self.dataset),
            **self.progress.state_dict(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        if old := set_aside(self.folder):
            log.warning(
                "Of the weights before are: %s. `rcdm evaluate %s` measures these.", ", ".join(old), self.folder
            )
        (self.folder / "training.json").write_text(json.dumps(finite(training), indent=2, allow_nan=False) + "\n")
        pipe.unet.half()
        pipe.save_pretrained(self.folder, max_shard_size=LARGEST_FILE)
        if self.config.share_sources:
            share_networks(self.folder / "sources", Path(self.config.sources_dir))


def _memory_format(device: torch.device, compiled: bool) -> torch.memory_format:
    """channels_last feeds tensor cores; on a CPU only what is compiled is not slower with it (benchmarks/)."""
    return torch.channels_last if device.type == "cuda" or compiled else torch.contiguous_format
