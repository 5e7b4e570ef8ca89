"""Where checkpoints lie: a name means a folder, a checkpoint that is shipped, or a repository of the hub. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

HUB_OWNER = "rcdm"
"""Whose repositories of the hub plain names mean, unless the environment variable RCDM_HUB names another owner."""

_PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = _PACKAGE / "checkpoints"
"""Where the build puts the shipped checkpoints; not there in a clone of the repository."""

SHIPPED = INSTALLED if INSTALLED.is_dir() else _PACKAGE.parent / "checkpoints"

CONTINUE = "Finish it with `rcdm train --output_dir {} --resume_from_checkpoint latest` and the options of its run."

_FILES = ["*.json", "*.md", "*.safetensors"]


def checkpoint_folder(name: str | Path) -> Path | None:
    """The local folder that a name means, or None when it can only be on the hub."""
    return next((folder for folder in (Path(name), SHIPPED / name) if folder.is_dir()), None)


def available() -> list[str]:
    """Names of the pipelines that are shipped."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model_index.json"))


def find(name: str | Path) -> Path:
    """The folder of a pipeline by its name: one that is here, or a repository of the hub, downloaded once.

    Raises ValueError, saying what to do, for a name that means nothing and for a folder that is no pipeline.
    """
    folder = checkpoint_folder(name)
    if folder is None:
        return _downloaded(str(name))
    if (folder / "model_index.json").is_file():
        return folder
    raise ValueError(_what_else_it_is(folder))


def _what_else_it_is(folder: Path) -> str:
    """What a folder is that is no checkpoint, and what to do."""
    if any(folder.glob("checkpoint-*")):
        return (
            f"{folder} is a run that has not written its checkpoint: it is under way, or was stopped. "
            + CONTINUE.format(folder)
        )
    if not (folder / "sources").is_dir():
        return f"{folder} is no checkpoint: it has no model_index.json. Train one with `rcdm train`."
    draws = " or ".join(_drawing_with(folder))
    remedy = f"draw with {draws}" if draws else f"train one with `rcdm train --sources_dir {folder / 'sources'}`"
    return f"{folder.name} holds backbones only and no denoiser; {remedy}."


def hub_id(name: str) -> str | None:
    """The repository of the hub that a name means: OWNER/NAME as it is, NAME of RCDM_HUB; None for anything else."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    wanted = name if "/" in name else f"{os.environ.get('RCDM_HUB') or HUB_OWNER}/{name}"
    try:
        validate_repo_id(wanted)
    except HFValidationError:
        return None
    return wanted


def sources_in(folder: Path) -> tuple[str, ...]:
    """Names of the sources that the pipeline in a folder draws from; empty where they cannot be read."""
    try:
        return tuple(json.loads((folder / "unet" / "config.json").read_text())["sources"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def refuse_unknown(wanted: Sequence[str], known: Sequence[str]) -> None:
    """ValueError, listing the choices, for a source that a checkpoint does not draw from."""
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"There is no source {unknown[0]!r}; choose one of {', '.join(known)}.")


def _downloaded(name: str) -> Path:
    """The snapshot of a repository of the hub. ValueError with the remedy where there is none, or no way to it."""
    from huggingface_hub import snapshot_download

    there = f"There is no checkpoint {name!r}; here are: {', '.join(available()) or 'none'}."
    repository = hub_id(name)
    if repository is None:
        raise ValueError(f"{there} Another one is given by its folder, or as OWNER/NAME of the Hugging Face hub.")
    try:
        return Path(snapshot_download(repository, allow_patterns=_FILES, etag_timeout=5))
    except Exception as error:  # the hub's own errors, and those of whichever library carries them
        raise ValueError(
            f"{there} {repository} could not be had from the Hugging Face hub, either ({type(error).__name__}): check "
            "the name and the connection, give a folder or OWNER/NAME, or set RCDM_HUB to the owner."
        ) from error


def _drawing_with(backbones: Path) -> list[str]:
    """Names of the checkpoints beside a folder of backbones that share its networks."""
    whole = backbones.resolve()
    files = sorted(whole.parent.glob("*/sources/config.json"))
    return [file.parts[-3] for file in files if whole.name in _shared_with(file)]


def _shared_with(config: Path) -> set[str]:
    """Checkpoints whose networks a folder of sources refers to; none where that cannot be read."""
    try:
        return {one["checkpoint"] for one in json.loads(config.read_text()).get("shared", {}).values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
