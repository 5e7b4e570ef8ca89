"""Pretrain a small backbone: images -> two views -> backbone -> projector -> SSL loss -> source folder."""

from __future__ import annotations

import copy
import logging
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from rcdm.data.dataset_protocol import Dataset, digest_of
from rcdm.data.sprites import Sprites
from rcdm.data.views import random_view
from rcdm.diffusion.memory import keep_freed_memory
from rcdm.measures.metrics import effective_rank, finite, singular_values
from rcdm.networks.backbones import build_backbone
from rcdm.networks.representation import Preprocessing, SSLNetwork
from rcdm.networks.source_folder import load_network, read_config, save_network
from rcdm.ssl.objectives import OBJECTIVES, SimCLR
from rcdm.ssl.optimizers import OPTIMIZERS, groups
from rcdm.ssl.pretraining_config import HARMLESS, PretrainConfig
from rcdm.ssl.source_metrics import knn, pieces
from rcdm.training.budget import Budget, Progress
from rcdm.training.loop import LONGEST_WAIT, Loop
from rcdm.training.mixed_precision import precision_of
from rcdm.training.resume import lacks_room, remains, saved_states
from rcdm.training.run_folder import alone_in, check_settings, remember_left_out, remember_settings

log = logging.getLogger(__name__)

EIGENVALUES = (1, 4, 16, 64, 256)
"""Ranks of those that a run remembers."""


def pretrain(dataset: Dataset, config: PretrainConfig, folder: Path, *, resume: bool = False) -> SSLNetwork:
    """Train backbone and projector together and write the source folder; returns them in eval mode.

    States of the run lie in `folder` until it is finished; with `resume` it continues from the last whole one. What
    happens in step k depends on (seed, k) alone. Of several processes each has a batch of its own, and the loss is over
    that batch: gradients are averaged, but negatives and covariances are not gathered. Raises ValueError for an unknown
    name or a folder that is in use, and Diverged when the loss is not finite.
    """
    for name, registry in ((config.objective, OBJECTIVES), (config.optimizer, OPTIMIZERS)):
        if name not in registry:
            raise ValueError(f"There is no {name!r}; choose one of {', '.join(registry)}.")
    if OBJECTIVES[config.objective].needs_labels and dataset.classes < 2:
        raise ValueError(
            f"{config.objective} needs labels: images in one sub-folder per class, a column `label`, or .cls files."
        )
    if dataset.n_train is not None and OBJECTIVES[config.objective].views == 2 and config.batch_size > dataset.n_train:
        raise ValueError(
            f"batch_size must be at most {dataset.n_train}, as many as there are training images: in one of "
            f"{config.batch_size} some would be their own negatives."
        )
    if not resume and (saved_states(folder) or (folder / "model.safetensors").exists()):
        raise ValueError(f"{folder} is in use: continue with --resume, or choose another name.")
    keep_freed_memory()
    with alone_in(folder):
        config = replace(config, mixed_precision=precision_of(config.mixed_precision))
        settings = {**asdict(config), "resolution": dataset.size, "training images (digest)": digest_of(dataset)}
        continued = resume and bool(saved_states(folder))
        if continued:
            check_settings(folder, settings, HARMLESS)
        else:
            remember_settings(folder, settings)
        remember_left_out(folder, dataset)
        run = _Run(dataset, config, folder)
        if continued:
            run.load("latest")
        run.loop(folder.name)
        return run.finish()


class _Learner(nn.Module):
    """What is trained in one forward pass: backbone, projector, objective, and a linear probe that only looks on."""

    def __init__(self, dataset: Dataset, config: PretrainConfig) -> None:
        super().__init__()
        self.backbone = build_backbone("small_resnet", **config.architecture())
        width = 8 * config.width
        objective = OBJECTIVES[config.objective]
        options = {"temperature": config.temperature} if issubclass(objective, SimCLR) else {}
        self.objective = objective(width, config.projector_dim, dataset.classes, config.projector_hidden_dim, **options)
        self.probe = nn.Linear(width, dataset.classes)
        self.target: SSLNetwork | None = None
        if self.objective.momentum is not None:
            self.target = SSLNetwork(copy.deepcopy(self.backbone), copy.deepcopy(self.objective.projector))
            deactivate_requires_grad(self.target)

    def forward(self, views: Tensor, labels: Tensor) -> Tensor:
        """Views [V*B,3,H,W], one after the other, and labels [B] -> loss (scalar); the probe's is added to it."""
        h = self.backbone(views)
        z = self.objective.projector(h)
        targets = None
        if self.target is not None:
            with torch.no_grad():
                seen_a, seen_b = self.target(views).float().chunk(2)
            targets = (seen_a, seen_b)
        with torch.autocast(views.device.type, enabled=False):  # the losses are sums over a batch: in full precision
            z, n = z.float(), len(labels)
            loss = self.objective(z[:n], z[-n:], labels, targets)
            return loss + F.cross_entropy(self.probe(h[:n].detach().float()), labels)

    def network(self) -> SSLNetwork:
        return SSLNetwork(self.backbone, self.objective.projector)


