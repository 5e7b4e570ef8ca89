"""Checkpoints of other programs: the backbone, the projector and the images they read, and what was not told."""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rcdm.data.downloads import sha256
from rcdm.networks.architectures import FORMATS, OPENAI, hint, known_heads, resnet_arguments, vit_arguments
from rcdm.networks.backbones import TIMM_OPTIONS, build_backbone
from rcdm.networks.checked_files import check_finite
from rcdm.networks.containers import Weights, read_weights
from rcdm.networks.found_projector import COPIES, projector_of
from rcdm.networks.images_fed import Noted, images_fed, notes_beside
from rcdm.networks.projectors import in_blocks, projector_from
from rcdm.networks.published import as_timm, fill, renamed
from rcdm.networks.reading import Account, Reading
from rcdm.networks.representation import Preprocessing, SSLNetwork

State = dict[str, Tensor]

_EXTRA = re.compile(
    r"(fc|head|heads|head_dist|classifier\w*|linear|mask_token|decoder\w*|\w*proj|proj\w*|projection\w*|predict\w*"
    r"|masked_embed|prototypes?|queue\w*|logit_\w+|neck|\w*_head|online_\w+|teacher\w*|student\w*|momentum\w*|pre_logits)"
)
"""First parts of names that may stand among a backbone's own, and are no part of it."""

_POOLED = {"dinov3": "token"}
"""Family -> what its authors' forward returns, where timm pools otherwise."""


def read_file(
    path: str | Path, architecture: str | None = None, reading: Reading | None = None
) -> tuple[SSLNetwork, Preprocessing, dict[str, Any]]:
    """A checkpoint file or folder -> network in eval mode, preprocessing, config.json of its source folder.

    ResNets and ViTs are recognised; another backbone needs `architecture`, its name in timm. A projector is found by
    the usual names where its input is as wide as the representation. What was assumed, chosen and left out stands in
    the config's `reading`, and `reading` decides it. Nothing in the file is executed. Raises ValueError, naming what is
    there, when no backbone is recognised or it does not fit, and where reading is strict and something is left open.
    """
    path, reading = Path(path), reading or Reading()
    account, weights, noted = Account(reading), read_weights(path), notes_beside(path)
    architecture = architecture or noted.architecture or None
    if path.is_dir():
        account.said(f"weights: {_some([file.name for file in weights.files])}")
    prefix, form = _find(weights, path, architecture, account)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in weights.state.items() if name.startswith(prefix)}
    writer = _writer(weights.state, prefix, noted)
    if form:
        tensors = _shaped(renamed(tensors, FORMATS[form.removesuffix(" of OpenAI")].rules))
    try:
        name, arguments = _arguments(tensors, form, architecture, writer, noted, account, path)
    except (IndexError, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"{path} holds tensors of shapes that no network has. {hint(weights.state, path)}") from error
    backbone = build_backbone(name, **arguments)
    width = getattr(backbone, "num_features", 0) or getattr(backbone, "inplanes", 0)  # timm's word, and torchvision's
    sure = writer != "solo-learn" or noted.solo
    head, activation, place = projector_of(weights.state, prefix, width, account, known=writer if sure else "")
    projector = _built(head, activation, width, place, path, account)
    if projector is None:
        head, place = {}, ""
    tensors = _converted(tensors, backbone, account) if name == "timm" else tensors
    own, extra = _own(tensors, backbone)
    try:
        fill(backbone, own, path, str(arguments.get("name", name)))
    except ValueError as error:
        unnamed = architecture is None and "does not fit" in str(error)
        raise ValueError(f"{error} {hint(weights.state, path)}" if unnamed else str(error)) from error
    _report_left_out(weights, prefix, place, {f"{place}{name}" for name in head} | {place}, extra, account)
    check_finite(head, path)
    network = SSLNetwork(backbone, projector)
    classes = next((len(t) for n, t in weights.state.items() if n.endswith("classifier.weight")), 0)
    preprocessing = images_fed(name, arguments, backbone, replace(noted, classes=classes), account)
    config = {
        "architecture": name,
        "arguments": arguments,
        "levels": list(network.levels()),
        "projector_activation": activation,
        "preprocessing": asdict(preprocessing),
        "file": {"name": path.name, "sha256": sha256(weights.files[0])},
        "reading": {"lines": account.close(path), "options": reading.given()},
    }
    return network.eval().requires_grad_(False), preprocessing, config


