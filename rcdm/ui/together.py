"""Jobs of several users on one device: what they ask of one denoiser is computed as one batch.

A pipeline knows nothing of it: `share` wraps its denoiser, and its drawing, from outside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
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


class SharedCalls:
    """The jobs under way on a device: what they ask of a denoiser is computed together.

    A call of the denoiser is made once all jobs that draw wait for one, so a job joins the others at their next step
    and leaves them at any, whatever its number of steps is, and a job alone computes what it would without this.

    Args:
        lanes: calls made at once, which then share the jobs among them. On a GPU 1; on a CPU its cores, because calls
            on one core each are through sooner than one after the other on all (benchmarks/).
    """

    def __init__(self, lanes: int = 1) -> None:
        self._lanes, self._threads = lanes, torch.get_num_threads()
        self._changed = threading.Condition()
        self._drawing = 0  # jobs that draw: that wait, are being answered, or will soon ask again
        self._alone = 0  # jobs that draw by calls of their own
        self._waiting: list[_Call] = []
        self._answered = [0] * lanes  # jobs whose call is being made, per lane

    @contextmanager
    def job(self) -> Iterator[None]:
        """Calls of a denoiser that are made inside, in this thread, are made together with those of other jobs."""
        _here.shared, _here.drawing = self, False
        self.share_cores()
        try:
            yield
        finally:
            _here.shared = None

    def expect(self, job: bool, *, alone: bool = False) -> None:
        """The others wait from now on for the calls of the job of this thread, or no more; `alone`, it goes on."""
        before, _here.expected = getattr(_here, "expected", (False, False)), (job, alone)
        if before == (job, alone):
            return
        with self._changed:
            self._drawing += job - before[0]
            self._alone += alone - before[1]
            self._changed.notify_all()

    def wait_for(self, call: _Call) -> None:
        """Add a call of the job of this thread, and return when it is done."""
        with self._changed:
            self._waiting.append(call)
            while not call.done:
                calls = self._next()
                if not calls:
                    self._changed.wait()
                    continue
                lane = self._answered.index(0)
                self._answered[lane] = len(calls)
                self._changed.release()
                try:
                    self.share_cores()
                    for batch in _batches(calls):
                        _answer(batch)
                finally:
                    self._changed.acquire()
                    self._answered[lane] = 0
                    self._changed.notify_all()

    def _next(self) -> list[_Call]:
        """The calls that a lane should make now; none while it had better wait for more."""
        share = -(-self._drawing // self._lanes)
        all_there = len(self._waiting) + sum(self._answered) >= self._drawing
        if 0 not in self._answered or not (all_there or len(self._waiting) >= share):
            return []
        calls, self._waiting = self._waiting[:share], self._waiting[share:]
        return calls

    def share_cores(self) -> None:
        """Let this thread compute on its part of the cores: the setting is one per thread."""
        threads = max(1, self._threads // max(1, min(self._lanes, self._drawing) + self._alone))
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def drawing() -> Iterator[None]:
    """What asks a denoiser again and again should do so inside: the other jobs then wait for each of its calls."""
    shared: SharedCalls | None = getattr(_here, "shared", None)
    if shared is None or _here.drawing:
        yield
        return
    _here.drawing = True
    shared.expect(True)
    try:
        yield
    finally:
        _here.drawing = False
        shared.expect(False)


def share(pipe: Any) -> None:
    """Let jobs share the denoiser of an RCDMPipeline: in a job its calls are made together with those of others."""
    network, draw = pipe.unet.unet, pipe.draw

    def forward(*arguments: Any, **options: Any) -> Any:
        return type(network).forward(network, *arguments, **options)

    def shared_forward(sample: Tensor, timestep: Tensor | float | int, class_labels: Tensor) -> Any:
        return SimpleNamespace(sample=call(forward, sample, timestep, class_labels))

    def shared_draw(*arguments: Any, **options: Any) -> Tensor:
        with drawing():
            drawn: Tensor = draw(*arguments, **options)
            return drawn

    network.forward, pipe.draw = shared_forward, shared_draw


def call(network: Callable[..., Any], x: Tensor, timestep: Tensor | float | int, embedding: Tensor) -> Tensor:
    """`network(x, timestep, class_labels=embedding).sample`, [B,C,H,W]; in a job perhaps with the images of others.

    With a gradient it is made alone, and nobody waits for its like: where draws are guided by regression.
    """
    shared: SharedCalls | None = getattr(_here, "shared", None)
    if shared is not None and torch.is_grad_enabled():
        shared.expect(False, alone=True)
        shared.share_cores()
    if shared is None or torch.is_grad_enabled():
        out: Tensor = network(x, timestep, class_labels=embedding).sample
        return out
    asked = _Call(network, x, timestep, embedding)
    with drawing():
        shared.expect(True)
        shared.wait_for(asked)
    if asked.error is not None:
        raise asked.error
    assert asked.answer is not None
    return asked.answer


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
