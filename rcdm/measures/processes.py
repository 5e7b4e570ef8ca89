"""Work split over the processes that `accelerate launch` or `torchrun` has started; alone, all of it is one process's.

What is split are whole batches, the same ones whatever the number of processes: so the numbers are the same, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rcdm.diffusion.pipeline import RCDMPipeline

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class _Team:
    rank: int
    size: int
    group: Any


_team: ContextVar[_Team | None] = ContextVar("team", default=None)


def several() -> bool:
    """Whether this process is one of several, which whoever started them says in WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def first() -> bool:
    """Whether this is the first of the processes, which alone writes, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def meet() -> None:
    """Let the processes find each other, each with a device of its own; before anything is put on one."""
    if several() and not dist.is_initialized():
        from accelerate import PartialState

        PartialState()


@contextmanager
def sharing(pipe: RCDMPipeline) -> Iterator[None]:
    """Inside, in this thread, `over_processes` splits batches over the processes, and so does `pipe.draw`.

    All processes have to do the same calls in the same order; they wait for each other at the end. Alone, nothing
    changes.
    """
    if not several():
        yield
        return
    meet()
    team = _Team(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))
    token = _team.set(team)
    pipe.draw = _shared(pipe, pipe.draw)  # type: ignore[method-assign]
    try:
        yield
        dist.barrier(team.group)
    finally:
        del pipe.draw
        _team.reset(token)


def over_processes(batches: Sequence[Batch], compute: Callable[[Batch], Tensor]) -> Iterator[Tensor]:
    """`compute` of every batch, in order, one after the other; on the CPU where there are several processes.

    Inside `sharing` each process computes every n-th and is sent the others: in rounds, so that no more than a batch
    per process is in memory.
    """
    team = _team.get()
    if team is None:
        yield from map(compute, batches)
        return
    for begin in range(0, len(batches), team.size):
        turn = batches[begin : begin + team.size]
        own = _alone(compute, turn[team.rank]).detach().cpu() if team.rank < len(turn) else None
        for owner in range(len(turn)):
            sent = [own if owner == team.rank else None]
            dist.broadcast_object_list(sent, src=owner, group=team.group)
            assert sent[0] is not None
            yield sent[0]


def _alone(compute: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    """What this process computes by itself: nothing inside is split again."""
    token = _team.set(None)
    try:
        return compute(batch)
    finally:
        _team.reset(token)


def agreed(value: Any) -> Any:
    """What the first process says; inside `sharing` all have to ask."""
    team, said = _team.get(), [value]
    if team is not None:
        dist.broadcast_object_list(said, src=0, group=team.group)
    return said[0]


def _shared(pipe: RCDMPipeline, draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`RCDMPipeline.draw` in the batches that it has alone, each by one of the processes."""

    def drawn(h: Tensor | None, source: Any, seeds: Sequence[int], *, batch_size: int = 64, **more: Any) -> Tensor:
        if not len(seeds) or (h is not None and len(h) != len(seeds)):
            return draw(h, source, seeds, **more)  # which says what is wrong

        def some(start: int) -> Tensor:
            own = slice(start, start + batch_size)
            names = source if source is None or isinstance(source, str) else source[own]
            return draw(None if h is None else h[own], names, seeds[own], batch_size=batch_size, **more)

        return torch.cat(list(over_processes(range(0, len(seeds), batch_size), some))).to(pipe.device)

    return drawn
