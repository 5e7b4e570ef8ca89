"""The loop that both kinds of training share: step, watch the loss, look, save, and go on after an interruption."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from rcdm.training.budget import Budget, Clock, Progress
from rcdm.training.resume import load_state, save_state
from rcdm.training.throughput import count_flops, in_words

LONGEST_WAIT = timedelta(days=1)
"""For processes that wait while the first measures or writes alone: torch's 10 minutes end whole runs."""

_WATCHED = 20
"""Steps between two looks at the loss: it is read from the device no more often."""


class Diverged(RuntimeError):
    """The loss is no longer a finite number; the last state that was saved is whole."""


class Loop:
    """A run of steps within a budget. A kind of training adds what a step, a look and its words are.

    Args:
        accelerator, folder, budget: where it runs, where its states lie, when it ends.
        peak: the peak learning rate.
        images_per_step: of all processes together.
        minutes_between_saves, kept_states: how often a state is saved, and how many stay.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path,
        budget: Budget,
        *,
        peak: float,
        images_per_step: int,
        minutes_between_saves: float,
        kept_states: int,
    ) -> None:
        self.accelerator, self.folder, self.budget, self.peak = accelerator, folder, budget, peak
        self._images_per_step, self._kept_states = images_per_step, kept_states
        self._minutes_between_saves = minutes_between_saves
        self.progress = Progress()

    def step(self) -> Tensor:
        """One optimiser step; returns the loss (on the device, not synchronised)."""
        raise NotImplementedError

    def looks_now(self, seconds: float) -> bool:
        """Whether it is time for `look`, so many seconds after the last."""
        raise NotImplementedError

    def look(self) -> None:
        """Measure held-out images, and remember the record in `progress.history`."""
        raise NotImplementedError

    def shown(self, loss: float) -> dict[str, str]:
        """What stands beside the progress bar."""
        raise NotImplementedError

    def diverged(self, loss: float) -> str:
        """The sentence for a loss that is not finite."""
        raise NotImplementedError

    def saves_now(self, seconds: float) -> bool:
        """Whether it is time to save a state, so many seconds after the last."""
        return seconds > 60 * self._minutes_between_saves

    def trained(self) -> nn.Module:
        """What the steps move."""
        raise NotImplementedError

    def saves_at_end(self) -> bool:
        """Whether the last step leaves a state."""
        return True

    def loop(self, title: str | None = None) -> None:
        """Step until the budget is used up, saving and looking at held-out images on the way."""
        progress = self.progress
        bar = tqdm(
            total=self.budget.max_steps,
            initial=progress.step,
            desc=title,
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        clock, seconds_before = Clock(), progress.seconds
        last_save = last_look = 0.0
        losses: list[Tensor] = []
        while not self.finished:
            losses.append(self.step())
            progress.step += 1
            progress.images += self._images_per_step
            now = clock()
            progress.seconds = seconds_before + now
            bar.update()
            save = self.saves_now(now - last_save) or (self.finished and self.saves_at_end())
            look = self.looks_now(now - last_look)
            if save or look or progress.step % _WATCHED == 0 or self.finished:
                bar.set_postfix(self.shown(self._mean(losses)), refresh=False)
                losses = []
            if look:
                self.look()
                last_look = clock()
            if save:
                self._refuse_no_numbers()
                save_state(self.accelerator, self.folder, progress.step, keep=self._kept_states)
                last_save = now
        bar.close()

    @property
    def finished(self) -> bool:
        """Whether the steps or the minutes are used up."""
        return self.budget.finished(self.progress)

    def learning_rate(self) -> float:
        """That of the next step."""
        return self.peak * self.budget.rate(self.progress)

    def load(self, state: str) -> bool:
        """Continue from the `latest` or a named state; False where there is none yet."""
        return load_state(self.accelerator, self.folder, state)

    def throughput(self, backward: Callable[[], object], images: int) -> str:
        """Images per second, and the share of what this device multiplies at best; `backward` computes so many."""
        if not self.progress.seconds:
            return "There was nothing left to train."
        flops = count_flops(backward) / images
        per_second = self.progress.images / self.progress.seconds / self.accelerator.num_processes
        return in_words(per_second, flops, self.accelerator.device, self.accelerator.mixed_precision)

    def _refuse_no_numbers(self) -> None:
        """Raises Diverged, in all processes, where a weight of one is no number, though the loss still was one."""
        finite = all(bool(torch.isfinite(weight).all()) for weight in self.trained().parameters())
        whole = torch.tensor(float(finite), device=self.accelerator.device)
        if float(self.accelerator.reduce(whole, "mean")) < 1:
            raise Diverged(self.diverged(math.nan))

    def _mean(self, losses: list[Tensor]) -> float:
        """Over steps and processes: all of them agree on it. Raises Diverged where it is not finite."""
        loss = float(self.accelerator.reduce(torch.stack(losses).mean(), "mean"))
        if not math.isfinite(loss):
            raise Diverged(self.diverged(loss))
        return loss
