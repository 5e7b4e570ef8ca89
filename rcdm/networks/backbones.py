"""Backbones by name: how each is built. A backbone maps normalised images [B,3,H,W] to representations [B,D]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1


class SmallResNet(nn.Module):
    """A ResNet of basic blocks for small images: 3x3 stem without max-pool, stages `layer1 … layer4`, average pool.

    Stage k has `width * 2**k` channels; the representation has `8 * width` dimensions, all >= 0. He et al. 2015
    (arXiv 1512.03385), with the stem that is usual for images of 32 and 64 pixels.
    """

    def __init__(self, width: int = 16, blocks: Sequence[int] = (1, 1, 1, 1), stem_stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride=stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for k, depth in enumerate(blocks):
            stage = [_block(channels, width * 2**k, stride=1 if k == 0 else 2)]
            channels = width * 2**k
            stage += [_block(channels, channels, stride=1) for _ in range(depth - 1)]
            self.add_module(f"layer{k + 1}", nn.Sequential(*stage))
        self.out_features = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] normalised -> [B, out_features]."""
        x = torch.relu(self.bn1(self.conv1(x)))
        for name, stage in self.named_children():
            if name.startswith("layer"):
                x = stage(x)
        return x.mean((2, 3))


def _block(channels: int, out_channels: int, *, stride: int) -> BasicBlock:
    shortcut = None
    if stride != 1 or channels != out_channels:
        shortcut = nn.Sequential(conv1x1(channels, out_channels, stride), nn.BatchNorm2d(out_channels))
    return BasicBlock(channels, out_channels, stride, shortcut)


def resnet50() -> nn.Module:
    """torchvision's ResNet-50 without its classifier: [B,3,H,W] -> [B,2048], all >= 0."""
    network = torchvision.models.resnet50()
    network.fc = nn.Identity()
    return network


STEMS = ("imagenet", "small", "solo", "pooled", "lightly")
"""Stems of ResNets, see `resnet`."""


def resnet(depth: int, stem: str = "imagenet", *, groups: int = 1, group_width: int = 64, widen: int = 1) -> nn.Module:
    """torchvision's ResNet-18, 34, 50, 101 or 152 without its classifier: [B,3,H,W] -> [B,512 or 2048], all >= 0.

    The stem is that of `imagenet` (7x7, stride 2, max-pool) or one for small images (3x3, no max-pool): `small`,
    `solo` with a padding of 2, as solo-learn has it, `pooled` with the max-pool, or `lightly` without the ReLU that
    lightly's ResNets lose when their children are put into a Sequential. ResNeXt has `groups` of `group_width`
    channels, a wide ResNet a `group_width` above 64; `widen` multiplies all widths, as SwAV and SimCLR do (50x2).
    Raises ValueError for any other.
    """
    if depth not in (18, 34, 50, 101, 152) or stem not in STEMS:
        raise ValueError(f"There is no ResNet of depth {depth!r} with the stem {stem!r}.")
    options = {} if (groups, group_width) == (1, 64) else {"groups": groups, "width_per_group": group_width}
    network = getattr(torchvision.models, f"resnet{depth}")(**options)
    if widen > 1:
        _widen(network, widen)
    network.fc = nn.Identity()
    if stem != "imagenet":
        network.conv1 = nn.Conv2d(3, 64 * widen, 3, padding=2 if stem == "solo" else 1, bias=False)
    if stem not in ("imagenet", "pooled"):
        network.maxpool = nn.Identity()
    if stem == "lightly":
        network.relu = nn.Identity()  # the stem's alone: blocks have their own
    return network


def _widen(network: torchvision.models.ResNet, times: int) -> None:
    """Build the layers anew with so many times their channels."""
    blocks = [len(getattr(network, f"layer{k}")) for k in (1, 2, 3, 4)]
    block, network.inplanes = type(network.layer1[0]), 64 * times
    network.conv1 = nn.Conv2d(3, 64 * times, 7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(64 * times)
    for k, count in enumerate(blocks):
        stage = network._make_layer(block, 64 * times * 2**k, count, stride=1 if k == 0 else 2)
        setattr(network, f"layer{k + 1}", stage)


TIMM_OPTIONS = (
    "img_size", "patch_size", "embed_dim", "depth", "num_heads", "global_pool", "mlp_ratio", "qkv_bias", "init_values",
    "reg_tokens", "no_embed_class", "class_token", "pre_norm", "fc_norm", "final_norm", "act_layer", "norm_layer",
    "window_size", "depths", "dims", "output_stride", "qk_norm", "dynamic_img_size", "strict_img_size", "layers",
    "channels", "stem_width", "stem_type", "pool_include_prefix", "use_fc_norm", "norm_eps", "use_abs_pos_emb",
    "use_rel_pos_bias", "use_shared_rel_pos_bias", "cardinality", "base_width",
)  # fmt: skip


def timm_backbone(name: str, **options: Any) -> nn.Module:
    """A network of timm by its name, without classifier: [B,3,H,W] -> [B,D], pooled as timm does.

    `options` are those in `TIMM_OPTIONS`. Nothing is downloaded. Raises ValueError for a name or an option that timm
    does not know.
    """
    import timm

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0]}*")[:6]) or "see timm.list_models()"
        raise ValueError(f"timm has no network {name!r} ({near}).")
    if wrong := [option for option in options if option not in TIMM_OPTIONS]:
        raise ValueError(f"A network of timm takes {', '.join(TIMM_OPTIONS)}, not {wrong[0]!r}.")
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **options)
    except TypeError as error:
        raise ValueError(f"{name} of timm does not take {', '.join(options)}: {error}") from error
    return network


def transformers_network(config: Mapping[str, Any], pooling: str) -> nn.Module:
    """A vision network of transformers, from the content of its config.json; needs the extra `hf`."""
    from rcdm.networks.transformers_backbone import transformers_backbone

    return transformers_backbone(config, pooling)


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "small_resnet": SmallResNet,
    "resnet50": resnet50,
    "resnet": resnet,
    "timm": timm_backbone,
    "transformers": transformers_network,
}
"""Name in a source's config.json -> constructor; its keyword arguments stand beside the name."""


def build_backbone(name: str, /, **arguments: object) -> nn.Module:
    """A backbone with random weights. Raises ValueError for an unknown name."""
    if name not in BACKBONES and ":" in name:
        raise ValueError(
            f"This checkpoint was trained with the backbone {name}: give it with --backbone {name}, or call "
            f"rcdm.register({name!r}) first."
        )
    if name not in BACKBONES:
        raise ValueError(f"There is no backbone {name!r}; choose one of {', '.join(BACKBONES)}.")
    return BACKBONES[name](**arguments)
