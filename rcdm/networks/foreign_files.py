"""Checkpoints of other programs (solo-learn, lightly, plain state dicts): recognised by their names and shapes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rcdm.data.downloads import sha256
from rcdm.networks.backbones import build_backbone
from rcdm.networks.catalogue import IMAGENET, TORCHVISION_VIT
from rcdm.networks.projectors import in_blocks, projector_from
from rcdm.networks.published import as_timm, fill, renamed
from rcdm.networks.representation import Preprocessing, SSLNetwork
from rcdm.networks.safe_load import read_checkpoint

State = dict[str, Tensor]

_NESTED = ("state_dict", "model", "model_state_dict", "teacher", "target_encoder", "network", "net")
_COPIES = r"momentum|target|student|predict|queue|(^|[._])(ema|m|k|key)[._]"
"""In names of networks that are not the one to read: copies of it, a student, a predictor."""

_HEAD = re.compile(
    r"^(?P<prefix>(.*\.)?(\w*_)?(projector|projection_head|proj_head|head|neck|fc)\.((layers|mlp|net|model)\.)?)\d"
)
_CLASSIFIER = r"^(fc|head|heads|classifier|linear)\.|num_batches_tracked$|^mask_token$"

_CHILDREN = (*((rf"^{k}\.", f"layer{k - 3}.") for k in (4, 5, 6, 7)), (r"^0\.", "conv1."), (r"^1\.", "bn1."))
_SHORTCUT = (r"\.shortcut\.", ".downsample.")
_LIGHTLY = (*((rf"^{k}\.", f"layer{k - 1}.") for k in (2, 3, 4, 5)), (r"^0\.", "conv1."), (r"^1\.", "bn1."), _SHORTCUT)
_FORMATS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "resnet": ("layer1.0.conv1.weight", (_SHORTCUT,)),
    "resnet as a Sequential": ("7.0.conv1.weight", _CHILDREN),
    "lightly's resnet as a Sequential": ("2.0.conv1.weight", _LIGHTLY),
    "vit": ("patch_embed.proj.weight", ()),
    "torchvision's vit": ("conv_proj.weight", TORCHVISION_VIT),
}
"""Format -> a name that only it has, and the rules that give its names those of torchvision's ResNet or timm's ViT."""

_DEPTHS: dict[tuple[int, ...], int] = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
_DATA = {
    "stl10": Preprocessing(96, (0.4914, 0.4823, 0.4466), (0.247, 0.243, 0.261)),
    "cifar10": Preprocessing(32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Preprocessing(32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""What solo-learn feeds its networks, by data set."""


def read_file(path: str | Path, architecture: str | None = None) -> tuple[SSLNetwork, Preprocessing, dict[str, Any]]:
    """A checkpoint file -> network in eval mode, preprocessing, config.json of its source folder.

    ResNets and ViTs are recognised; another backbone needs `architecture`, its name in timm. A projector is found by
    the usual names where its input is as wide as the representation. Nothing in the file is executed. Raises
    ValueError, naming what is there, when no backbone is recognised or it does not fit.
    """
    state = _state(read_checkpoint(path), path)
    prefix, kind, rules = _find(state, path, architecture)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    tensors = renamed(tensors, rules)
    if architecture is not None:
        name, arguments = "timm", {"name": architecture}
    elif kind.endswith("vit"):
        name, arguments = "timm", _vit(tensors, solo=not prefix.endswith("vit."), path=path)
    else:
        name, arguments = "resnet", _resnet(tensors, kind, _solo(state, prefix), path)
    backbone = build_backbone(name, **arguments)
    tensors = as_timm(tensors, backbone) if name == "timm" else tensors
    fill(backbone, _own(tensors, backbone), path, arguments.get("name", name))
    width = getattr(backbone, "num_features", 0) or getattr(backbone, "inplanes", 0)  # timm's word, and torchvision's
    head, activation = _projector(state, prefix, width)
    network = SSLNetwork(backbone, projector_from(in_blocks(head), activation) if head else None)
    preprocessing = _preprocessing(arguments, backbone, state, Path(path))
    config = {
        "architecture": name,
        "arguments": arguments,
        "levels": list(network.levels()),
        "projector_activation": activation,
        "preprocessing": asdict(preprocessing),
        "file": {"name": Path(path).name, "sha256": sha256(Path(path))},
    }
    return network.eval().requires_grad_(False), preprocessing, config


