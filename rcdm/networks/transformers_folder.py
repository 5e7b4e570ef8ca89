"""Folders that transformers has written with `save_pretrained`, read by transformers itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rcdm.data.downloads import sha256
from rcdm.networks.checked_files import check_finite
from rcdm.networks.containers import weights_files
from rcdm.networks.projectors import in_blocks, projector_from
from rcdm.networks.reading import NORMALISATIONS, Account, Normalisation, Reading
from rcdm.networks.representation import Preprocessing, SSLNetwork
from rcdm.networks.transformers_backbone import (
    TransformersBackbone,
    class_for,
    config_as_json,
    library,
    side_of,
    usual_pooling,
    vision_family,
    vision_part,
)

_HALF = ("vit", "siglip", "siglip2", "siglip_vision_model", "siglip2_vision_model", "beit", "data2vec-vision")


def is_transformers_folder(folder: Path) -> bool:
    """Whether a folder's config.json names a family of transformers."""
    return "model_type" in _json(folder / "config.json")


def read_transformers(folder: Path, reading: Reading | None = None) -> tuple[SSLNetwork, Preprocessing, dict[str, Any]]:
    """A folder of transformers -> network, preprocessing and config.json, as `read_file` gives them.

    The representation is what the authors of the family read; CLIP's visual projection is the projector. Raises
    ValueError without transformers, and for a folder that it cannot load or that does not hold all weights.
    """
    account = Account(reading or Reading())
    if account.reading.pooling not in (None, "token", "mean"):
        raise ValueError(f"pooling is token or mean, not {account.reading.pooling!r}.")
    _refuse_others(account.reading, folder)
    model, config, pooling = _load(folder, account)
    backbone = TransformersBackbone(vision_part(model), pooling)
    projection = getattr(model, "visual_projection", None)
    projector = projector_from(in_blocks({"weight": projection.weight.detach()})) if projection is not None else None
    check_finite(model.state_dict(), folder)
    network = SSLNetwork(backbone, projector)
    preprocessing = _images(folder, config, account)
    _dry_run(network, preprocessing, folder, config.model_type)
    about = {
        "architecture": "transformers",
        "arguments": {"config": config_as_json(config), "pooling": pooling},
        "levels": list(network.levels()),
        "projector_activation": "relu",
        "preprocessing": asdict(preprocessing),
        "file": {"name": folder.name, "sha256": sha256(weights_files(folder)[0])},
        "reading": {"lines": account.close(folder), "options": account.reading.given()},
    }
    return network.eval().requires_grad_(False), preprocessing, about


def _refuse_others(reading: Reading, folder: Path) -> None:
    given = [
        name for name in ("part", "projector", "activation", "heads", "stem") if getattr(reading, name) is not None
    ]
    if given:
        raise ValueError(f"{folder} says itself what its {given[0]} is: leave --{given[0]} out.")


def _load(folder: Path, account: Account) -> tuple[Any, Any, str]:
    """The model of the vision part, in float32, its configuration, and how its representation is read."""
    transformers = library()
    try:
        with _quiet(transformers):
            whole = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            usual = account.reading.pooling or usual_pooling(vision_family(whole)) or "pooler"
            for pooling in (
                ("pooler", "mean") if usual == "mean" else (usual,)
            ):  # where a pooler was trained, it is read
                kind, options, config = class_for(whole, pooling)
                if config is not whole and hasattr(whole, "projection_dim"):
                    config.projection_dim = whole.projection_dim
                model, info = kind.from_pretrained(
                    folder, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False,
                    **options,
                )  # fmt: skip
                if not any(name.startswith("pooler.") for name in info["missing_keys"]):
                    break
    except Exception as error:  # transformers raises many kinds
        raise ValueError(f"{folder} cannot be read by transformers: {_first_line(error)}") from error
    missing = sorted(info["missing_keys"])
    if missing == ["visual_projection.weight"]:  # a CLIP's tower alone
        model.visual_projection, missing = None, []
    if missing:
        raise ValueError(f"{folder} does not fit {kind.__name__} of transformers: {', '.join(missing[:5])} is missing.")
    account.said(f"backbone: {kind.__name__} of transformers {transformers.__version__}, its own forward")
    groups: dict[str, int] = {}
    for name in sorted(info["unexpected_keys"]):
        group = name.partition(".")[0] + "."
        groups[group] = groups.get(group, 0) + 1
    for group, count in groups.items():
        account.left_out([group], f"{group} ({count} tensors that {kind.__name__} does not have)")
    return model, config, _say_pooling(config, usual if getattr(model, "pooler", None) is None else pooling, account)


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """What it would print about weights is in our own lines."""
    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity(50)
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


