"""A checkpoint's folder, looked at before anything is built from it: it may be damaged, or made to do harm."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from diffusers import SchedulerMixin, UNet2DModel
from pydantic import BaseModel, Field, StringConstraints

from rcdm.diffusion.places import CONTINUE
from rcdm.networks.checked_files import Fields, check_fit, own_fields, read_fields, read_object, reason, shapes_of

UNFINISHED = "unfinished-export"
WEIGHTS = "diffusion_pytorch_model.safetensors"

Count = Annotated[int, Field(ge=1, le=2**16)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Word = Annotated[str, StringConstraints(max_length=200)]


class PipelineIndex(Fields):
    """model_index.json. Nothing is imported because a checkpoint names it: the classes are these."""

    unet: tuple[Literal["rcdm"], Literal["RepresentationUNet"]]
    sources: tuple[Literal["rcdm"], Literal["Sources"]]
    scheduler: tuple[Literal["diffusers", "rcdm"], Word]
    default_steps: Annotated[int, Field(ge=1, le=1000)] = 20
    trained_on: Word = ""
    guidance_scales: Annotated[dict[Word, Annotated[float, Field(ge=0, le=100)]], Field(max_length=1000)] = Field({})
    guidance_interval: Annotated[list[Number], Field(max_length=2, min_length=2)] | None = None
    guidance_strengths: Annotated[dict[Word, Annotated[float, Field(ge=0, le=100)]], Field(max_length=1000)] = Field({})
    regressor: tuple[Literal["rcdm"], Literal["Regressor"]] | tuple[None, None] = (None, None)
    full_resolution: bool = False


class UNetConfig(Fields):
    """unet/config.json: the arguments of RepresentationUNet."""

    sources: Annotated[dict[Word, Count], Field(max_length=1000)]
    unet_config: dict[Word, Any]
    space: dict[Word, Any] = Field({"kind": "pixels"})
    has_unconditional: bool = True
    projection_bias: bool = False
    attention_heads: Annotated[list[Count], Field(max_length=2, min_length=2)] | None = None
    embedding_channels: Count | None = None
    timestep_scale: Number = 1.0
    coarse_size: Annotated[int, Field(ge=0, le=256)] = 0


class RegressorConfig(Fields):
    """regressor/config.json: the arguments of Regressor."""

    sources: Annotated[
        dict[Word, Annotated[list[Count], Field(max_length=2, min_length=2)]], Field(min_length=1, max_length=1000)
    ]
    image_size: Count
    levels: Annotated[int, Field(ge=2, le=100)]


class SchedulerBounds(BaseModel):
    """What a schedule may ask for, whichever scheduler it is."""

    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "epsilon"
    num_train_timesteps: Annotated[int, Field(ge=1, le=100_000)] = 1000
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 0.0001
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    trained_betas: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(max_length=100_000)] | None = None
    solver_order: Annotated[int, Field(ge=1, le=3)] = 2
    sample_max_value: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    dynamic_thresholding_ratio: Annotated[float, Field(ge=0, le=1)] = 0.995


class Measured(BaseModel):
    """A number of metrics.json."""

    value: Number
    low: Number | None = None
    high: Number | None = None
    null: Number | None = None
    probe: Number | None = None
    calibration: Number | None = None


class SourceMetrics(BaseModel):
    """What was measured of one source, as far as it is read again."""

    similarity_floor: Measured | None = None
    cycle_error: Measured | None = None
    mrr: Measured | None = None
    recall_at_1: Measured | None = None
    retention: dict[Word, Measured] | None = None


class Metrics(BaseModel):
    """metrics.json, as far as it is read again."""

    n: int = 0
    sources: dict[Word, SourceMetrics] = Field({})
    spread: dict[Word, Number] = Field({})


MOST_BLOCKS = 64  # of one resolution, and resolutions of a network
SHAPES = ("sample_size", "in_channels", "out_channels", "norm_num_groups", "attn_norm_num_groups", "attention_head_dim")


@contextmanager
def unfinished(folder: Path) -> Iterator[None]:
    """Inside, a checkpoint is being written; where that ends in an error, or with the process, loading it says so."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED).touch()
    yield
    (folder / UNFINISHED).unlink()


