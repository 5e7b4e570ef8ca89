"""The denoiser: one standardising Linear per source in front of one UNet2DModel."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from rcdm.diffusion.checked_folder import check_unet
from rcdm.diffusion.coarse import GAIN
from rcdm.diffusion.image_space import PIXELS, ImageSpace, space_of
from rcdm.diffusion.precision import PRECISIONS
from rcdm.diffusion.whitening import whiten
from rcdm.networks.checked_files import check_finite
from rcdm.networks.sources import runs


@dataclass
class RepresentationUNetOutput(BaseOutput):
    """`sample` [B,C,H,W]: the network's prediction, of the kind that the scheduler's `prediction_type` names."""

    sample: Tensor


def unet_arguments(
    sample_size: int,
    *,
    channels: Sequence[int],
    layers_per_block: int = 2,
    attention_resolutions: Sequence[int] = (8,),
    space: ImageSpace = PIXELS,
) -> dict[str, Any]:
    """The UNet2DModel arguments of an ADM network (Dhariwal & Nichol 2021) whose embedding takes a representation.

    `sample_size`: pixels of the images. `attention_resolutions` are sizes of feature maps, of which `space` says the
    first and each further entry of `channels` halves it; attention heads are 64 wide, or as wide as the narrowest.
    """
    inputs, side = space.network_shape(sample_size)
    sizes = [side // 2**k for k in range(len(channels))]
    attends = [size in attention_resolutions for size in sizes]
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if all(c % g == 0 for c in channels))
    return {
        "sample_size": side,
        "in_channels": inputs,
        "out_channels": inputs,
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
        space: where noise is added and what the network sees of it, as `image_space.space_of` reads it.
        has_unconditional: whether it was trained to draw without a representation, too.
        projection_bias: whether projections have one; this and what follows is for converted networks
            (`convert.from_official`).
        attention_heads: of the way down, and of the way up.
        embedding_channels: of the timestep's sinusoid.
        timestep_scale: what timesteps are multiplied by.
        coarse_size: side of the coarse image that a linear map reads from h and the network is given beside x_t (see
            `coarse.py`); 0 is none.
    """

    @register_to_config
    def __init__(
        self,
        sources: Mapping[str, int],
        unet_config: Mapping[str, Any],
        space: Mapping[str, Any] = MappingProxyType({"kind": "pixels"}),
        has_unconditional: bool = True,
        projection_bias: bool = False,
        attention_heads: Sequence[int] | None = None,
        embedding_channels: int | None = None,
        timestep_scale: float = 1.0,
        coarse_size: int = 0,
    ) -> None:
        super().__init__()
        self.mixed_precision = PRECISIONS[0]
        self.register_to_config(space=dict(space))
        self.space: ImageSpace = space_of(space)
        self.unet = UNet2DModel(**unet_config)
        needed = self.space.network_shape(1)[0]
        given, made = self.unet.config.in_channels, self.unet.config.out_channels
        if given != (inputs := needed + 3 * (coarse_size > 0)) or made not in (needed, 2 * needed):
            raise ValueError(
                f"In this image space the U-Net takes {inputs} channels and gives {needed}, or {2 * needed} with a "
                f"variance: in_channels and out_channels are {given} and {made}."
            )
        if embedding_channels not in (None, self.unet.config.block_out_channels[0]):
            _widen_time_embedding(self.unet, embedding_channels)
        if attention_heads is not None:
            _set_heads(self.unet, *attention_heads)
        width = self.unet.time_embedding.linear_2.out_features
        self.projections = nn.ModuleDict(
            {_key(name): _StandardisedLinear(dim, width, projection_bias, coarse_size) for name, dim in sources.items()}
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> RepresentationUNet:
        """Load the folder `unet` of a checkpoint. Raises ValueError, naming file and field, for a damaged one."""
        folder = Path(pretrained_model_name_or_path)
        weights = check_unet(folder, cls)
        network: RepresentationUNet = super().from_pretrained(str(folder), **kwargs)
        check_finite(network.state_dict(), weights[0])
        return network

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that this denoiser was built for."""
        return tuple(self.config.sources)

    @property
    def image_size(self) -> int:
        """Height and width of the images it draws, in pixels."""
        return self.space.image_size(self.unet.config.sample_size)

    def use_mixed_precision(self, name: str) -> None:
        """`bf16`: draw with the U-Net in bfloat16, up to twice as fast where the hardware has it; `no`: in float32.

        What h says of an image, and the steps between two calls, stay in float32. ValueError for another name.
        """
        if name not in PRECISIONS:
            raise ValueError(f"There is no mixed precision {name!r}; choose one of {', '.join(PRECISIONS)}.")
        self.mixed_precision = name

    def set_statistics(self, source: str, mean: Tensor, std: Tensor) -> None:
        """Remember the training mean and deviation [D] of a source; the forward pass standardises with them.

        A number that hardly varied in training (less than 1/1000 of the median) has the median for its deviation:
        divided by its own, it would drown all others in the first image in which it does.
        """
        projection = self._projection(source)
        typical = std[std > 0].median() if (std > 0).any() else torch.ones(())
        projection.mean.copy_(mean)
        projection.std.copy_(torch.where(std > 1e-3 * typical, std, typical).clamp(min=1e-6))

    def has_loaded(self, source: str, part: str, names: Container[str]) -> bool:
        """Whether a tensor of a source's projection (`mean`, `coarse`) is among these names of a state dict."""
        return f"projections.{_key(source)}.{part}" in names

    def learn_whitened(self, source: str, covariance: Tensor) -> None:
        """Train a source's Linear as one on whitened numbers; `covariance` [D,D] is that of standardised ones."""
        whiten(self._projection(source).linear, covariance)

    def set_coarse(self, source: str, weight: Tensor) -> None:
        """The map [3 x side x side, D] from the standardised representation of a source to its coarse image."""
        self._projection(source).coarse.copy_(weight)

    def standardise(self, representation: Tensor, source: str) -> Tensor:
        """[B,D] raw -> [B,D] with zero mean and unit deviation over the training images; distances are taken here."""
        projection = self._projection(source)
        return (representation - projection.mean) / projection.std  # [B,D]

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        representation: Tensor | None = None,
        source: str | Sequence[str] | None = None,
        drop: Tensor | None = None,
        return_dict: bool = True,
    ) -> RepresentationUNetOutput | tuple[Tensor]:
        """Noisy x [B,C,H,W] of the image space at a timestep -> prediction [B,C,H,W] (more channels with a variance).

        `representation` is raw, [B,D]; None is the unconditional denoiser. `source` is one name, or one name per image,
        where narrower rows are padded with zeros to the widest source of the batch. `drop` [B] bool makes single images
        unconditional (training). Raises ValueError for an unknown source or a width that does not fit.
        """
        side = self.config.coarse_size
        if representation is None:
            embedding = sample.new_zeros(len(sample), self.unet.time_embedding.linear_2.out_features)
            coarse = sample.new_zeros(len(sample), 3, side, side)
        else:
            embedding, coarse = self._embed(representation, source)
        if drop is not None:  # the unconditional denoiser (Ho & Salimans 2022)
            embedding = embedding.masked_fill(drop[:, None], 0)
            coarse = coarse.masked_fill(drop[:, None, None, None], 0)
        if self.config.timestep_scale != 1:
            timestep = timestep * self.config.timestep_scale
        x = self.space.to_network(sample)
        if side:
            enlarged = F.interpolate(GAIN * coarse.to(x.dtype), x.shape[2:], mode="bilinear")
            x = torch.cat([x, enlarged], 1)
        half = self.mixed_precision == "bf16"  # else whoever calls may have a precision of his own, as in training
        with torch.autocast(x.device.type, torch.bfloat16) if half else nullcontext():
            out = self.unet(x, timestep, class_labels=embedding).sample
        out = self.space.from_network(out.to(sample.dtype) if half else out)
        return RepresentationUNetOutput(sample=out) if return_dict else (out,)

    def with_and_without(
        self, sample: Tensor, timestep: Tensor | float | int, representation: Tensor, source: str | Sequence[str] | None
    ) -> tuple[Tensor, Tensor]:
        """The predictions [B,C,H,W] from h and from nothing, as one batch of 2B images."""
        names = source if source is None or isinstance(source, str) else [*source, *source]
        drop = torch.arange(2 * len(sample), device=sample.device) >= len(sample)
        twice = torch.cat([sample, sample]), timestep, torch.cat([representation, representation]), names, drop
        conditional, free = self(*twice).sample.chunk(2)
        return conditional, free

    def _embed(self, representation: Tensor, source: str | Sequence[str] | None) -> tuple[Tensor, Tensor]:
        """[B,D] -> embedding [B,E] and coarse image [B,3,side,side]."""
        source = self.named(source)
        if isinstance(source, str):
            embedding, coarse = self._projection(source, width=representation.shape[1])(representation)
            return embedding, coarse
        if len(source) != len(representation):
            raise ValueError(f"{len(representation)} representations came with {len(source)} names of sources.")
        widest = max(self.config.sources.get(name, 0) for name in set(source))
        if representation.shape[1] != widest:
            raise ValueError(f"The widest of these sources has {widest} dimensions, not {representation.shape[1]}.")
        parts = []
        for name, rows in runs(source):
            projection = self._projection(name)
            parts.append(projection(representation[rows, : len(projection.mean)]))
        embeddings, images = zip(*parts, strict=True)
        return torch.cat(embeddings), torch.cat(images)

    def named(self, source: str | Sequence[str] | None) -> str | Sequence[str]:
        """The only source where none is named. Raises ValueError where there are several."""
        if source is None and len(self.sources) == 1:
            source = self.sources[0]
        if source is None:
            raise ValueError(f"A representation needs its source: one of {', '.join(self.sources)}.")
        return source

    def _projection(self, source: str, *, width: int | None = None) -> _StandardisedLinear:
        if source not in self.config.sources:
            raise ValueError(f"There is no source {source!r}; choose one of {', '.join(self.sources)}.")
        projection = cast(_StandardisedLinear, self.projections[_key(source)])
        if width is not None and width != len(projection.mean):
            raise ValueError(f"A representation of {source} has {len(projection.mean)} dimensions, not {width}.")
        return projection