def _say_pooling(config: Any, pooling: str, account: Account) -> str:
    """What is read: what the options say, what the authors of the family read, or the mean, which is said."""
    family = config.model_type
    if family == "vit_mae":
        account.said("patches: all of them, in their order; in training MAE sees a random quarter")
    if account.reading.pooling is not None:
        return account.reading.pooling
    words = {"pooler": "the pooled output", "token": "the class token", "mean": "the mean of the patches"}
    if usual_pooling(family):
        account.said(f"representation: {words[pooling]}, as the authors of {family} read it")
    else:
        account.assumed(f"{words[pooling]} is the representation of a {family}", "--pooling mean")
    return pooling


def _dry_run(network: SSLNetwork, preprocessing: Preprocessing, folder: Path, family: str) -> None:
    """One image through the network. Raises ValueError for one that gives no vector for an image alone."""
    try:
        with torch.no_grad():
            h = network.backbone(torch.zeros(1, 3, preprocessing.size, preprocessing.size))
        if h.ndim != 2:
            raise ValueError(f"it gives {list(h.shape)}")
    except Exception as error:  # of every network there
        raise ValueError(
            f"{folder} is a {family} of transformers, which gives no pooled vector for one of {preprocessing.size} px "
            f"({_first_line(error)[:120]}): say --pooling mean, or write a function (docs/own-network.md, 'In "
            "twenty lines')."
        ) from error


def _images(folder: Path, config: Any, account: Account) -> Preprocessing:
    """What preprocessor_config.json says, else the size of the configuration and the normalisation of the family."""
    noted, where, family = _json(folder / "preprocessor_config.json"), "preprocessor_config.json", config.model_type
    if not noted:  # of newer versions
        noted, where = _json(folder / "processor_config.json").get("image_processor") or {}, "processor_config.json"
    if not noted:  # a network of timm that transformers has saved
        noted, where = _of_timm(getattr(config, "pretrained_cfg", None)), "config.json"
    size = account.reading.image_size or _side(noted) or side_of(config)
    if size and account.reading.image_size is None:
        account.said(f"images: {size} px, from {where if _side(noted) else 'config.json'}")
    if not size:
        size = 224
        account.assumed(f"images of {size} px, as there is no preprocessor_config.json", "--image-size N")
    pixels = account.reading.pixels() or _pixels(noted)
    if pixels is None:
        name = "clip" if family.startswith("clip") else "half" if family in _HALF else "imagenet"
        pixels = NORMALISATIONS[name]
        account.assumed(
            f"mean and deviation {name} of the pixels, usual for {family}, as there is no preprocessor_config.json",
            "--normalisation",
        )
    return Preprocessing(size, *pixels)


def _of_timm(numbers: Any) -> dict[str, Any]:
    """What timm notes of the images of its weights, in the words of a preprocessor."""
    if not isinstance(numbers, Mapping):
        return {}
    size = numbers.get("input_size")
    side = {"crop_size": size[-1]} if isinstance(size, (list, tuple)) and size else {}
    return side | {"image_mean": numbers.get("mean"), "image_std": numbers.get("std")}


def _side(noted: Mapping[str, Any]) -> int:
    for key in ("crop_size", "size") if noted.get("do_center_crop", True) else ("size",):
        size = noted.get(key)
        if isinstance(size, Mapping):
            size = size.get("height") or size.get("shortest_edge")
        if isinstance(size, (int, float)) and size:
            return int(size)
    return 0


def _pixels(noted: Mapping[str, Any]) -> Normalisation | None:
    if noted.get("do_normalize") is False:
        return NORMALISATIONS["none"]
    mean, std = noted.get("image_mean"), noted.get("image_std")
    return (tuple(mean), tuple(std)) if isinstance(mean, (list, tuple)) and isinstance(std, (list, tuple)) else None


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
