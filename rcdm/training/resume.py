"""Checkpoints of a run in progress: complete or not there, verified by SHA-256 before they are read."""

from __future__ import annotations

import errno
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
    """Write `folder/checkpoint-STEP` (all or nothing) and delete all but the `keep` newest.

    Raises ValueError where there is no room for it; the states before it stay.
    """
    accelerator.wait_for_everyone()
    partial, target = folder / f"partial-{step}", folder / f"checkpoint-{step}"
    try:
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()  # each process has written a part
        if not accelerator.is_main_process:
            return
        (partial / _DIGESTS).write_text(json.dumps(_digests(partial)))
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except Exception as error:  # safetensors and torch have errors of their own for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        if not lacks_room(error):
            raise
        raise ValueError(f"There is no room on the disk for the state of step {step}. {remains(folder)}") from error
    for old in saved_states(folder)[:-keep]:
        shutil.rmtree(old)


def load_state(accelerator: Accelerator, folder: Path, wish: str) -> bool:
    """Continue from `latest` or a named checkpoint, passing over damaged ones; False when there is none yet.

    Raises ValueError when the named checkpoint does not exist or is damaged, or when every one is.
    """
    candidates = saved_states(folder)
    if wish != "latest":
        candidates = [_named(candidates, wish, folder)]
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


def _named(states: list[Path], wish: str, folder: Path) -> Path:
    """The state that is asked for. Raises ValueError, naming those that are whole, where it is not."""
    found = [state for state in states if state.name == Path(wish).name]
    if found and _is_whole(found[0]):
        return found[0]
    what = f"{found[0]} is damaged" if found else f"There is no checkpoint {wish!r:.80} in {folder}"
    whole = ", ".join(state.name for state in states if state not in found and _is_whole(state))
    raise ValueError(f"{what}; " + (f"whole are: {whole}." if whole else "no other is whole: begin another run."))


def remains(folder: Path) -> str:
    """What a run that cannot save goes on from, in words."""
    whole = [state for state in saved_states(folder) if _is_whole(state)]
    if not whole:
        return "No state was saved before: make room, and begin again."
    how = "--resume_from_checkpoint latest (`pretrain`: --resume)"
    return f"The last whole state is {whole[-1]}: make room, and continue with {how}."


def lacks_room(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that of a full disk, a quota, or a limit of file sizes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(words in str(error) for words in ("No space left", "os error 28", "PytorchStreamWriter", "os error 27")):
            return True
        error = error.__cause__ or error.__context__
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