def _state(content: Any, path: str | Path) -> State:
    """The state dict in a checkpoint's content, without the names that wrappers put in front."""
    while key := next(
        (key for key in _NESTED if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)), None
    ):
        content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        there = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{path} holds no state dict; there is {there or 'nothing'}.")
    tensors = {str(name): tensor.detach() for name, tensor in content.items() if isinstance(tensor, Tensor)}
    return {re.sub(r"(?:^|(?<=\.))(module|_orig_mod)\.", "", name): tensor for name, tensor in tensors.items()}


def _find(state: State, path: str | Path, architecture: str | None) -> tuple[str, str, Sequence[tuple[str, str]]]:
    """Where the backbone lies: what precedes its names, its format, and the rules for its names."""
    if architecture is not None:
        return _prefix(state, list(build_backbone("timm", name=architecture).state_dict())), "timm", ()
    candidates = [
        (_rank(name.removesuffix(mark)), name.removesuffix(mark), kind, rules)
        for kind, (mark, rules) in _FORMATS.items()
        for name in state
        if name == mark or name.endswith(f".{mark}")
    ]
    if not candidates:
        tops = ", ".join(sorted({name.partition(".")[0] for name in state})[:8])
        raise ValueError(
            f"No ResNet or ViT is recognised in {path}; it has {tops}. For another network of timm write "
            "TIMM_NAME=FILE; for any other, a function (README, 'Your checkpoint in twenty lines')."
        )
    _, prefix, kind, rules = min(candidates)
    return prefix, kind, rules


def _prefix(state: State, names: Sequence[str]) -> str:
    """What precedes these names in the state dict, where most of them are there."""
    ends = (names[0], names[-1])
    prefixes = {name.removesuffix(end) for end in ends for name in state if f".{name}".endswith(f".{end}")}
    hits = {prefix: sum(prefix + name in state for name in names) for prefix in prefixes}
    return min(hits, key=lambda prefix: (_rank(prefix)[0], -hits[prefix], len(prefix)), default="")


def _rank(prefix: str) -> tuple[bool, int]:
    """The backbone itself before its copies, the shortest name first."""
    return bool(re.search(_COPIES, prefix)), len(prefix)


def _own(tensors: State, backbone: nn.Module) -> State:
    """Without classifier, projector and counters, which lie among the backbone's names in some files."""
    own = backbone.state_dict().keys()
    parts = {name.partition(".")[0] for name in own}
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name in own or (name.partition(".")[0] in parts and not re.search(_CLASSIFIER, name))
    }


def _resnet(tensors: State, kind: str, solo: bool, path: str | Path) -> dict[str, Any]:
    """Depth and stem of a ResNet. The padding of a 3x3 stem is not in a file: solo-learn's is known to be 2."""
    blocks = tuple(len({n.split(".")[1] for n in tensors if n.startswith(f"layer{k}.")}) for k in (1, 2, 3, 4))
    depth = 50 if blocks == (3, 4, 6, 3) and "layer1.0.conv3.weight" in tensors else _DEPTHS.get(blocks)
    if depth is None:
        raise ValueError(f"{path} holds a ResNet with {blocks} blocks, which torchvision does not have.")
    if "conv1.weight" not in tensors or tensors["conv1.weight"].shape[-1] != 3:
        return {"depth": depth}
    return {"depth": depth, "stem": "lightly" if kind.startswith("lightly") else "solo" if solo else "small"}