def check_pipeline(folder: Path) -> None:
    """Raises ValueError naming the file and the field, where a pipeline cannot be built from a folder."""
    if (folder / UNFINISHED).exists():
        raise ValueError(f"{folder} was not written to its end. {CONTINUE.format(folder)}")
    index = read_fields(folder / "model_index.json", PipelineIndex)
    _check_scheduler(folder / "scheduler" / "scheduler_config.json", *index.scheduler)


def check_unet(folder: Path, build: Callable[..., torch.nn.Module]) -> list[Path]:
    """The weights' files of the folder `unet`. Raises ValueError where `build(**config)` is not what they hold.

    The network is built without memory, so absurd widths cost none.
    """
    file = folder / "config.json"
    config = read_fields(file, UNetConfig).model_dump(exclude_unset=True)
    _check_unet_arguments(file, config["unet_config"])
    weights = _weights(folder)
    try:
        with torch.device("meta"):
            blank = build(**config)
    except Exception as error:  # of the many parts of a network
        raise ValueError(f"{file} describes no network that can be built: {reason(error)}") from error
    check_fit(blank, shapes_of(weights), folder / WEIGHTS)
    return weights


def check_regressor(folder: Path, build: Callable[..., torch.nn.Module]) -> list[Path]:
    """The weights' files of the folder `regressor`. Raises ValueError where `build(**config)` is not what they hold."""
    config = read_fields(folder / "config.json", RegressorConfig).model_dump()
    try:
        with torch.device("meta"):
            blank = build(**config)
    except Exception as error:  # of torch: names of modules, say
        raise ValueError(f"{folder / 'config.json'} describes no regressor: {reason(error)}") from error
    weights = _weights(folder)
    check_fit(blank, shapes_of(weights), folder / WEIGHTS)
    return weights


def check_foreign_prior(folder: Path) -> tuple[dict[str, Any], list[Path], SchedulerMixin]:
    """A pipeline folder of diffusers -> arguments of its UNet2DModel, files of its weights, its scheduler.

    Both lie in folders of their own or, in old pipelines, beside model_index.json. Raises ValueError where it is not
    an unconditional pipeline on pixels, or is damaged.
    """
    index = {name: part for name, part in own_fields(folder / "model_index.json").items() if not name.startswith("_")}
    if index.get("unet") != ["diffusers", "UNet2DModel"] or set(index) - {"unet", "scheduler"}:
        raise ValueError(
            f"{folder} is no prior: that is a checkpoint of ours, or a pipeline of diffusers that has an unconditional "
            "UNet2DModel on pixels and a scheduler alone, such as DDPMPipeline."
        )
    scheduler = index.get("scheduler")
    if not (isinstance(scheduler, list) and len(scheduler) == 2 and scheduler[0] == "diffusers"):
        raise ValueError(f"{folder / 'model_index.json'} names no scheduler of diffusers.")
    noise, place = (folder / part if (folder / part).is_dir() else folder for part in ("scheduler", "unet"))
    built = _check_scheduler(noise / "scheduler_config.json", "diffusers", str(scheduler[1]), older=True)
    file = place / "config.json"
    arguments = own_fields(file)
    _check_unet_arguments(file, arguments)
    if arguments.get("class_embed_type") or arguments.get("num_class_embeds"):
        raise ValueError(f"{folder} draws classes: a prior is an unconditional pipeline.")
    if arguments.get("in_channels", 3) != 3 or arguments.get("out_channels", 3) not in (3, 6):
        raise ValueError(f"{folder} does not draw RGB pixels: its network takes and gives other than 3 channels.")
    if not isinstance(arguments.get("sample_size"), int):
        raise ValueError(f"{file}: sample_size must say how many pixels a side of its square images has.")
    weights = _weights(place)
    if not all(one.is_file() for one in weights):
        raise ValueError(f"{place} has no {WEIGHTS}: save it with `save_pretrained(…, safe_serialization=True)`.")
    return arguments, weights, built


