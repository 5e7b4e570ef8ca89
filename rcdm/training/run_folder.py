"""The folder of a run: one run at a time in it, and one that is continued is the run that was begun."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

_LOCK, _SETTINGS = "run.lock", "run.json"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside, no other run can use the folder: the second is refused, and the end of a process frees it, even SIGKILL.

    Half-written states of a run that was killed are cleared away. Raises ValueError naming the process that is there.
    """
    if not is_first():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / f"{_LOCK}.owner"
    try:
        with FileLock(folder / _LOCK, timeout=0):
            owner.write_text(f"{os.getpid()}\n")
            for partial in folder.glob("partial-*"):
                shutil.rmtree(partial, ignore_errors=True)
            yield
            owner.unlink(missing_ok=True)
    except Timeout as error:
        process = owner.read_text().strip() if owner.is_file() else "unknown"
        raise ValueError(
            f"{folder} is in use by another run (process {process}): wait for its end, or choose another folder."
        ) from error


def remember_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down what a run was begun with."""
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=1, default=str) + "\n")


def remember_left_out(folder: Path, dataset: object) -> None:
    """List the images that a data set could not read, where there are any, in `left_out_images.txt`."""
    left_out = getattr(dataset, "left_out", ())
    if left_out and is_first():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "left_out_images.txt").write_text("\n".join(left_out) + "\n")
        log.warning("%d images were left out: %s lists them.", len(left_out), folder / "left_out_images.txt")


def check_settings(folder: Path, settings: Mapping[str, Any], harmless: Collection[str]) -> None:
    """Compare with what the run in the folder was begun with, where that is known.

    Raises ValueError naming what differs, unless it is `harmless`: what does not change the weights up to here.
    """
    try:
        begun = json.loads((folder / _SETTINGS).read_text())
    except (OSError, ValueError):
        return
    now = json.loads(json.dumps(settings, default=str))
    if other := [key for key in now if key in begun and key not in harmless and now[key] != begun[key]]:
        words = ", ".join(f"{key} {begun[key]!r} (now {now[key]!r})" for key in other)
        raise ValueError(
            f"The run in {folder} was begun with {words}: continue it so, or begin another in a new folder."
        )


def is_first() -> bool:
    """Whether this is the first of the processes of a run, or the only one; asked before they have found each other."""
    return os.environ.get("RANK", "0") == "0"
