"""Checkpoints of a run in progress: complete or not there, verified by SHA-256 before they are read."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from pathlib import Path

from accelerate import Accelerator

log = logging.getLogger(__name__)

_DIGESTS = "sha256.json"


def save_state(accelerator: Accelerator, folder: Path, step: int, *, keep: int) -> None:
    """Write `folder/checkpoint-STEP` (all or nothing) and delete all but the `keep` newest."""
    accelerator.wait_for_everyone()
    partial = folder / f"partial-{step}"
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()  # each process has written a part
    if not accelerator.is_main_process:
        return
    (partial / _DIGESTS).write_text(json.dumps(_digests(partial)))
    target = folder / f"checkpoint-{step}"
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in saved_states(folder)[:-keep]:
        shutil.rmtree(old)


def load_state(accelerator: Accelerator, folder: Path, wish: str) -> bool:
    """Continue from `latest` or a named checkpoint, passing over damaged ones; False when there is none yet.

    Raises ValueError when the named checkpoint does not exist, or when every one is damaged.
    """
    candidates = saved_states(folder)
    if wish != "latest":
        candidates = [c for c in candidates if c.name == Path(wish).name]
        if not candidates:
            raise ValueError(f"There is no checkpoint {wish} in {folder}.")
    for checkpoint in reversed(candidates):
        if _is_whole(checkpoint):
            accelerator.load_state(str(checkpoint))
            log.warning("Resumed from %s.", checkpoint)
            return True
        log.warning("%s is damaged and is passed over.", checkpoint)
    if candidates:
        raise ValueError(f"Every checkpoint in {folder} is damaged; start again in another folder.")
    log.warning("There is no checkpoint in %s yet: starting from the beginning.", folder)
    return False


def saved_states(folder: Path) -> list[Path]:
    """The checkpoint folders, oldest step first."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def _is_whole(checkpoint: Path) -> bool:
    try:
        return json.loads((checkpoint / _DIGESTS).read_text()) == _digests(checkpoint)
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _DIGESTS)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
