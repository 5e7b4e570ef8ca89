"""How long a run lasts, by steps or by minutes, and a learning rate that ends with it."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint. `history` holds the monitor's records."""

    step: int = 0
    seconds: float = 0.0
    images: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


@dataclass(frozen=True)
class Budget:
    """The end of a run: so many steps, so many minutes, or whichever comes first.

    Raises ValueError when neither is given.
    """

    max_steps: int | None
    max_minutes: float | None
    warmup_steps: int

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_minutes is None:
            raise ValueError("Say how long to train: a number of steps, of minutes, or both.")

    def share(self, progress: Progress) -> float:
        """Share of the budget that is used, of the steps or of the minutes, whichever is further; 1 is the end."""
        by_steps = progress.step / self.max_steps if self.max_steps else 0.0
        by_time = progress.seconds / (60 * self.max_minutes) if self.max_minutes else 0.0
        return max(by_steps, by_time)

    def finished(self, progress: Progress) -> bool:
        return self.share(progress) >= 1

    def rate(self, progress: Progress) -> float:
        """Factor of the peak learning rate: linear warm-up, then a cosine that reaches zero when the budget ends."""
        warm = min(1.0, (progress.step + 1) / max(1, self.warmup_steps))
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, self.share(progress))))


class Clock:
    """Seconds since it was made, by the clock of the first process: all of them save, look and end at the same step.

    They agree through the CPU, so that no GPU is waited for. All have to make it and ask it equally often.
    """

    def __init__(self) -> None:
        self._begun = time.monotonic()
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group: Any = dist.new_group(backend="gloo") if several else None

    def __call__(self) -> float:
        seconds = torch.tensor(time.monotonic() - self._begun, dtype=torch.float64)
        if self._group is not None:
            dist.broadcast(seconds, 0, group=self._group)
        return float(seconds)
