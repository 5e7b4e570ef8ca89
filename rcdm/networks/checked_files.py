"""JSON and safetensors of a checkpoint, which may be damaged or made to do harm: looked at before they are used."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

MOST_JSON = 32 * 2**20  # bytes
LONGEST = 80  # characters of what a file says that a message repeats

NOTES = ("_class_name", "_diffusers_version", "_name_or_path", "_use_default_values")
"""What diffusers adds to each config that it writes."""

Shape = tuple[int, ...]
Config = TypeVar("Config", bound=BaseModel)


class Fields(BaseModel):
    """A config whose fields are known: another one is refused, but for NOTES."""

    model_config = ConfigDict(extra="forbid", strict=True)


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError, naming the file, where it is missing, broken, or no object."""
    try:
        if file.stat().st_size > MOST_JSON:
            raise ValueError(f"it has more than {MOST_JSON >> 20} MiB")
        content = json.loads(file.read_bytes(), parse_constant=_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({_short(error)}): get the file again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold an object, and holds {_short(content)}: get the file again.")
    return content


def own_fields(file: Path) -> dict[str, Any]:
    """The object in a JSON file without the NOTES of diffusers."""
    return {key: value for key, value in read_object(file).items() if key not in NOTES}


def read_fields(file: Path, kind: type[Config]) -> Config:
    """The object in a JSON file, its fields checked. Raises ValueError naming the file and the first field at fault."""
    try:
        return kind.model_validate_json(json.dumps(own_fields(file)))
    except ValidationError as error:
        _refuse(file, error)


def _refuse(file: Path, error: ValidationError) -> NoReturn:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the whole"
    what = "is no field of this file" if first["type"] == "extra_forbidden" else f"is {_short(first['input'])}"
    if first["type"] == "missing":
        what = "is missing"
    message = first["msg"].removeprefix("Value error, ")
    raise ValueError(f"{file}: {_short(field)} {what} ({message}).") from error


def shapes_of(files: Iterable[Path]) -> dict[str, Shape]:
    """Name -> shape of every tensor in safetensors files; no tensor is read. Raises ValueError for a damaged file."""
    shapes: dict[str, Shape] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors has errors of its own
            raise ValueError(f"{file} is no whole safetensors file ({_short(error)}): get the file again.") from error
    return shapes


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, floats as float32. Raises ValueError for a damaged file, NaN and infinity."""
    shapes_of([file])
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in load_file(file).items()}
    check_finite(tensors, file)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raises ValueError, naming a tensor, where one holds NaN or infinity."""
    floats = {n: t.float() if t.element_size() == 1 else t for n, t in tensors.items() if t.is_floating_point()}
    if bad := [name for name, t in floats.items() if not torch.isfinite(t).all()]:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(f"{file}: {_short(bad[0])}{more} holds NaN or infinity: take another state of the training.")


def check_fit(network: nn.Module, shapes: Mapping[str, Shape], file: Path) -> None:
    """Raises ValueError, naming a tensor, where a file does not hold exactly the tensors of a network.

    The network may be on the meta device: then nothing was allocated for it, however large its config made it.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in (*wanted, *shapes):
        here, there = wanted.get(name), shapes.get(name)
        if here != there:
            has = f"has {list(there)}" if there is not None else "is missing"
            needs = f"needs {list(here)}" if here is not None else "has no such tensor"
            raise ValueError(f"{file}: {_short(name)} {has}, and the network of config.json {needs}.")


def _constant(name: str) -> float:
    """-Infinity is a value of some schedulers; NaN is none of anything."""
    if name == "NaN":
        raise ValueError("it holds NaN")
    return float(name)


def reason(error: Exception) -> str:
    """What an error of another library says, in one line."""
    text = " ".join(str(error).split()).partition("loading state_dict for ")
    return (text[2].partition(": ")[2] or text[0])[:200]


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