def _set_heads(unet: UNet2DModel, down: int, up: int) -> None:
    """One number of heads at every level, where diffusers has one width of heads."""
    for name, module in unet.named_modules():
        if isinstance(module, Attention):
            module.heads = up if name.startswith("up_blocks") else down
            module.scale = (module.inner_dim // module.heads) ** -0.5


def _widen_time_embedding(unet: UNet2DModel, channels: int) -> None:
    """A sinusoid of its own width, where diffusers takes that of the first level."""
    unet.time_proj = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0)
    unet.time_embedding = TimestepEmbedding(channels, 4 * channels)
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            module.time_emb_proj = nn.Linear(4 * channels, module.time_emb_proj.out_features)


class _StandardisedLinear(nn.Module):
    """(h - mean) / std, then a Linear; without a bias no representation is the zero embedding for every source.

    Beside the embedding [B,E] it gives the coarse image [B,3,side,side], from a fixed map without a bias.
    """

    mean: Tensor
    std: Tensor
    coarse: Tensor

    def __init__(self, dim: int, width: int, bias: bool, coarse_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("coarse", torch.zeros(3 * coarse_size**2, dim), persistent=coarse_size > 0)
        self.linear = nn.Linear(dim, width, bias=bias)
        self._shape = (3, coarse_size, coarse_size)

    def forward(self, representation: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(representation.device.type, enabled=False):  # narrow directions are lost in bfloat16
            standardised = ((representation - self.mean) / self.std).to(self.mean.dtype)
            return self.linear(standardised), F.linear(standardised, self.coarse).unflatten(1, self._shape)


def _key(source: str) -> str:
    return source.replace(".", ":")  # a module name holds no dot