def _vit(tensors: State, *, solo: bool, path: str | Path) -> dict[str, Any]:
    """Size of a plain ViT. Heads are not in a file: the usual number, or 12 as MoCo v3 and MAE have it.

    Theirs are the fixed position embeddings, which are zero for the class token.
    """
    width, patch = tensors["patch_embed.proj.weight"].shape[0], tensors["patch_embed.proj.weight"].shape[-1]
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    if width not in _HEADS or tensors.get("pos_embed", tensors["patch_embed.proj.weight"]).ndim != 3:
        raise ValueError(f"{path} holds a ViT of an unusual kind (width {width}): write TIMM_NAME={path}.")
    positions = tensors["pos_embed"].shape[1]
    side = int(positions**0.5)
    fixed = "cls_token" in tensors and not tensors["pos_embed"][:, 0].any()
    name = "vit_base_patch16_224" if "cls_token" in tensors else "vit_huge_patch14_gap_224"
    sizes = {"img_size": side * patch, "patch_size": patch, "embed_dim": width, "depth": depth}
    return {"name": name, **sizes, "num_heads": 12 if fixed and solo and width < 1024 else _HEADS[width]}


def _solo(state: State, prefix: str) -> bool:
    """Whether solo-learn wrote it: its networks carry an online classifier beside the backbone."""
    return prefix in ("backbone.", "encoder.") and "classifier.weight" in state


def _projector(state: State, prefix: str, width: int) -> tuple[State, str]:
    """The tensors of the MLP that reads the representation, and its activation: GELU in a head of DINO's, else ReLU."""
    prefixes = {match["prefix"] for name in state if (match := _HEAD.match(name))}
    fits = []
    for candidate in prefixes:
        tensors = {name.removeprefix(candidate): t for name, t in state.items() if name.startswith(candidate)}
        tensors = {name: t for name, t in tensors.items() if name[0].isdigit()}
        first = min((name for name, t in tensors.items() if t.ndim == 2), key=_number, default=None)
        copy, length = _rank(candidate)
        if first is not None and tensors[first].shape[1] == width and copy == _rank(prefix)[0]:
            fits.append((length, candidate, tensors))
    if not fits:
        return {}, "relu"
    _, chosen, tensors = min(fits, key=lambda fit: fit[:2])
    parent = chosen.removesuffix("mlp.").removesuffix("layers.")
    return tensors, "gelu" if any(name.startswith(f"{parent}last_layer.") for name in state) else "relu"


def _number(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split(".") if part.isdigit())


def _preprocessing(arguments: Mapping[str, Any], backbone: nn.Module, state: State, path: Path) -> Preprocessing:
    """That of the data set that solo-learn notes; else the size that fits, with ImageNet's mean and deviation.

    A timm name with a tag (`vit_small_patch16_224.dino`) brings its own.
    """
    classes = {10: "cifar10", 100: "cifar100"}.get(len(state.get("classifier.weight", ())), "")
    data = _noted(path).get("dataset", classes if arguments.get("stem") == "solo" else "")
    if data in _DATA:
        return replace(_DATA[data], size=arguments.get("img_size", _DATA[data].size))
    if "stem" in arguments:
        return replace(IMAGENET, size=32)
    if "img_size" in arguments:
        return replace(IMAGENET, size=arguments["img_size"])
    numbers = getattr(backbone, "pretrained_cfg", {})
    own = {key: tuple(numbers[key]) for key in ("mean", "std") if "." in arguments.get("name", "")}
    return replace(IMAGENET, size=numbers["input_size"][-1] if numbers else IMAGENET.size, **own)


def _noted(path: Path) -> dict[str, Any]:
    """What solo-learn's args.json beside a checkpoint says of the data."""
    try:
        notes = json.loads((path.parent / "args.json").read_text())
    except (OSError, ValueError):
        return {}
    data = notes.get("data", notes) if isinstance(notes, dict) else {}
    return data if isinstance(data, dict) else {}
