"""The images that a network of a file is fed: their size and normalisation, as notes, families or nobody tell."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from rcdm.networks.reading import NORMALISATIONS, Account, Normalisation
from rcdm.networks.representation import Preprocessing

_DATA: dict[str, tuple[int, Normalisation]] = {
    "stl10": (96, ((0.4914, 0.4823, 0.4466), (0.247, 0.243, 0.261))),
    "cifar10": (32, ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
    "cifar100": (32, ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))),
}
"""What solo-learn feeds its networks, by data set."""

_FAMILIES = {"siglip": "half", "clip": "clip"}
"""A word in a name of timm -> the normalisation of that family, whatever some of timm's own weights have."""


@dataclass(frozen=True)
class Noted:
    """What a file beside the weights says of the network and its images; None or empty where it does not.

    Args:
        where: name of that file: args.json of solo-learn, config.json of timm, open_clip_config.json.
        data: name of the data set.
        size: side of the images (large crops), in pixels.
        pixels: mean and deviation.
        architecture: name of a network of timm. pooling: of its tokens. arguments: with which timm built it.
        classes: of solo-learn's online classifier, from the weights themselves.
        quick_gelu, head_width: of a CLIP of open_clip.
    """

    where: str = ""
    data: str = ""
    size: int | None = None
    pixels: Normalisation | None = None
    architecture: str = ""
    pooling: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    classes: int = 0
    quick_gelu: bool | None = None
    head_width: int | None = None

    @property
    def solo(self) -> bool:
        """Whether solo-learn wrote it."""
        return self.where == "args.json"


def notes_beside(path: Path) -> Noted:
    """Read what lies beside a checkpoint: args.json of solo-learn, or the configuration of timm or open_clip."""
    folder = path if path.is_dir() else path.parent
    for name, read in (("args.json", _solo_learn), ("config.json", _timm), ("open_clip_config.json", _open_clip)):
        with contextlib.suppress(OSError, ValueError):
            notes = json.loads((folder / name).read_text())
            if isinstance(notes, dict) and (noted := read(notes)) is not None:
                return noted
    return Noted()


def _solo_learn(notes: dict[str, Any]) -> Noted | None:
    """Of its older, flat form and of the newer, nested one."""
    if "method" not in notes or not {"data", "dataset"} & notes.keys():
        return None
    data = notes["data"] if isinstance(notes.get("data"), dict) else notes
    crops = [notes.get("crop_size"), data.get("crop_size")]
    crops += [crop.get("crop_size") for crop in _list(notes.get("augmentations")) if isinstance(crop, dict)]
    sizes = [size for crop in crops for size in _list(crop) if isinstance(size, int)]
    return Noted(
        "args.json", str(data.get("dataset", "")), max(sizes, default=None), _pair(data.get("mean"), data.get("std"))
    )


def _timm(notes: dict[str, Any]) -> Noted | None:
    """The config.json of a folder of timm, as it lies on the Hugging Face hub."""
    numbers = notes.get("pretrained_cfg")
    if not isinstance(numbers, dict) or not isinstance(notes.get("architecture"), str):
        return None
    size = _list(numbers.get("input_size")) or [None]
    pixels = _pair(numbers.get("mean"), numbers.get("std"))
    given = notes.get("model_args")
    arguments = {k: v for k, v in given.items() if not _OF_TRAINING.fullmatch(k)} if isinstance(given, dict) else {}
    pooling = "" if "global_pool" in arguments else str(notes.get("global_pool", ""))
    return Noted("config.json", "", size[-1], pixels, notes["architecture"], pooling, arguments)


_OF_TRAINING = re.compile(
    r"num_classes|in_chans|pretrained\w*|\w*drop\w*|weight_init|fix_init|scriptable|exportable|\w*jit"
)
"""Arguments of timm that change nothing of what is read."""