def _built(head: State, activation: str, width: int, place: str, path: Path, account: Account) -> nn.Module | None:
    """The projector, once it has been tried; none where its layers do not fit each other, which is said.

    Raises ValueError where it was asked for.
    """
    if not head:
        return None
    try:
        projector = projector_from(in_blocks(head), activation).eval()
        with torch.no_grad():
            projector(torch.zeros(2, width))
    except (RuntimeError, ValueError) as error:
        words = f"what lies at {place} is no projector that can be rebuilt ({str(error).partition(chr(10))[0]:.120})"
        if account.reading.projector is not None:
            raise ValueError(f"{path}: {words}: say --projector PREFIX for another one, or none.") from error
        account.assumed(f"no projector, as {words}", "--projector PREFIX")
        return None
    return projector


def _arguments(
    tensors: State, form: str, architecture: str | None, writer: str, noted: Noted, account: Account, path: Path
) -> tuple[str, dict[str, Any]]:
    """The architecture and what builds it."""
    if architecture is None and FORMATS[form.removesuffix(" of OpenAI")].kind == "resnet":
        return "resnet", resnet_arguments(tensors, form, writer == "solo-learn", noted.solo, account, path)
    if architecture is None:
        return "timm", vit_arguments(tensors, form, writer, noted, account, path)
    arguments: dict[str, Any] = {"name": architecture}
    if architecture == noted.architecture:
        known = {name: value for name, value in noted.arguments.items() if name in TIMM_OPTIONS}
        arguments |= known
        if known:
            account.said(f"{', '.join(known)}: from {noted.where} beside the file")
        if others := [name for name in noted.arguments if name not in known]:
            account.assumed(
                f"{', '.join(others)} of {noted.where} change nothing", "--backbone package.module:function"
            )
    arguments |= _of_a_named_vit(tensors, form, architecture, writer, account)
    if (size := account.reading.image_size) is not None and "pos_embed" in tensors:
        arguments["img_size"] = size
    pooled = next((pooling for family, pooling in _POOLED.items() if family in architecture), noted.pooling or None)
    wanted = {"mean": "avg", "token": "token", None: pooled}.get(account.reading.pooling, "")
    if wanted == "":
        raise ValueError(f"pooling is token or mean, not {account.reading.pooling!r}.")
    if wanted is not None:
        arguments["global_pool"] = wanted
    return "timm", arguments


def _of_a_named_vit(tensors: State, form: str, architecture: str, writer: str, account: Account) -> dict[str, Any]:
    """What a file is known to have otherwise than timm's network of that name: heads, and the activation of a CLIP."""
    found: dict[str, Any] = {}
    qkv = tensors.get("blocks.0.attn.qkv.weight")
    if qkv is not None and (heads := known_heads(tensors, writer, qkv.shape[1], account)) is not None:
        found["num_heads"] = heads
    if form.startswith("CLIP") and "clip" in architecture and "quickgelu" not in architecture:
        given = account.reading.activation
        if given not in (None, "gelu", "quick_gelu"):
            raise ValueError(f"The activation of a CLIP is quick_gelu or gelu, not {given!r}.")
        if (given or ("quick_gelu" if form == OPENAI else "gelu")) == "quick_gelu":
            found["act_layer"] = "quick_gelu"
            account.said(f"activation: quick_gelu{', as OpenAI has it in its own files' if given is None else ''}")
    return found


def _find(weights: Weights, path: Path, architecture: str | None, account: Account) -> tuple[str, str]:
    """What precedes the backbone's names, and its format; none for an architecture whose names are timm's own."""
    state = weights.state
    candidates: dict[str, str] = {}
    if architecture is not None:
        candidates = _places(state, architecture)
        if not candidates:
            there = ", ".join(list(state)[:5])
            raise ValueError(f"{path} does not fit {architecture}: none of its names is there, it has {there}.")
    else:
        for form, known in FORMATS.items():
            for name in state:
                if name == known.mark or name.endswith(f".{known.mark}"):
                    candidates[name.removesuffix(known.mark)] = form
    if not candidates:
        tops = ", ".join(sorted({name.partition(".")[0] for name in state if name})[:8]) or "a tensor without a name"
        raise ValueError(f"No ResNet or ViT is recognised in {path}; it has {tops}. {hint(state, path)}")
    prefix = _chosen(candidates, weights, path, account)
    form = candidates[prefix]
    if form.startswith("CLIP") and any(name.endswith("input_resolution") for name in state):
        form = OPENAI
    account.said(f"backbone: {len([n for n in state if n.startswith(prefix)])} tensors at {prefix or 'the top'}")
    return prefix, form


