"""The projector of a file: where its tensors lie, and which activation stands between its layers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from rcdm.networks.projectors import ACTIVATIONS, norms_come_first
from rcdm.networks.reading import Account

State = dict[str, Tensor]

COPIES = re.compile(r"momentum|target|student|predict|queue|anchor|(^|[._])(\w*_)?(ema|m|k|key)[._]|_ema[._]")
"""In names of networks that are not the one to read: copies of it, a student, a predictor."""

_HEAD = re.compile(
    r"^(?P<prefix>(.*\.)?(\w*_)?(projector|projection(_head|_neck)?|proj_head|heads?|neck|fc|proj)(_state_dict)?\."
    r"((layers|mlp|net|model)\.)?)(\d|(fc|bn|linear|norm)_?\d)"
)
_LINEAR = re.compile(r"^(?P<prefix>(.*\.)?(\w*_)?(projector|projection_head|proj_head)(_state_dict)?\.)weight$")
_ALSO_CLASSIFIER = re.compile(r"(^|(?<!neck)\.)(fc|(?!\w*proj)(\w*_)?heads?)\.$")
"""What precedes the names of a classifier, too; in a neck it does not, nor beside MoCo's queue."""
_LAYER = re.compile(r"(?:(\d+)|(?:fc|bn|linear|norm)_?\d+)\.")
_TEACHER = re.compile(r"teacher")


def projector_of(state: State, prefix: str, width: int, account: Account, *, known: str = "") -> tuple[State, str, str]:
    """The tensors of the MLP that reads a representation of this width, its activation, what precedes its names.

    `prefix` precedes the backbone's names; `known` is the activation where the file's writer is known. Without a
    projector there are no tensors. Raises ValueError where `reading.projector` names none.
    """
    wanted = account.reading.projector
    if wanted == "none":
        return {}, "relu", ""
    found = _candidates(state, prefix, width, wanted)
    if wanted is not None and not found:
        raise ValueError(f"Nothing below {wanted!r} is a projector of a representation of width {width}.")
    if not found:
        return {}, "relu", ""
    first, *others = sorted(found, key=lambda place: _rank(place, prefix))
    if others and wanted is None:
        account.chosen(f"the projector at {first}, not at {', '.join(others)}", "--projector PREFIX")
    tensors = found[first]
    if wanted is None and not known and _ALSO_CLASSIFIER.search(first) and not _has_queue(state):
        account.assumed(f"the MLP at {first} is a projector, and no classifier", "--projector none")
    if _is_layer_norm(tensors):
        account.assumed(
            "LayerNorm in the projector (GroupNorm, and BatchNorm without running statistics, look alike in a file)",
            "--backbone package.module:function",
        )
    if norms_come_first(tensors) is None:
        account.assumed(
            "in the projector a norm follows the linear layer of its number", "--backbone package.module:function"
        )
    activation = _activation(state, first, tensors, account, known)
    return tensors, activation, first


def _candidates(state: State, prefix: str, width: int, wanted: str | None) -> dict[str, State]:
    """What precedes the names of every MLP that reads a representation of this width -> its tensors."""
    if wanted is not None:
        places = {wanted if wanted in state or wanted.endswith(".") else f"{wanted}."}
    else:
        places = {match["prefix"] for name in state if (match := _HEAD.match(name))} | _single(state, prefix)
        if _TEACHER.search(prefix):
            places = {place for place in places if _TEACHER.search(place) or "teacher" not in "".join(places)}
    found = {}
    for place in places:
        tensors = _below(state, place, wanted is not None)
        first = next((t for name, t in sorted(tensors.items(), key=_order) if t.ndim == 2), None)
        copy = bool(COPIES.search(place)) != bool(COPIES.search(prefix))
        if first is not None and first.shape[1] == width and (wanted is not None or not copy):
            found[place] = tensors
    return found


