"""Train the denoiser: images -> representations -> denoising loss -> checkpoint folder."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers import DPMSolverMultistepScheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm

from rcdm.budget import Budget, Progress
from rcdm.checkpoints import checkpoint_folder
from rcdm.datasets import Dataset, Photographs, load_dataset
from rcdm.faithfulness import comparison_grid, faithfulness
from rcdm.memory import keep_freed_memory
from rcdm.networks import sources_of
from rcdm.pipeline import RCDMPipeline
from rcdm.representation_cache import RepresentationCache
from rcdm.resume import load_state, save_state, saved_states
from rcdm.sources import Sources, read_sources, share_networks
from rcdm.throughput import count_flops, in_words
from rcdm.training_config import TrainingConfig
from rcdm.unet import RepresentationUNet, unet_arguments

log = logging.getLogger(__name__)

LARGEST_FILE = "15MB"
"""The weights of a checkpoint are split into files of at most this size, as those of its networks are."""


class TrainingDiverged(RuntimeError):
    """The loss is no longer a finite number."""


def make_scheduler() -> DPMSolverMultistepScheduler:
    """v-prediction, zero terminal SNR, trailing steps (Lin et al. 2023), DPM-Solver++ with x0 clipped to [-1,1]."""
    return DPMSolverMultistepScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        thresholding=True,
        sample_max_value=1.0,
    )


def train(config: TrainingConfig) -> Path:
    """Train until the steps or the minutes are used up; returns the checkpoint folder that `rcdm.load` opens.

    Every random number of step k comes from a stream seeded with (seed, k), so an interrupted run that is resumed ends
    with the same weights. Raises TrainingDiverged when the loss is not finite, leaving the last good checkpoint.
    """
    keep_freed_memory()
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.report_to,
        project_config=ProjectConfiguration(config.output_dir, logging_dir=str(Path(config.output_dir) / "logs")),
    )
    torch.manual_seed(config.seed)
    dataset = load_dataset(config.train_data_dir, config.resolution, seed=config.seed)
    if config.backbone is not None:
        sources = sources_of(config.backbone, config.sources).to(accelerator.device)
    else:
        sources = read_sources(Path(config.sources_dir), config.sources).to(accelerator.device)
    run = _Run(config, accelerator, dataset, sources)
    run.resume()
    if accelerator.is_main_process and config.report_to:
        accelerator.init_trackers("rcdm", config={k: str(v) for k, v in asdict(config).items()})
    run.loop()
    log.warning("%s", run.throughput())
    accelerator.end_training()
    return run.export()


class _Run:
    """The pieces of one training run and what is done with them."""

    def __init__(self, config: TrainingConfig, accelerator: Accelerator, dataset: Dataset, sources: Sources) -> None:
        if config.train_batch_size < len(sources.names):
            raise ValueError(f"train_batch_size must be at least {len(sources.names)}: every batch covers all sources.")
        self.config, self.accelerator, self.sources = config, accelerator, sources
        self.dataset = dataset.to(accelerator.device)
        self.folder = Path(config.output_dir)
        self.budget = Budget(config.max_train_steps, config.max_train_minutes, config.lr_warmup_steps)
        unet = _new_unet(config, sources)
        if config.pretrained_model_name_or_path is not None:
            _start_from(unet, config.pretrained_model_name_or_path)
        self.cache: RepresentationCache | None = None
        if isinstance(dataset, Photographs) and config.cache_representations:
            self.cache = RepresentationCache(sources, dataset, mirrored=config.random_flip)
        for name, (mean, std) in self._statistics().items():
            unet.set_statistics(name, mean, std)
        unet.to(accelerator.device).to(memory_format=_memory_format(accelerator.device))
        if config.compile:
            unet.unet.compile()
        optimizer = torch.optim.AdamW(
            unet.parameters(), lr=config.learning_rate, weight_decay=config.adam_weight_decay, fused=True
        )
        self.ema = EMAModel(unet.parameters(), decay=config.ema_decay, foreach=True)
        self.progress = Progress()
        self.unet, self.optimizer = accelerator.prepare(unet, optimizer)
        accelerator.register_for_checkpointing(self.progress, self.ema)
        self.scheduler = make_scheduler()
        self.signal = self.scheduler.alphas_cumprod.sqrt().to(accelerator.device)
        self.names = sorted(sources.names[i % len(sources.names)] for i in range(config.train_batch_size))

    def loop(self) -> None:
        """Step until the budget is used up, saving and looking at held-out images on the way."""
        config, progress, accelerator = self.config, self.progress, self.accelerator
        bar = tqdm(
            total=config.max_train_steps, initial=progress.step, unit="step", disable=not accelerator.is_main_process
        )
        begun, seconds_before = time.monotonic(), progress.seconds
        last_save = begun
        losses: list[Tensor] = []
        while not self._finished():
            losses.append(self._step())
            progress.step += 1
            progress.images += config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
            progress.seconds = seconds_before + time.monotonic() - begun
            bar.update()
            by_steps = config.checkpointing_steps and progress.step % config.checkpointing_steps == 0
            save = by_steps or time.monotonic() - last_save > 60 * config.checkpointing_minutes
            validate = progress.step % config.validation_steps == 0
            if save or validate or progress.step % 20 == 0 or self._finished():
                loss = self._mean_loss(losses)
                bar.set_postfix(loss=f"{loss:.4f}", lr=f"{self._learning_rate():.1e}")
                accelerator.log({"loss": loss, "lr": self._learning_rate()}, step=progress.step)
                losses = []
            if validate:
                self._validate()
            if save or self._finished():
                save_state(accelerator, self.folder, progress.step, keep=config.checkpoints_total_limit)
                last_save = time.monotonic()
        bar.close()

    def throughput(self) -> str:
        """Images per second, and the share of what this device multiplies at best."""
        if not self.progress.seconds:
            return "There was nothing left to train."
        flops = count_flops(lambda: self.accelerator.backward(self._loss(0))) / self.config.train_batch_size
        self.optimizer.zero_grad(set_to_none=True)
        per_second = self.progress.images / self.progress.seconds / self.accelerator.num_processes
        return in_words(per_second, flops, self.accelerator.device, self.config.mixed_precision)

    def _finished(self) -> bool:
        return self.budget.finished(self.progress)

    def _learning_rate(self) -> float:
        return self.config.learning_rate * self.budget.rate(self.progress)

    def _step(self) -> Tensor:
        """One optimiser step; returns the loss (on the device, not synchronised)."""
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        total = torch.zeros((), device=accelerator.device)
        for micro in range(config.gradient_accumulation_steps):
            place = self.progress.step * config.gradient_accumulation_steps + micro
            place = place * accelerator.num_processes + accelerator.process_index
            with accelerator.accumulate(self.unet):
                loss = self._loss(place)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.unet.parameters(), config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            total += loss.detach() / config.gradient_accumulation_steps
        self.ema.step(self.unet.parameters())
        return total

    def _loss(self, place: int) -> Tensor:
        """Mean squared error of v at uniform timesteps for the batch at this place of the run."""
        config, device = self.config, self.accelerator.device
        stream = torch.Generator(device).manual_seed((config.seed + 1) * 1_000_003 + place)
        batch = self.dataset.batch(place, config.train_batch_size)
        images, n = batch.images, len(batch.images)
        noise = torch.randn(images.shape, generator=stream, device=device)
        t = torch.randint(len(self.signal), (n,), generator=stream, device=device)
        drop = torch.rand(n, generator=stream, device=device) < config.representation_dropout
        flipped = torch.rand(n, generator=stream, device=device) < (0.5 if config.random_flip else 0)
        if config.random_flip:
            images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)
        if self.cache is not None and batch.rows is not None:
            representation = self.cache(self.names, batch.rows, flipped if config.random_flip else None)
        else:
            representation = self.sources.encode(images, self.names)
        signal = self.signal[t].view(-1, 1, 1, 1)
        sigma = (1 - signal**2).sqrt()
        noisy = (signal * images + sigma * noise).contiguous(memory_format=_memory_format(device))
        v = self.unet(noisy, t, representation, self.names, drop=drop).sample.float()
        error = (v - (signal * noise - sigma * images)).square().mean((1, 2, 3))
        if config.snr_gamma is not None:
            snr = (signal / sigma.clamp(min=1e-8)).flatten() ** 2
            error = error * (snr.clamp(max=config.snr_gamma) / (snr + 1)).clamp(min=0.1)
        return error.mean()

    def _statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and deviation [D] of every source over training images; each network runs once."""
        names = self.sources.names
        if self.cache is not None:
            return {name: self.cache.statistics(name) for name in names}
        images = self.dataset.batch(0, self.config.num_statistics_images).images
        parts = [self.sources.encode_all(chunk) for chunk in images.split(256)]
        h = {name: torch.cat([part[name] for part in parts]) for name in names}
        return {name: (h[name].mean(0), h[name].std(0)) for name in names}

    def _mean_loss(self, losses: list[Tensor]) -> float:
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"The loss is {loss} at step {self.progress.step}; the last good checkpoint is kept in {self.folder}. "
                "Resume from it with a lower learning rate."
            )
        return loss

    def resume(self) -> None:
        """Continue from `resume_from_checkpoint`; a damaged checkpoint is passed over for the one before it."""
        wish = self.config.resume_from_checkpoint
        if wish is None and saved_states(self.folder):
            raise ValueError(
                f"{self.folder} holds a run already: continue it with --resume_from_checkpoint latest, "
                "or choose another output_dir."
            )
        if wish is not None and load_state(self.accelerator, self.folder, wish):
            self.ema.to(self.accelerator.device)

    def _with_ema(self, use: Callable[[RCDMPipeline], None]) -> None:
        """Call `use` with a pipeline that holds the averaged weights."""
        unet = self.accelerator.unwrap_model(self.unet)
        self.ema.store(unet.parameters())
        self.ema.copy_to(unet.parameters())
        steps, data = self.config.num_inference_steps, self.dataset.name
        pipe = RCDMPipeline(unet.eval(), self.scheduler, self.sources, steps, data)
        pipe.set_progress_bar_config(disable=True)
        try:
            use(pipe)
        finally:
            self.ema.restore(unet.parameters())
            unet.train()

    def _validate(self) -> None:
        if self.accelerator.is_main_process:
            self._with_ema(self._monitor)
        self.accelerator.wait_for_everyone()

    def _monitor(self, pipe: RCDMPipeline) -> None:
        """Cycle error and MRR on held-out images, and a grid of draws: what the loss does not show."""
        held_out = self.dataset.held_out(self.config.num_validation_images).images
        record = {"step": float(self.progress.step)}
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
        if self.accelerator.is_main_process:
            self._with_ema(self._write)
        self.accelerator.wait_for_everyone()
        return self.folder

    def _write(self, pipe: RCDMPipeline) -> None:
        pipe.save_pretrained(self.folder)
        if self.config.share_sources:
            share_networks(self.folder / "sources", Path(self.config.sources_dir))
        half = _new_unet(self.config, self.sources)
        half.load_state_dict(pipe.unet.state_dict())
        half.half().save_pretrained(self.folder / "unet", max_shard_size=LARGEST_FILE)
        training = {
            "config": {k: v for k, v in asdict(self.config).items() if not k.endswith("_dir")},
            "data": self.dataset.name,
            **self.progress.state_dict(),
        }
        (self.folder / "training.json").write_text(json.dumps(training, indent=2) + "\n")


def _memory_format(device: torch.device) -> torch.memory_format:
    """channels_last feeds tensor cores; on a CPU the plain layout trains 1.3 times as fast (benchmarks/)."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def _new_unet(config: TrainingConfig, sources: Sources) -> RepresentationUNet:
    arguments = unet_arguments(
        config.resolution,
        channels=config.channels,
        layers_per_block=config.layers_per_block,
        attention_resolutions=config.attention_resolutions,
        patch_size=config.patch_size,
    )
    return RepresentationUNet(sources.widths(), arguments, patch_size=config.patch_size)


def _start_from(unet: RepresentationUNet, checkpoint: str) -> None:
    """Copy the weights of a checkpoint's denoiser. Raises ValueError when it is of another shape."""
    folder = checkpoint_folder(checkpoint)
    if folder is None:
        raise ValueError(f"There is no checkpoint {checkpoint!r} to start from.")
    try:
        unet.load_state_dict(RepresentationUNet.from_pretrained(folder / "unet").float().state_dict())
    except RuntimeError as error:
        raise ValueError(f"The denoiser of {checkpoint} has another shape than this run's: {error}") from error
