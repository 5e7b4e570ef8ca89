"""Networks trained with the released RCDM code (trunk, head, `ssl_emb` …) -> RepresentationUNet and its scheduler."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rcdm.diffusion.official.sampler import SpacedDDIMScheduler, SpacedDDPMScheduler
from rcdm.diffusion.unet import RepresentationUNet
from rcdm.networks.safe_load import read_checkpoint

DEFAULT_FLAGS: dict[str, Any] = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "dropout": 0.0,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "learn_sigma": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "predict_xstart": False,
    "rescale_timesteps": False,
}
"""What the released code assumes of a flag that is not given."""

RELEASED_FLAGS: dict[str, Any] = DEFAULT_FLAGS | {
    "image_size": 128,
    "num_channels": 256,
    "attention_resolutions": "32,16,8",
    "resblock_updown": True,
    "learn_sigma": True,
}
"""The nine released 128 px networks."""

_MULTIPLIERS = {512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4)}


def from_official(
    state_dict_or_path: Mapping[str, Tensor] | str | Path,
    flags: Mapping[str, Any] | None = None,
    *,
    source: str = "official/backbone",
) -> RepresentationUNet:
    """A state dict, or a .pt or .safetensors file, of the released code -> RepresentationUNet in eval mode.

    `flags` are those that the network was trained with, under their own names; one that is missing has the default of
    the released code. Without `flags` it is one of the nine released networks. `source` names what conditions it.
    Raises ValueError, naming the keys, when one is left over or missing, and for networks that also take a class.
    """
    state = dict(state_dict_or_path) if isinstance(state_dict_or_path, Mapping) else read_official(state_dict_or_path)
    flags = RELEASED_FLAGS if flags is None else DEFAULT_FLAGS | dict(flags)
    if "label_emb.weight" in state:
        raise ValueError(
            "label_emb.weight: this network is conditioned on class labels too, which rcdm cannot give it."
        )
    unet = _empty(flags, source, state)
    moved = _moved(state, flags, source)
    expected = {name for name, _ in unet.named_parameters()}
    if missing := sorted(expected - set(moved)):
        raise ValueError(f"The file lacks what fills {_some(missing)}; do the flags belong to it?")
    if unknown := sorted(set(moved) - expected):
        raise ValueError(f"The flags leave no place for {_some(unknown)}; do they belong to this file?")
    shapes = {name: parameter.shape for name, parameter in unet.named_parameters()}
    if wrong := sorted(name for name, tensor in moved.items() if tensor.shape != shapes[name]):
        raise ValueError(f"Shapes differ at {_some(wrong)}; do the flags belong to this file?")
    unet.load_state_dict(moved, strict=False)  # strict as to parameters: only the statistics keep their identity
    return unet.eval().requires_grad_(False)


def read_official(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .pt or .safetensors file. Raises ValueError when there are none; nothing in it is executed."""
    state = read_checkpoint(path)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict: a mapping of names to tensors was expected.")
    return {name: tensor.detach() for name, tensor in state.items()}


def official_scheduler(
    flags: Mapping[str, Any] | None = None, *, ddim: bool = False
) -> SpacedDDPMScheduler | SpacedDDIMScheduler:
    """The sampler of the released code, ancestral or `ddim`: its betas, its spacing, its variance."""
    flags = RELEASED_FLAGS if flags is None else DEFAULT_FLAGS | dict(flags)
    steps = flags["diffusion_steps"]
    shared = {
        "num_train_timesteps": steps,
        "beta_start": 1e-4 * 1000 / steps,
        "beta_end": 0.02 * 1000 / steps,
        "beta_schedule": {"linear": "linear", "cosine": "squaredcos_cap_v2"}[flags["noise_schedule"]],
        "prediction_type": "sample" if flags["predict_xstart"] else "epsilon",
        "clip_sample": True,
        "timestep_spacing": "linspace",
    }
    if ddim:
        return SpacedDDIMScheduler(**shared)
    return SpacedDDPMScheduler(**shared, variance_type="learned_range" if flags["learn_sigma"] else "fixed_large")


def _empty(flags: Mapping[str, Any], source: str, state: Mapping[str, Tensor]) -> RepresentationUNet:
    """The network that the flags describe, with random weights."""
    widths = _widths(flags)
    attends = _attends(flags, len(widths))
    resnet = flags["resblock_updown"]
    plain_down, plain_up = (
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if resnet else ("DownBlock2D", "UpBlock2D")
    )
    heads = flags["num_heads"]
    heads_up = heads if flags["num_heads_upsample"] == -1 else flags["num_heads_upsample"]
    by_width = flags["num_head_channels"] != -1
    arguments = {
        "sample_size": flags["image_size"],
        "in_channels": 3,
        "out_channels": 6 if flags["learn_sigma"] else 3,
        "block_out_channels": widths,
        "layers_per_block": flags["num_res_blocks"],
        "down_block_types": tuple("AttnDownBlock2D" if a else plain_down for a in attends),
        "up_block_types": tuple("AttnUpBlock2D" if a else plain_up for a in reversed(attends)),
        "attention_head_dim": flags["num_head_channels"] if by_width else math.gcd(*widths),
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,
        "class_embed_type": "identity",
        "resnet_time_scale_shift": "scale_shift" if flags["use_scale_shift_norm"] else "default",
        "downsample_type": "resnet" if resnet else "conv",
        "upsample_type": "resnet" if resnet else "conv",
        "dropout": flags["dropout"],
    }
    sources = {source: state["ssl_emb.weight"].shape[1]} if "ssl_emb.weight" in state else {}
    return RepresentationUNet(
        sources,
        arguments,
        projection_bias=True,
        attention_heads=None if by_width else (heads, heads_up),
        embedding_channels=flags["num_channels"],
        timestep_scale=1000 / flags["diffusion_steps"] if flags["rescale_timesteps"] else 1.0,
        has_unconditional=not sources,
    )


