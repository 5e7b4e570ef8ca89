"""The denoiser: one standardising Linear per source in front of one UNet2DModel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from rcdm.sources import runs


@dataclass
class RepresentationUNetOutput(BaseOutput):
    """`sample` [B,3,H,W]: the network's prediction, of the kind that the scheduler's `prediction_type` names."""

    sample: Tensor


def unet_arguments(
    sample_size: int,
    *,
    channels: Sequence[int],
    layers_per_block: int = 2,
    attention_resolutions: Sequence[int] = (8,),
    patch_size: int = 1,
) -> dict[str, Any]:
    """The UNet2DModel arguments of an ADM network (Dhariwal & Nichol 2021) whose embedding takes a representation.

    `attention_resolutions` are sizes of feature maps; attention heads are 64 wide. With `patch_size` p the network
    sees p x p pixels as one position of 3 p² channels; each further entry of `channels` halves the map.
    """
    sizes = [sample_size // patch_size // 2**k for k in range(len(channels))]
    attends = [size in attention_resolutions for size in sizes]
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if all(c % g == 0 for c in channels))
    return {
        "sample_size": sample_size // patch_size,
        "in_channels": 3 * patch_size**2,
        "out_channels": 3 * patch_size**2,
        "block_out_channels": tuple(channels),
        "layers_per_block": layers_per_block,
        "down_block_types": tuple("AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attends),
        "up_block_types": tuple("AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attends)),
        "attention_head_dim": min(64, *channels),
        "norm_num_groups": groups,
        "attn_norm_num_groups": groups,
        "class_embed_type": "identity",
        "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    }


class RepresentationUNet(ModelMixin, ConfigMixin):
    """ADM U-Net conditioned on a representation through its time embedding (Bordes et al. 2022).

    Args:
        sources: name of a source -> width of its representation.
        unet_config: arguments of diffusers' UNet2DModel (see `unet_arguments`).
        patch_size: side of the pixel blocks that are moved into channels before the network and back after it.
    """

    @register_to_config
    def __init__(self, sources: Mapping[str, int], unet_config: Mapping[str, Any], patch_size: int = 1) -> None:
        super().__init__()
        self.unet = UNet2DModel(**unet_config)
        width = self.unet.time_embedding.linear_2.out_features
        self.projections = nn.ModuleDict({_key(name): _StandardisedLinear(dim, width) for name, dim in sources.items()})

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that this denoiser was built for."""
        return tuple(self.config.sources)

    @property
    def image_size(self) -> int:
        """Height and width of the images it draws, in pixels."""
        return self.unet.config.sample_size * self.config.patch_size

    def set_statistics(self, source: str, mean: Tensor, std: Tensor) -> None:
        """Remember the training mean and deviation [D] of a source; the forward pass standardises with them."""
        projection = self._projection(source)
        projection.mean.copy_(mean)
        projection.std.copy_(std.clamp(min=1e-6))

    def standardise(self, representation: Tensor, source: str) -> Tensor:
        """[B,D] raw -> [B,D] with zero mean and unit deviation over the training images; distances are taken here."""
        projection = self._projection(source)
        return (representation - projection.mean) / projection.std

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        representation: Tensor | None = None,
        source: str | Sequence[str] | None = None,
        drop: Tensor | None = None,
        return_dict: bool = True,
    ) -> RepresentationUNetOutput | tuple[Tensor]:
        """Noisy images [B,3,H,W] at a timestep -> prediction [B,3,H,W].

        `representation` is raw, [B,D]; None is the unconditional denoiser. `source` is one name, or one name per image,
        where narrower rows are padded with zeros to the widest source of the batch. `drop` [B] bool makes single images
        unconditional (training). Raises ValueError for an unknown source or a width that does not fit.
        """
        if representation is None:
            embedding = sample.new_zeros(len(sample), self.unet.time_embedding.linear_2.out_features)
        else:
            embedding = self._embed(representation, source)
        if drop is not None:
            embedding = embedding.masked_fill(drop[:, None], 0)
        patch = self.config.patch_size
        out = self.unet(F.pixel_unshuffle(sample, patch), timestep, class_labels=embedding).sample
        out = F.pixel_shuffle(out, patch)
        return RepresentationUNetOutput(sample=out) if return_dict else (out,)

    def _embed(self, representation: Tensor, source: str | Sequence[str] | None) -> Tensor:
        """[B,D] -> [B,E]."""
        if source is None:
            raise ValueError(f"A representation needs its source: one of {', '.join(self.sources)}.")
        if isinstance(source, str):
            return self._projection(source, width=representation.shape[1])(representation)
        if len(source) != len(representation):
            raise ValueError(f"{len(representation)} representations came with {len(source)} names of sources.")
        widest = max(self.config.sources.get(name, 0) for name in set(source))
        if representation.shape[1] != widest:
            raise ValueError(f"The widest of these sources has {widest} dimensions, not {representation.shape[1]}.")
        parts = []
        for name, rows in runs(source):
            projection = self._projection(name)
            parts.append(projection(representation[rows, : len(projection.mean)]))
        return torch.cat(parts)

    def _projection(self, source: str, *, width: int | None = None) -> _StandardisedLinear:
        if source not in self.config.sources:
            raise ValueError(f"There is no source {source!r}; choose one of {', '.join(self.sources)}.")
        projection = cast(_StandardisedLinear, self.projections[_key(source)])
        if width is not None and width != len(projection.mean):
            raise ValueError(f"A representation of {source} has {len(projection.mean)} dimensions, not {width}.")
        return projection


class _StandardisedLinear(nn.Module):
    """(h - mean) / std, then a Linear without bias: no representation is the zero embedding for every source."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.linear = nn.Linear(dim, width, bias=False)

    def forward(self, representation: Tensor) -> Tensor:
        return self.linear((representation - self.mean) / self.std)


def _key(source: str) -> str:
    return source.replace(".", ":")  # a module name holds no dot