def _below(state: State, place: str, wanted: bool) -> State:
    """Tensors of the layers at a place; a matrix that stands alone is a layer without a name."""
    if place in state:  # CLIP keeps its projection as a parameter, transposed
        return {"weight": state[place].T.contiguous()} if place.endswith("proj") else {"weight": state[place]}
    tensors = {name.removeprefix(place): t for name, t in state.items() if name.startswith(place)}
    if set(tensors) <= {"weight", "bias"}:
        return tensors
    return {name: t for name, t in tensors.items() if _LAYER.match(name) or wanted}


def _is_layer_norm(tensors: State) -> bool:
    """Whether a layer has a vector for a weight, and no running statistics."""
    vectors = {name.rpartition(".")[0] for name, t in tensors.items() if name.endswith("weight") and t.ndim == 1}
    return any(f"{place}.running_mean" not in tensors for place in vectors)


def _single(state: State, prefix: str) -> set[str]:
    """Where a projection of one layer lies: CLIP's, one that is called so, or MoCo v1's, whose queue tells it from a
    classifier."""
    named = {match["prefix"] for name, t in state.items() if t.ndim == 2 and (match := _LINEAR.match(name))}
    parent = re.sub(r"trunk\.$", "", prefix)
    places = {f"{prefix}proj"} if f"{prefix}proj" in state else set()
    places |= {f"{parent}head.proj."} if f"{parent}head.proj.weight" in state else set()
    if _has_queue(state) and f"{prefix}fc.weight" in state:
        places.add(f"{prefix}fc.")
    if "neck.fc.weight" in state and prefix == "backbone.":
        places.add("neck.fc.")
    return places | named


def _has_queue(state: State) -> bool:
    return any(re.search(r"(^|\.)queue$", name) for name in state)


def _rank(place: str, prefix: str) -> tuple[int, bool, int, str]:
    """That of the same container as the backbone first, then one that is called a projector or a neck, then the
    shortest name, then the first of the alphabet."""
    common = next((k for k, (a, b) in enumerate(zip(place, prefix, strict=False)) if a != b), len(prefix))
    plain = not re.search(r"proj|neck", place)  # what is called so is meant
    return -len(prefix[:common].rpartition(".")[0]), plain, len(place), place


def _order(item: tuple[str, Tensor]) -> tuple[tuple[int, ...], str]:
    return tuple(int(number) for number in re.findall(r"\d+", item[0].rpartition(".")[0])), item[0]


def _activation(state: Mapping[str, Tensor], place: str, tensors: State, account: Account, known: str) -> str:
    """What the option says, else that of a known head, else ReLU, which is said."""
    layers = sum(t.ndim == 2 for t in tensors.values())
    if layers < 2:
        return "relu"  # one layer has none
    if (given := account.reading.activation) is not None:
        if given not in ACTIVATIONS:
            raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, not {given!r}.")
        return given
    parent = place.removesuffix("mlp.").removesuffix("layers.")
    if any(name.startswith(f"{parent}last_layer.") for name in state):
        account.said("activation of the projector: GELU, its head is DINO's")
        return "gelu"
    signs = r"anchor_|prototypes|mask_token$"  # lightly's MSN and PMSN: no other head of three layers has one beside it
    if layers == 3 and "projection_head." in place and any(re.search(signs, name) for name in state):
        words = "GELU in the projector, its head and what lies beside it are MSN's"
        if any("anchor_" in name for name in state):
            account.said(words)
        else:
            account.assumed(words, "--activation relu")
        return "gelu"
    if place.endswith("head.mlp.") and any(name.startswith("fc1.") for name in tensors):
        account.said("activation of the projector: GELU, it is an Mlp of timm")
        return "gelu"
    if known:
        account.said(f"activation of the projector: ReLU, as {known} has it")
        return "relu"
    account.assumed("ReLU between the projector's layers", f"--activation {' or '.join(ACTIVATIONS)}")
    return "relu"