def _chosen(candidates: dict[str, str], weights: Weights, path: Path, account: Account) -> str:
    """The backbone itself before its copies, a teacher before its student, the shortest name first."""
    ijepa = "target_encoder." in weights.containers

    def rank(prefix: str) -> tuple[bool, bool, int]:
        copy = prefix.startswith("encoder.") if ijepa else bool(COPIES.search(prefix))
        return copy, "teacher" not in prefix, len(prefix)

    part = account.reading.part
    fitting = [place for place in candidates if part is None or place == part or place == f"{part}."]
    fitting = fitting or [place for place in candidates if part is not None and place.startswith(part)]
    if not fitting:
        places = ", ".join(place or "the top" for place in candidates)
        raise ValueError(f"{path} has no backbone at {part!r}; it has one at {places}.")
    first, *others = sorted(fitting, key=rank)
    if others:
        account.chosen(f"the backbone at {first or 'the top'}, not at {', '.join(others)}", "--part PREFIX")
    return first


def _places(state: State, architecture: str) -> dict[str, str]:
    """What may precede the names of this network of timm -> the format of the names: one that we know, or timm's.

    Where two lie in each other the inner one is meant.
    """
    with torch.device("meta"):
        backbone = build_backbone("timm", name=architecture)
    own = {n: t.shape for n, t in backbone.state_dict().items() if not n.endswith("num_batches_tracked")}
    parts = [name.split(".") for name in state]
    counts = Counter(".".join([*p[:k], ""]) for p in parts for k in range(min(len(p), 6)))
    hits: dict[tuple[str, str], int] = {}
    for prefix in (prefix for prefix, count in counts.items() if count >= len(own) // 2):
        below = {name.removeprefix(prefix): t.to("meta") for name, t in state.items() if name.startswith(prefix)}
        for form in ("", *(form for form, known in FORMATS.items() if known.mark in below)):
            tensors = _shaped(renamed(below, FORMATS[form].rules)) if form else below
            with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):  # of another naming
                hits[prefix, form] = len(own.keys() & as_timm(tensors, backbone).keys())
    most = max(hits.values(), default=0)
    best = {prefix: form for (prefix, form), count in reversed(hits.items()) if count == most > len(own) // 4}
    return {place: form for place, form in best.items() if not any(p != place and p.startswith(place) for p in best)}


def _shaped(tensors: State) -> State:
    """Class token and positions of a CLIP, which lack the dimensions that timm's have."""
    for name in ("cls_token", "pos_embed"):
        if name in tensors and tensors[name].ndim < 3:
            tensors[name] = tensors[name].reshape(1, -1, tensors[name].shape[-1])
    return tensors


def _converted(tensors: State, backbone: nn.Module, account: Account) -> State:
    """In timm's naming and sizes; what its own conversion drops is said."""
    with contextlib.redirect_stdout(io.StringIO()):
        result = as_timm(tensors, backbone)
    before, after = (len(t["pos_embed"][0]) if "pos_embed" in t else 0 for t in (tensors, result))
    if before != after and tensors["pos_embed"].ndim == 3:
        account.assumed(f"positions for {after} tokens, resized from {before}", "--image-size N")
    changed = [n for n, t in tensors.items() if n in result and n != "pos_embed" and t.shape != result[n].shape]
    changed = [name for name in changed if tensors[name].ndim > 1 and tensors[name].numel() != result[name].numel()]
    if patches := [name for name in changed if name.endswith("patch_embed.proj.weight")]:
        here, there = (t[patches[0]].shape[-1] for t in (tensors, result))
        raise ValueError(f"The file has patches of {here} px, and that network of timm {there}: give another name.")
    if changed:
        account.assumed(f"{_some(changed)} resized, as timm's network has other windows", "another TIMM_NAME=FILE")
    kept = {tensor.data_ptr() for tensor in result.values()}
    dropped = [n for n, t in tensors.items() if n not in result and t.data_ptr() not in kept and t.numel()]
    if dropped:
        account.left_out(dropped, f"{_some(dropped)}, which timm's own conversion drops")
    return result


def _own(tensors: State, backbone: nn.Module) -> tuple[State, list[str]]:
    """The backbone's tensors, and the names of others that lie among them and are no part of it."""
    own = backbone.state_dict().keys()
    extra = [name for name in tensors if name not in own and _EXTRA.fullmatch(name.partition(".")[0])]
    parts = {name.partition(".")[0] for name in own}
    foreign = [name for name in tensors if name not in own and name not in extra and _apart(name, parts)]
    return {n: t for n, t in tensors.items() if n not in extra and n not in foreign}, [*extra, *foreign]


def _apart(name: str, parts: set[str]) -> bool:
    """Whether a name belongs to something beside the backbone, which has none of its words."""
    top = name.partition(".")[0]
    return top not in parts and not re.search(r"token|embed|norm|pool|bn\d|conv|stem|layer|block|stage|rope", top)


def _report_left_out(
    weights: Weights, prefix: str, projector: str, used: set[str], extra: Sequence[str], account: Account
) -> None:
    """A line for every group of tensors that are not used, and one for what belongs to the training.

    `projector`: what precedes the names of its tensors, of which some are `used`.
    """
    unused = [f"{prefix}{name}" for name in extra]
    unused += [name for name in weights.state if not name.startswith(prefix)]
    unused = [n for n in unused if n not in used and not n.endswith("num_batches_tracked")]
    groups: dict[str, dict[str, list[str]]] = {}
    for name in unused:
        group = _group(name, prefix, weights.containers)
        while projector and projector.startswith(group):  # a part of it is read
            group = f"{group}{name.removeprefix(group).partition('.')[0]}."
        groups.setdefault(_kind(group) or group, {}).setdefault(group, []).append(name)
    for kind, members in groups.items():
        begin = [names[0] if len(names) == 1 else group for group, names in members.items()]
        words = f"{kind}: {_some(begin)}" if kind not in members else _some(begin)
        account.left_out(begin, f"{words} ({_count(sum(map(len, members.values())))})")
    if weights.training:
        account.said(f"left out: {', '.join(weights.training)} (states of the training)")


def _group(name: str, prefix: str, containers: Sequence[str]) -> str:
    """The beginning of a name down to the first part that tells it from the backbone."""
    inside = max((place for place in containers if name.startswith(place)), key=len, default="")
    if inside and not prefix.startswith(inside) and inside.count(".") == 1:
        return inside
    start = name[: len(prefix)] if name.startswith(prefix) else ""
    while not start and prefix and name.startswith(prefix.partition(".")[0] + "."):
        start = prefix.partition(".")[0] + "."
    first, dot, _ = name.removeprefix(start).partition(".")
    return f"{start}{first}{dot}"


def _kind(group: str) -> str:
    kinds = {
        r"momentum|ema|teacher|student|target|anchor|_k\b|copy": "copies",
        r"classifier|^(.*\.)?(fc|heads?|head_dist|linear)\.?$": "classifiers, or heads of another width",
        r"predict": "a predictor",
        r"decoder|mask_token": "parts of a decoder",
        r"prototype|last_layer|queue": "parts of the loss",
        r"text|token_embedding|ln_final|transformer|positional|logit_": "the text tower",
    }
    return next((word for pattern, word in kinds.items() if re.search(pattern, group)), "")


def _count(number: int) -> str:
    return f"{number} tensors" if number != 1 else "1 tensor"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _writer(state: State, prefix: str, noted: Noted) -> str:
    """The program that wrote a file, where its projectors are known; empty else.

    solo-learn's networks carry an online classifier beside the backbone, MoCo's have a query and a key encoder.
    """
    container = re.fullmatch(r"(|.*\.)(backbone|encoder)\.", prefix)
    if noted.solo or (container is not None and f"{container[1]}classifier.weight" in state):
        return "solo-learn"
    if "encoder_q." in prefix or "base_encoder." in prefix:
        return "MoCo"
    if any(re.search(r"(^|\.)neck\.(fc\d|bn\d|mlp\.|projection_neck\.)", name) for name in state):
        return "MMPretrain"
    return "VISSL" if "_feature_blocks." in prefix else ""
