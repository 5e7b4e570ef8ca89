"""Jobs of several users on one device: they take turns, and what they ask of one denoiser is computed as one batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST = 64  # images in one call of a denoiser, where several ask; who asks for more alone gets it

_here = threading.local()


@dataclass
class _Call:
    """What one job asks of a network, and the answer or the error once it is `done`."""

    network: Callable[..., Any]
    x: Tensor
    timestep: Tensor | float | int
    embedding: Tensor
    answer: Tensor | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None

    def fits(self, other: _Call) -> bool:
        """Whether both can be rows of one batch."""
        alike = self.x.shape[1:] == other.x.shape[1:] and self.x.dtype == other.x.dtype
        return self.network is other.network and alike and self.x.device == other.x.device


class Turns:
    """Who may use a device: one job works while the others wait; a job that waits for a denoiser lets the next one in.

    Once all of them wait, the denoiser is called for all together. So a job joins the others at their next step
    and leaves them at any, whatever its number of steps is, and a job alone computes what it would without this.
    """

    def __init__(self) -> None:
        self._turn = threading.Condition(threading.Lock())
        self._count = threading.Lock()
        self._jobs = 0  # that work or wait for anything
        self._calls: list[_Call] = []

    @contextmanager
    def job(self) -> Iterator[None]:
        """What is done inside has the device to itself, except while it waits for a denoiser."""
        self._add(1)  # before the turn is asked for: else who has it would find itself alone, and never give it up
        with self._turn:
            _here.turns = self
            try:
                yield
            finally:
                _here.turns = None
                self._add(-1)
                self._turn.notify_all()

    def _add(self, jobs: int) -> None:
        with self._count:
            self._jobs += jobs

    def wait_for(self, call: _Call) -> None:
        """Add a call of the job of this thread, and return when it is done."""
        self._calls.append(call)
        while not call.done:
            if len(self._calls) == self._jobs:
                calls, self._calls = self._calls, []
                for batch in _batches(calls):
                    _answer(batch)
                self._turn.notify_all()
            else:
                self._turn.wait()


def call(network: Callable[..., Any], x: Tensor, timestep: Tensor | float | int, embedding: Tensor) -> Tensor:
    """`network(x, timestep, class_labels=embedding).sample`, [B,C,H,W]; in a job perhaps with the images of others."""
    turns: Turns | None = getattr(_here, "turns", None)
    if turns is None or torch.is_grad_enabled():
        out: Tensor = network(x, timestep, class_labels=embedding).sample
        return out
    wanted = _Call(network, x, timestep, embedding)
    turns.wait_for(wanted)
    if wanted.error is not None:
        raise wanted.error
    assert wanted.answer is not None
    return wanted.answer


def _batches(calls: Sequence[_Call]) -> list[list[_Call]]:
    """Calls that fit together, at most MOST images each."""
    batches: list[list[_Call]] = []
    for one in calls:
        for batch in batches:
            if batch[0].fits(one) and sum(len(c.x) for c in batch) + len(one.x) <= MOST:
                batch.append(one)
                break
        else:
            batches.append([one])
    return batches


def _answer(batch: Sequence[_Call]) -> None:
    """Call the network once for all; an error is that of all."""
    try:
        if len(batch) == 1:
            (one,) = batch
            one.answer = one.network(one.x, one.timestep, class_labels=one.embedding).sample
            return
        x, embedding = torch.cat([c.x for c in batch]), torch.cat([c.embedding for c in batch])
        steps = torch.cat([torch.as_tensor(c.timestep, device=c.x.device).expand(len(c.x)) for c in batch])
        out = batch[0].network(x, steps, class_labels=embedding).sample
        for c, answer in zip(batch, out.split([len(c.x) for c in batch]), strict=True):
            c.answer = answer
    except Exception as error:
        for c in batch:
            c.error = error
