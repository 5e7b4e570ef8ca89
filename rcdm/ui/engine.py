"""One engine for all users: jobs share the device, and end when nobody waits for them any more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

import gradio as gr
import torch
from PIL import Image

from rcdm.diffusion.checkpoints import best_device
from rcdm.diffusion.places import available
from rcdm.diffusion.regressor import DEAR
from rcdm.ui.drawing import Columns, Job, Progress, in_background
from rcdm.ui.guard import Rate
from rcdm.ui.loaded import Loaded, Shelf
from rcdm.ui.settings import Settings
from rcdm.ui.store import Store, key_of
from rcdm.ui.together import SharedCalls
from rcdm.ui.waiting import Sessions, check_waited_for

Perform = Callable[..., Generator[Any, None, None]]


def hosted() -> bool:
    """Whether this is a Space whose GPU is lent per call, to a process that is made for it."""
    return bool(os.environ.get("SPACES_ZERO_GPU"))


DEVICE_QUEUE = "device"
DEVICE = {"concurrency_limit": 1 if hosted() else 4, "concurrency_id": DEVICE_QUEUE}
"""For every event that draws: how many Gradio starts, to be drawn together; the others wait in one queue."""

CALLS_PER_SECOND = 200  # images through a denoiser on a small GPU; only for asking a hosted GPU for enough time


class Engine:
    """The checkpoints on offer, finished work, and the turn of whoever draws."""

    def __init__(self, settings: Settings, *, device: str | None = None) -> None:
        self.settings = settings
        names = [settings.checkpoint, *(name for name in available() if name != settings.checkpoint)]
        self.shelf = Shelf(
            names,
            max_bytes=settings.model_mib * 2**20,
            seconds=settings.keep_minutes * 60,
            data=settings.data,
            device=device,
            mixed_precision=settings.mixed_precision,
        )
        self.store = Store(settings.result_mib * 2**20, settings.keep_minutes * 60)
        self.shipped: dict[str, Any] = {}
        """Key -> a finished drawing that a checkpoint carries; these are never forgotten."""
        self.rate = Rate(settings.rate)
        self.sessions = Sessions()
        on_cpu = torch.device(device or best_device()).type == "cpu"
        self._shared = SharedCalls(lanes=torch.get_num_threads() if on_cpu else 1)
        self._stream = on_hosted_gpu(self._perform)

    def __getitem__(self, checkpoint: str) -> Loaded:
        return self.shelf[checkpoint]

    def finished(self, key: str) -> Any | None:
        """Finished work of this key, as long as it is kept."""
        return self.shipped.get(key) or self.store.get(key)

    def warm_up(self) -> None:
        """Draw once in the background, so that the first visitor does not wait for what is only slow once."""
        loaded = self[self.settings.checkpoint]
        picture, source = Image.new("RGB", (64, 64)), loaded.pipe.sources.names[0]
        threading.Thread(
            target=lambda: list(self._perform(loaded.name, Columns(picture, (source,), (0, 1), 1)))
        ).start()

    def work(
        self, checkpoint: str, job: Job, request: gr.Request | None = None
    ) -> Iterator[Progress | tuple[Any] | None]:
        """`run` for work that is not remembered."""
        check_waited_for(self.sessions, request)  # before its turn it may have waited for long
        self.rate.check(request)
        with closing(self._stream(checkpoint, job)) as stream:
            for item in stream:
                check_waited_for(self.sessions, request)
                yield item

    def run(
        self, checkpoint: str, job: Job, request: gr.Request | None = None
    ) -> Iterator[Progress | tuple[Any] | None]:
        """Progress, None while nothing is new, and at last the result alone in a tuple. Finished work is remembered.

        Raises ValueError for a job that cannot be done, a client who asks too often, or one who is gone.
        """
        key = key_of(checkpoint, job)
        kept = self.store.get(key)
        if kept is None:
            for item in self.work(checkpoint, job, request):
                if isinstance(item, tuple):
                    kept = item
                else:
                    yield item
            assert kept is not None
            self.store.put(key, kept)
        yield kept

    def _perform(self, checkpoint: str, job: Job) -> Generator[Any, None, None]:
        def work(show: Callable[[Progress], None], check: Callable[[], None]) -> tuple[Any]:
            with self._shared.job():
                check()
                return (job.run(self.shelf[checkpoint], show, check),)

        yield from in_background(work)


def on_hosted_gpu(perform: Perform) -> Perform:
    """On a Space whose GPU is lent per call: ask for it, for as long as the job may need. Elsewhere: no change."""
    if not hosted():
        return perform
    import spaces

    def duration(_checkpoint: str, job: Job) -> int:
        calls = DEAR * job.calls()  # whether draws are led is known where the checkpoint is loaded: as if they were
        return min(120, 15 + calls // CALLS_PER_SECOND)

    return spaces.GPU(duration=duration)(perform)