def _open_clip(notes: dict[str, Any]) -> Noted | None:
    """The normalisation, the activation and the heads in the open_clip_config.json of a folder of open_clip."""
    numbers, model = notes.get("preprocess_cfg"), notes.get("model_cfg")
    if not isinstance(numbers, dict):
        return None
    model = model if isinstance(model, dict) else {}
    vision = model.get("vision_cfg")
    width = vision.get("head_width", 64) if isinstance(vision, dict) else None
    return Noted(
        "open_clip_config.json",
        pixels=_pair(numbers.get("mean"), numbers.get("std")),
        quick_gelu=bool(model.get("quick_gelu", False)) if model else None,
        head_width=width if isinstance(width, int) and width > 0 else None,
    )


def _pair(mean: Any, std: Any) -> Normalisation | None:
    mean, std = _list(mean), _list(std)
    return (tuple(mean), tuple(std)) if len(mean) == len(std) == 3 else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def images_fed(
    architecture: str, arguments: Mapping[str, Any], backbone: nn.Module, noted: Noted, account: Account
) -> Preprocessing:
    """Size, mean and deviation: what the options say, else notes, else the network itself, else what is usual."""
    mean, std = account.reading.pixels() or _pixels(architecture, arguments, noted, account)
    return Preprocessing(_size(arguments, backbone, noted, account), mean, std)


def _size(arguments: Mapping[str, Any], backbone: nn.Module, noted: Noted, account: Account) -> int:
    if account.reading.image_size is not None:
        return account.reading.image_size
    fixed = arguments.get("img_size") or getattr(getattr(backbone, "patch_embed", None), "img_size", None) or 0
    fixed = fixed[-1] if isinstance(fixed, (list, tuple)) else fixed
    if fixed:
        account.said(f"images: {fixed} px, the size of its positions")
        return int(fixed)
    if size := noted.size or _DATA.get(noted.data, (0,))[0]:
        account.said(f"images: {size} px, from {noted.where} beside the file")
        return size
    own = getattr(backbone, "pretrained_cfg", {}).get("input_size", (0,))[-1]
    if own:
        account.assumed(f"images of {own} px, as timm has them", "--image-size N")
        return int(own)
    size = 224 if arguments.get("stem", "imagenet") == "imagenet" else 32
    account.assumed(f"images of {size} px", "--image-size N")
    return size


def _pixels(architecture: str, arguments: Mapping[str, Any], noted: Noted, account: Account) -> Normalisation:
    if noted.pixels is not None:
        account.said(f"pixels: mean and deviation from {noted.where} beside the file")
        return noted.pixels
    if noted.data in _DATA:
        account.said(f"pixels: solo-learn's mean and deviation of {noted.data}, which args.json beside the file names")
        return _DATA[noted.data][1]
    if (
        arguments.get("stem") == "solo"
        and not noted.solo
        and (data := {10: "cifar10", 100: "cifar100"}.get(noted.classes))
    ):
        account.assumed(
            f"the pixels' mean and deviation of {data}, for its {noted.classes} classes", "--normalisation M,M,M/D,D,D"
        )
        return _DATA[data][1]
    name = str(arguments.get("name", "")) if architecture == "timm" else ""
    if family := next((family for family in _FAMILIES if family in name), ""):
        account.said(f"pixels: mean and deviation {_FAMILIES[family]}, those of {family}")
        return NORMALISATIONS[_FAMILIES[family]]
    if name and "embed_dim" not in arguments and (known := _of_timm(name)):
        account.assumed(f"the pixels' mean and deviation that timm's own weights of {name} have", "--normalisation")
        return known
    account.assumed("ImageNet's mean and deviation of the pixels", "--normalisation half, clip, none")
    return NORMALISATIONS["imagenet"]


def _of_timm(name: str) -> Normalisation | None:
    """Mean and deviation of a tag's weights, or those that all weights share which timm has for this network.

    One set of weights alone says nothing of others.
    """
    from timm.models import get_pretrained_cfg, list_pretrained

    tags = [name] if "." in name else list_pretrained(f"{name}.*")
    known = {(tuple(config.mean), tuple(config.std)) for config in map(get_pretrained_cfg, tags) if config}
    return known.pop() if len(known) == 1 and ("." in name or len(tags) > 1) else None
