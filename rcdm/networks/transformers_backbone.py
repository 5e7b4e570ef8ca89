"""Vision networks of the library transformers as backbones: their own forward, read at levels; needs the extra `hf`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

_TOKEN = ("vit", "deit", "vit_msn", "vit_mae", "dinov2", "dinov2_with_registers", "dinov3_vit", "clip_vision_model")
"""Families whose authors' forward returns the class token; in all but ViT's kin transformers' pooler does, too."""

_MEAN = ("ijepa", "data2vec-vision", "beit")
"""Families that their authors read at the mean of the patches."""

_POOLER = (
    "dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext", "clip_vision_model", "siglip_vision_model",
    "siglip2_vision_model", "resnet", "convnext", "convnextv2", "swin", "swinv2", "regnet",
)  # fmt: skip
"""Families whose representation is transformers' own `pooler_output`."""

_CLASSES = {
    "clip": "CLIPVisionModelWithProjection",
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "siglip": "SiglipVisionModel",
    "siglip2": "Siglip2VisionModel",
}
"""Family -> the class that reads its images, where `AutoModel` would not choose it."""


def library() -> Any:
    """The package. Raises ValueError, saying what to install, where it is not."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ValueError(
            "This network is one of the library transformers, which is not installed: `pip install -e '.[hf]'`."
        ) from error
    return transformers


class TransformersBackbone(nn.Module):
    """A vision model of transformers: normalised images [B,3,H,W] -> its representation [B,D].

    Args:
        model: pixel values -> an output of transformers.
        pooling: `pooler` for its own pooled output, else what is taken of its last tokens: `token` or `mean`.

    `blocks` are its layers or stages. MAE sees all patches, in their order, not a random quarter of them.
    """

    def __init__(self, model: nn.Module, pooling: str) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling
        config: Any = model.config
        if config.model_type == "vit_mae":
            config.mask_ratio = 0.0
        self.family = str(config.model_type)
        self._config = config
        classes = {"deit": 2, "ijepa": 0, "swin": 0, "swinv2": 0, "siglip_vision_model": 0, "siglip2_vision_model": 0}
        registers = int(getattr(config, "num_register_tokens", 0) or 0)
        self.num_prefix_tokens = classes.get(self.family, int(self.family in (*_TOKEN, *_MEAN))) + registers
        token = pooling == "token" or (pooling == "pooler" and self.family in _TOKEN)
        self.global_pool = "token" if token else "avg"
        self._parameters_of_forward = set(inspect.signature(model.forward).parameters)

    @property
    def blocks(self) -> nn.Module:
        """Layers or stages, in order of depth."""
        lists = [
            (name.count("."), name)
            for name, part in self.model.named_modules()
            if isinstance(part, nn.ModuleList) and name.rpartition(".")[2] in ("layer", "layers", "stages", "blocks")
        ]
        if not lists:
            raise AttributeError("no list of layers")
        return self.model.get_submodule(min(lists)[1])

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] normalised -> [B,D]."""
        output = self.model(**self._inputs(x))
        if self.pooling == "pooler":
            return output.pooler_output.flatten(1)
        tokens = output.last_hidden_state
        if tokens.ndim == 4:
            return tokens.mean((2, 3))
        return tokens[:, 0] if self.pooling == "token" else tokens[:, self.num_prefix_tokens :].mean(1)

    def _inputs(self, x: Tensor) -> dict[str, Any]:
        if self.family == "siglip2_vision_model":
            return _patches(x, self._config.patch_size)
        inputs: dict[str, Any] = {"pixel_values": x}
        size = getattr(self._config, "image_size", None)
        if "interpolate_pos_encoding" in self._parameters_of_forward and size not in (None, x.shape[-1]):
            inputs["interpolate_pos_encoding"] = True
        if self.family == "vit_mae":
            count = (x.shape[-1] // self._config.patch_size) ** 2
            inputs["noise"] = torch.arange(count, device=x.device, dtype=torch.float32).expand(len(x), -1)
        return inputs


def _patches(x: Tensor, size: int) -> dict[str, Any]:
    """Images as NaFlex wants them: patches [B,N,size*size*3], channels last, with their grid."""
    rows, columns = x.shape[-2] // size, x.shape[-1] // size
    x = x.unflatten(3, (columns, size)).unflatten(2, (rows, size)).permute(0, 2, 4, 3, 5, 1)
    ones = torch.ones(len(x), rows * columns, device=x.device, dtype=torch.long)
    grid = torch.tensor([[rows, columns]], device=x.device).expand(len(x), -1)
    return {"pixel_values": x.flatten(3).flatten(1, 2).flatten(2), "pixel_attention_mask": ones, "spatial_shapes": grid}


def class_for(config: Any, pooling: str) -> tuple[Any, dict[str, Any], Any]:
    """A configuration -> the class of its vision model, options of its constructor, the part of it that is asked for.

    A pooler that nobody reads is left out. Raises ValueError for a network that reads no images.
    """
    transformers = library()
    family = config.model_type
    vision = getattr(config, "vision_config", config) if family in _CLASSES else config
    if family in _CLASSES:
        return getattr(transformers, _CLASSES[family]), {}, vision
    try:
        kind = transformers.AutoModel._model_mapping[type(config)]
    except KeyError as error:
        raise ValueError(f"transformers has no network of its own for the family {family!r}.") from error
    if getattr(kind, "main_input_name", "") != "pixel_values":
        raise ValueError(f"{kind.__name__} of transformers is no network that reads images alone.")
    choice = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    return kind, {"add_pooling_layer": pooling == "pooler"} if choice else {}, vision


def vision_family(config: Any) -> str:
    """The family of the part that reads images."""
    return (
        str(getattr(config, "vision_config", config).model_type)
        if config.model_type in _CLASSES
        else str(config.model_type)
    )


def usual_pooling(family: str) -> str:
    """What the authors of a family read, empty where it is not known here: `pooler`, `token` or `mean`."""
    if family in _POOLER:
        return "pooler"
    return "token" if family in _TOKEN else "mean" if family in _MEAN else ""


def side_of(config: Any) -> int:
    """Side of the images that a configuration speaks of, in pixels; 0 where it speaks of none."""
    if count := getattr(config, "num_patches", 0):
        return isqrt(count) * int(config.patch_size)
    size = getattr(config, "image_size", 0) or 0
    return int(size[0] if isinstance(size, (list, tuple)) else size)


def vision_part(model: nn.Module) -> nn.Module:
    """Without the projection that follows: it is the projector."""
    return model.get_submodule("vision_model") if hasattr(model, "visual_projection") else model


def transformers_backbone(config: Mapping[str, Any], pooling: str) -> TransformersBackbone:
    """One with random weights, from the content of a config.json. Raises ValueError without the library."""
    transformers = library()
    family = str(config["model_type"])
    known = transformers.AutoConfig.for_model(family, **{k: v for k, v in config.items() if k != "model_type"})
    kind, options, _ = class_for(known, pooling)
    return TransformersBackbone(vision_part(kind(known, **options)), pooling)


def config_as_json(config: Any) -> dict[str, Any]:
    """What config.json of a source folder keeps of a configuration."""
    content: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in content.items() if not key.startswith("_") and value is not None}