def _widths(flags: Mapping[str, Any]) -> tuple[int, ...]:
    """Channels of each level."""
    given = flags["channel_mult"]
    if not given and flags["image_size"] not in _MULTIPLIERS:
        raise ValueError(f"There is no default channel_mult for {flags['image_size']} px: give it as a flag.")
    given = given or _MULTIPLIERS[flags["image_size"]]
    multipliers = [float(m) for m in given.split(",")] if isinstance(given, str) else given
    return tuple(int(m * flags["num_channels"]) for m in multipliers)


def _attends(flags: Mapping[str, Any], levels: int) -> list[bool]:
    """Whether each level has attention: the flag names sizes of feature maps."""
    given = flags["attention_resolutions"]
    sizes = [int(size) for size in given.split(",") if size] if isinstance(given, str) else given
    return [2**level in {flags["image_size"] // size for size in sizes} for level in range(levels)]


def _moved(state: Mapping[str, Tensor], flags: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Every tensor under its new name. Raises ValueError for keys that no rule takes."""
    state = dict(state)
    moved: dict[str, Tensor] = {}
    for old, new, kind in _places(flags, source):
        names = {"residual": _RESIDUAL, "attention": _ATTENTION, "layer": {"": ""}}[kind]
        for old_part, new_part in names.items():
            for end in ("weight", "bias"):
                tensor = state.pop(".".join(filter(None, (old, old_part, end))), None)
                if tensor is None:
                    continue
                if old_part == "qkv":
                    for letter, part in zip("qkv", _split_qkv(tensor, flags, old), strict=True):
                        moved[f"unet.{new}.to_{letter}.{end}"] = part
                    continue
                if kind == "attention":
                    tensor = tensor.flatten(1) if tensor.ndim == 3 else tensor
                target = ".".join(filter(None, (new, new_part, end)))
                moved[target if new.startswith("projections") else f"unet.{target}"] = tensor
    if state:
        raise ValueError(f"No part of the network that the flags describe takes {_some(sorted(state))}.")
    return moved


_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "qkv": "", "proj_out": "to_out.0"}


def _split_qkv(tensor: Tensor, flags: Mapping[str, Any], place: str) -> tuple[Tensor, ...]:
    """[3C,C,1] or [3C] -> q, k, v, each [C,C] or [C], heads one after the other.

    The released order is (head, q k v, width of a head), the new one (q k v, head, width).
    """
    tensor = tensor.flatten(1) if tensor.ndim == 3 else tensor
    channels = len(tensor) // 3
    if flags["use_new_attention_order"]:
        return tensor.chunk(3)
    heads = flags["num_heads"]
    if place.startswith("output_blocks") and flags["num_heads_upsample"] != -1:
        heads = flags["num_heads_upsample"]
    if flags["num_head_channels"] != -1:
        heads = channels // flags["num_head_channels"]
    parts = tensor.unflatten(0, (heads, 3, channels // heads))
    return tuple(parts[:, k].flatten(0, 1).contiguous() for k in range(3))


def _places(flags: Mapping[str, Any], source: str) -> Iterator[tuple[str, str, str]]:
    """(old prefix, new prefix, kind) of every layer, residual block and attention block."""
    levels, depth = len(_widths(flags)), flags["num_res_blocks"]
    attends, resnet = _attends(flags, levels), flags["resblock_updown"]
    yield from (
        ("time_embed.0", "time_embedding.linear_1", "layer"),
        ("time_embed.2", "time_embedding.linear_2", "layer"),
        ("ssl_emb", f"projections.{source}.linear", "layer"),
        ("input_blocks.0.0", "conv_in", "layer"),
        ("middle_block.0", "mid_block.resnets.0", "residual"),
        ("middle_block.1", "mid_block.attentions.0", "attention"),
        ("middle_block.2", "mid_block.resnets.1", "residual"),
        ("out.0", "conv_norm_out", "layer"),
        ("out.2", "conv_out", "layer"),
    )
    entry = 1
    for level in range(levels):
        for k in range(depth):
            yield f"input_blocks.{entry}.0", f"down_blocks.{level}.resnets.{k}", "residual"
            if attends[level]:
                yield f"input_blocks.{entry}.1", f"down_blocks.{level}.attentions.{k}", "attention"
            entry += 1
        if level < levels - 1:
            down = f"down_blocks.{level}.downsamplers.0"
            yield (
                (f"input_blocks.{entry}.0", down, "residual")
                if resnet
                else (
                    f"input_blocks.{entry}.0.op",
                    f"{down}.conv",
                    "layer",
                )
            )
            entry += 1
    entry = 0
    for level in reversed(range(levels)):
        block = f"up_blocks.{levels - 1 - level}"
        for k in range(depth + 1):
            yield f"output_blocks.{entry}.0", f"{block}.resnets.{k}", "residual"
            if attends[level]:
                yield f"output_blocks.{entry}.1", f"{block}.attentions.{k}", "attention"
            if k == depth and level > 0:
                old, up = f"output_blocks.{entry}.{2 if attends[level] else 1}", f"{block}.upsamplers.0"
                yield (old, up, "residual") if resnet else (f"{old}.conv", f"{up}.conv", "layer")
            entry += 1


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