class _Run(Loop):
    """The pieces of one pretraining run and what is done with them."""

    def __init__(self, dataset: Dataset, config: PretrainConfig, folder: Path) -> None:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision, kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)]
        )
        super().__init__(
            accelerator,
            folder,
            Budget(config.max_steps, config.max_minutes, config.warmup_steps),
            peak=config.learning_rate * config.batch_size * accelerator.num_processes / 256,
            images_per_step=config.batch_size * accelerator.num_processes,
            minutes_between_saves=config.checkpointing_minutes,
            kept_states=1,
        )
        self.config, self.device = config, accelerator.device
        self.knn = ""
        self.dataset = dataset.to(self.device)
        torch.manual_seed(config.seed)
        learner = _Learner(dataset, config)
        self.before = _begin_with(learner, Path(config.start_from)) if config.start_from is not None else None
        if self.accelerator.num_processes > 1 and self.device.type == "cuda":  # torch has it for GPUs alone
            learner = nn.SyncBatchNorm.convert_sync_batchnorm(learner)
        self.layout = _layout(learner, self.device)
        learner.to(self.device).to(memory_format=self.layout)
        optimizer = OPTIMIZERS[config.optimizer](groups(learner, config.weight_decay), self.peak)
        self.learner, self.optimizer = self.accelerator.prepare(learner, optimizer)
        self.step_module = torch.compile(self.learner) if config.compile else self.learner
        self.accelerator.register_for_checkpointing(self.progress)

    def looks_now(self, seconds: float) -> bool:
        return seconds > 60 * self.config.monitor_minutes

    def saves_at_end(self) -> bool:
        return False  # `finish` writes the network instead

    def trained(self) -> nn.Module:
        return self.learner

    def look(self) -> None:
        self.knn = f"{self._measure()['knn20']:.3f}"

    def shown(self, loss: float) -> dict[str, str]:
        words = {"loss": f"{loss:.3f}", "images/s": f"{self.progress.images / self.progress.seconds:.0f}"}
        return words | ({"kNN": self.knn} if self.knn else {})

    def diverged(self, loss: float) -> str:
        return f"The loss of {self.folder.name} is {loss} at step {self.progress.step}; lower the learning rate."

    def step(self) -> Tensor:
        """One optimiser step on two views of a batch; the slow network follows. Returns the loss (scalar)."""
        accelerator = self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        views, labels = self._views(self.progress.images // self.config.batch_size)
        loss = self.step_module(views, labels)
        accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        learner = accelerator.unwrap_model(self.learner)
        if learner.target is not None:
            share = min(1.0, self.budget.share(self.progress))
            slow = 1 - (1 - learner.objective.momentum) * 0.5 * (1 + math.cos(math.pi * share))  # to 1 at the end
            update_momentum(learner.backbone, learner.target.backbone, slow)
            update_momentum(learner.objective.projector, learner.target.projector, slow)
        return loss.detach()

    def _views(self, first: int) -> tuple[Tensor, Tensor]:
        """The views of this process's batch of a step whose first is this one, one after the other [V*B,3,H,W], and the
        labels [B]. Batches are counted, not steps: with more processes, or fewer, none comes again."""
        place = first + self.accelerator.process_index
        objective = self.accelerator.unwrap_model(self.learner).objective
        n = self.config.batch_size
        pool = max(n, 8 * self.dataset.classes) if objective.pairs_by_label else 0
        batch = self.dataset.batch(place, n + pool)
        images, labels = batch.images[:n], batch.labels[:n]
        stream = torch.Generator(self.device).manual_seed((self.config.seed + 1) * 1_000_003 + place)
        early = self.budget.share(self.progress) < 0.5
        size = self.config.early_size if early else None
        views = [random_view(images, self.config.views, stream, size)]
        if objective.views == 2:
            if objective.pairs_by_label:
                images = batch.images[_partners(batch.labels, n, stream)]
            views.append(random_view(images, self.config.views, stream, size))
        return torch.cat(views).contiguous(memory_format=self.layout), labels

    @torch.no_grad()
    def _measure(self) -> dict[str, float]:
        """kNN and the online linear probe on at most 2000 held-out images, against 10,000 training images.

        With them how many directions are in use: effective rank of h and of z (the projector's, of unit length), and
        single eigenvalues of the covariance of z.
        """
        learner = self.accelerator.unwrap_model(self.learner).eval()
        held_out = self.dataset.held_out(2000)
        bank = [(self._encode(learner, few.images), few.labels) for few in pieces(self.dataset, 10_000)]
        h, labels = (torch.cat(parts) for parts in zip(*bank, strict=True))
        test = torch.cat([self._encode(learner, part) for part in held_out.images.split(500)])
        nearest = knn(h, labels, test, held_out.labels, self.dataset.classes)
        linear = (learner.probe(test).argmax(1) == held_out.labels).float().mean()
        z = F.normalize(learner.objective.projector(test), dim=1)
        learner.train()
        record = {"step": float(self.progress.step), "knn20": nearest.value, "online_linear_top1": float(linear)}
        record |= {"effective_rank": effective_rank(test), "projector_effective_rank": effective_rank(z)}
        eigenvalues = singular_values(z).square() / (len(z) - 1)
        record |= {f"eigenvalue_{k}": float(eigenvalues[k - 1]) for k in EIGENVALUES if k <= len(eigenvalues)}
        self.progress.history.append(record)
        return record

    def _encode(self, learner: _Learner, images: Tensor) -> Tensor:
        with self.accelerator.autocast():
            return learner.backbone(images.contiguous(memory_format=self.layout)).float()

    def finish(self) -> SSLNetwork:
        """Write the source folder, print how fast the run was, and remove its states."""
        learner = self.accelerator.unwrap_model(self.learner)
        if self.progress.step:
            self._measure()
            speed = self._speed()
            if self.accelerator.is_main_process:
                log.warning("%s: %s", self.folder.name, speed)
        network = learner.network().eval().requires_grad_(False)
        if self.accelerator.is_main_process:
            try:
                save_source(self.folder, network, self.dataset, self.config, self.progress, self.before)
            except Exception as error:
                if not lacks_room(error):
                    raise
                raise ValueError(f"There is no room on the disk for the network. {remains(self.folder)}") from error
            for state in saved_states(self.folder):
                shutil.rmtree(state)
        self.accelerator.wait_for_everyone()
        return network

    def _speed(self) -> str:
        """Images per second, and the share of what this device multiplies at best."""
        views, labels = self._views(0)
        few = max(2, len(labels) // 8)
        views = torch.cat([part[:few] for part in views.chunk(len(views) // len(labels))])
        learner = self.accelerator.unwrap_model(self.learner).train()
        state = copy.deepcopy(learner.state_dict())
        words = self.throughput(lambda: learner(views, labels[:few]).backward(), few)
        learner.zero_grad(set_to_none=True)
        learner.load_state_dict(state)
        return words


def _begin_with(learner: _Learner, folder: Path) -> Any:
    """Take backbone and projector from a source folder; how they were trained, where it says so.

    Raises ValueError when they are of another shape.
    """
    network, _ = load_network(folder)
    if not isinstance(network, SSLNetwork) or network.projector is None:
        raise ValueError(f"{folder} holds no backbone with a projector to start from.")
    try:
        learner.backbone.load_state_dict(network.backbone.state_dict())
        learner.objective.projector.load_state_dict(network.projector.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"The network in {folder} has another shape than this run's: give the width, blocks, stem stride and "
            "projector that its config.json names."
        ) from error
    if learner.target is not None:
        learner.target.load_state_dict(learner.network().state_dict())
    return read_config(folder).get("training")


def _layout(network: nn.Module, device: torch.device) -> torch.memory_format:
    """channels_last is faster; but with fewer than 8 channels torch 2.14 corrupts memory on CPUs without AVX-512."""
    narrowest = min(part.out_channels for part in network.modules() if isinstance(part, nn.Conv2d))
    return torch.channels_last if device.type == "cuda" or narrowest >= 8 else torch.contiguous_format


def _partners(labels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """For each of the first n rows a later one with the same label, int64 [n]; itself where there is none.

    Partners are no rows of the batch itself: there, each would be a negative of the pair that it belongs to.
    """
    same = labels[:n, None] == labels[None, n:]
    alone = ~same.any(1)
    chosen = torch.multinomial((same | alone[:, None]).float(), 1, generator=generator)[:, 0] + n
    return torch.where(alone, torch.arange(n, device=labels.device), chosen)


def save_source(
    folder: Path,
    network: SSLNetwork,
    dataset: Dataset,
    config: PretrainConfig,
    progress: Progress,
    before: Any = None,
) -> None:
    """Write the source folder of a pretrained backbone, with how it came about; `network` takes the saved precision.

    `before` is the record of the run that left the weights it began with.
    """
    for parameter in network.parameters():
        if parameter.ndim > 1:  # matrices and kernels are shipped as fp16
            parameter.data = parameter.data.half().float()
    save_network(
        folder,
        network,
        {
            "architecture": "small_resnet",
            "arguments": config.architecture(),
            "levels": list(network.levels()),
            "preprocessing": asdict(Preprocessing(dataset.size)),
            "training": {
                "data": dataset.name,
                **asdict(config),
                "steps": progress.step,
                "images": progress.images,
                "epochs": round(progress.images / dataset.n_train, 2) if dataset.n_train else None,
                "seconds": round(progress.seconds),
                "history": finite(progress.history),
                **({"before": before} if before else {}),
            },
            "licence": "MIT" if isinstance(dataset, Sprites) else f"the terms of the training data, {dataset.name}",
        },
    )
