"""What is going on inside a pipeline while a job of this thread uses it, without the pipeline knowing."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from rcdm.diffusion.pipeline import RCDMPipeline

Check = Callable[[], None]
"""Raises where nobody waits for the result any more."""

_here = threading.local()


def let_see(pipe: RCDMPipeline) -> None:
    """Let `checked` see what a pipeline is drawing; it knows nothing of it."""
    draw_batch: Callable[..., Tensor] = pipe.draw_batch

    def seen_batch(*arguments: Any) -> Tensor:
        see: Callable[[Tensor], None] | None = getattr(_here, "see", None)
        if see is None:
            return draw_batch(*arguments)
        *given, report = arguments

        def both(step: int, timestep: int, tensors: dict[str, Tensor]) -> None:
            report(step, timestep, tensors)
            see(tensors["denoised"])

        return draw_batch(*given, both)

    pipe.draw_batch = seen_batch  # type: ignore[method-assign,assignment]


def private(pipe: RCDMPipeline) -> RCDMPipeline:
    """A pipeline of the same parts, whose settings may be changed: nobody else has it."""
    own = copy.copy(pipe)
    for name in ("draw", "draw_batch"):  # what was wrapped calls the first one
        own.__dict__.pop(name, None)
    let_see(own)
    return own


@contextmanager
def checked(
    pipe: RCDMPipeline,
    check: Check,
    count: Callable[[int], None] = lambda _: None,
    see: Callable[[Tensor], None] | None = None,
) -> Iterator[None]:
    """Run `check()` and `count(images)` before every call of the denoiser in this thread, whoever makes it.

    `see` gets the present guesses [B,3,S,S] after every step, of a pipeline that `let_see` was called for.
    """
    me = threading.get_ident()

    def before(_unet: Any, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() == me:
            check()
            count(len(arguments[0]))

    hook = pipe.unet.register_forward_pre_hook(before)
    _here.see = see
    try:
        yield
    finally:
        _here.see = None
        hook.remove()
