"""The nine released RCDM checkpoints: by name, downloaded and converted once into the user's cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from rcdm.data.downloads import cache_folder, fetch
from rcdm.diffusion.official.convert import from_official, official_scheduler, read_official
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.networks.catalogue import SUPERVISED
from rcdm.networks.published import load_published
from rcdm.networks.representation import Preprocessing
from rcdm.networks.sources import Sources

RELEASED = {
    f"{network}-{level}": (f"rcdm_ema_{network}_{part}.pt", f"{network}-resnet50", level)
    for network in ("simclr", "barlow", "vicreg", "dino")
    for level, part in (("backbone", "trunk"), ("projector", "head"))
} | {"supervised-backbone": ("rcdm_ema_supervised.pt", SUPERVISED, "backbone")}
"""Name after `official/` -> (file, published network, level that conditions it)."""

_URL = "https://dl.fbaipublicfiles.com/rcdm/"
_STEPS = 100
_TEMPLATE = Path(__file__).parents[1] / "templates" / "released.md"


def official_folder(name: str) -> Path:
    """The checkpoint folder of a released network; made at the first call. Raises ValueError for an unknown name."""
    if name not in RELEASED:
        raise ValueError(f"There is no released network {name!r}; choose one of {', '.join(RELEASED)}.")
    folder = cache_folder() / "official" / name
    if not (folder / "model_index.json").is_file():
        file, network, level = RELEASED[name]
        convert_file(fetch(_URL + file, cache_folder() / "downloads" / file), folder, network=network, level=level)
    _say_resolution(folder / "model_index.json")
    return folder


def convert_file(
    file: Path,
    folder: Path,
    *,
    network: str,
    level: str,
    flags: Mapping[str, Any] | None = None,
    network_file: Path | None = None,
) -> None:
    """Write the checkpoint folder of an RCDM file and of the published SSL network whose level conditions it.

    Raises ValueError when the file does not fit the flags or the network, leaving no folder behind.
    """
    state = read_official(file)
    ssl_network, _, config = load_published(network, network_file)
    source = f"{network}/{level}"
    preprocessing = Preprocessing(224)
    config = config | {"preprocessing": {"size": 224, "mean": [0.5] * 3, "std": [0.5] * 3}}
    sources = Sources({network: (ssl_network, preprocessing)}, (source,), {network: config})
    unet = from_official(state, flags, source=source)
    if unet.config.sources != sources.widths():
        raise ValueError(
            f"{file} takes {next(iter(unet.config.sources.values()), 0)} dimensions, but {source} has "
            f"{sources.widths()[source]}; is it the file of another network or level?"
        )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    RCDMPipeline(unet, official_scheduler(flags), sources, _STEPS, full_resolution=True).save_pretrained(partial)
    _card(folder.name, Path(file).name, source, unet.image_size).save(partial / "README.md")
    partial.rename(folder)


def _say_resolution(index: Path) -> None:
    """A folder that an earlier version converted does not say that photographs reach the network at its own size."""
    content = json.loads(index.read_text())
    if "full_resolution" not in content:
        index.write_text(json.dumps({**content, "full_resolution": True}, indent=2) + "\n")


def _card(name: str, file: str, source: str, size: int) -> ModelCard:
    tags = ["rcdm", "self-supervised-learning"]
    data = ModelCardData(license="cc-by-nc-4.0", library_name="diffusers", tags=tags)
    return ModelCard.from_template(data, template_path=str(_TEMPLATE), name=name, file=file, source=source, size=size)