def read_metrics(folder: Path) -> dict[str, Any]:
    """What `rcdm evaluate` wrote into a checkpoint's folder; empty where it never did.

    Raises ValueError for a damaged file.
    """
    file = folder / "metrics.json"
    if not file.is_file():
        return {}
    read_fields(file, Metrics)
    return read_object(file)


def _check_unet_arguments(file: Path, arguments: Mapping[str, Any]) -> None:
    known = inspect.signature(UNet2DModel.__init__).parameters
    if unknown := [name for name in arguments if name not in known]:
        raise ValueError(f"{file}: unet_config.{unknown[0][:80]} is no argument of a UNet2DModel.")
    for name, value in arguments.items():
        _check_kind(f"{file}: unet_config.{name}", value, known[name].default)
    sizes = {name: arguments.get(name) for name in SHAPES}
    sizes |= {f"block_out_channels.{i}": c for i, c in enumerate(arguments.get("block_out_channels", ()))}
    for name, value in sizes.items():
        if value is not None and not (type(value) is int and 1 <= value <= 2**16):
            raise ValueError(f"{file}: unet_config.{name} must be a whole number from 1 to {2**16}, not {value!r:.80}.")
    for name in ("layers_per_block", "norm_num_groups"):
        if name in arguments and not (type(arguments[name]) is int and 1 <= arguments[name] <= 2**10):
            raise ValueError(f"{file}: unet_config.{name} must be a whole number from 1 to 1024.")
    if max(arguments.get("layers_per_block", 2), len(arguments.get("block_out_channels", ()))) > MOST_BLOCKS:
        raise ValueError(f"{file}: unet_config asks for more than {MOST_BLOCKS} blocks.")


def _check_scheduler(
    file: Path, library: Literal["diffusers", "rcdm"], name: str, *, older: bool = False
) -> SchedulerMixin:
    """The scheduler, built. `older`: what its class does not know any more is left out, as diffusers does."""
    kind = getattr(import_module(library), name, None) if name.endswith("Scheduler") else None
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise ValueError(f"{file.parents[1] / 'model_index.json'}: {name!r:.80} is no scheduler of {library}.")
    known = inspect.signature(kind).parameters
    config = {key: value for key, value in own_fields(file).items() if key in known or not older}
    for key, value in config.items():
        if key not in known:
            raise ValueError(f"{file}: {key[:80]} is no argument of {name}.")
        _check_kind(f"{file}: {key}", value, known[key].default)
    read_fields(file, SchedulerBounds)
    try:
        built: SchedulerMixin = kind(**config)
        built.set_timesteps(2)
    except Exception as error:  # each has checks of its own
        raise ValueError(f"{file} describes no {name} that can be built: {reason(error)}") from error
    return built


def _check_kind(field: str, value: Any, default: Any) -> None:
    """Raises ValueError where a value is of another kind than the default of its argument."""
    kinds: dict[type, tuple[type, ...]] = {
        bool: (bool,), int: (int,), float: (int, float), str: (str,), tuple: (list, tuple), list: (list, tuple)
    }  # fmt: skip
    allowed = kinds.get(type(default), (object,))
    fits = isinstance(value, allowed) and (isinstance(value, bool) == (bool in allowed) or allowed == (object,))
    if value is not None and not fits:
        raise ValueError(f"{field} must be like {default!r}, not {value!r:.80}.")
    if isinstance(value, int | float) and abs(value) > 2**20 and value not in (float("inf"), float("-inf")):
        raise ValueError(f"{field} is too large: {value!r:.80}.")


def _weights(folder: Path) -> list[Path]:
    """The safetensors of a folder: one file, or those that an index beside them names."""
    index = folder / f"{WEIGHTS}.index.json"
    if not index.is_file():
        return [folder / WEIGHTS]
    named = read_object(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise ValueError(f"{index}: weight_map must say in which file each tensor lies.")
    if outside := [name for name in named.values() if Path(name).name != name]:
        raise ValueError(f"{index} names {outside[0][:80]!r}, which is not in its folder.")
    return [folder / name for name in sorted(set(named.values()))]
