"""ResNets and ViTs recognised by the names and shapes of their tensors, whoever wrote them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from rcdm.networks.backbones import STEMS
from rcdm.networks.catalogue import TORCHVISION_VIT
from rcdm.networks.images_fed import Noted
from rcdm.networks.reading import Account

State = Mapping[str, Tensor]
Rules = Sequence[tuple[str, str]]

_CHILDREN = (*((rf"^{k}\.", f"layer{k - 3}.") for k in (4, 5, 6, 7)), (r"^0\.", "conv1."), (r"^1\.", "bn1."))
_SHORTCUT = (r"\.shortcut\.", ".downsample.")
_LIGHTLY = (*((rf"^{k}\.", f"layer{k - 1}.") for k in (2, 3, 4, 5)), (r"^0\.", "conv1."), (r"^1\.", "bn1."), _SHORTCUT)
_CHUNKED = ((r"\.gamma_([12])$", r".ls\1.gamma"), (r"^blocks\.\d+\.(\d+)\.(?=norm|attn|mlp|ls)", r"blocks.\1."))
_MM_VIT = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^ln1\.", "norm."),
    (r"^ln2\.", "fc_norm."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"\.ln(\d)\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"\.gamma([12])\.weight$", r".ls\1.gamma"),
)
_CLIP = (
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


@dataclass(frozen=True)
class Format:
    """How one program names a backbone's tensors.

    Args:
        kind: `resnet` or `vit`.
        mark: a name that only this format has.
        rules: give its names those of torchvision's ResNet or timm's ViT.
    """

    kind: str
    mark: str
    rules: Rules = ()


FORMATS: dict[str, Format] = {
    "resnet": Format("resnet", "layer1.0.conv1.weight", (_SHORTCUT,)),
    "resnet as a Sequential": Format("resnet", "7.0.conv1.weight", _CHILDREN),
    "lightly's resnet as a Sequential": Format("resnet", "2.0.conv1.weight", _LIGHTLY),
    "vit": Format("vit", "patch_embed.proj.weight", _CHUNKED),
    "torchvision's vit": Format("vit", "conv_proj.weight", TORCHVISION_VIT),
    "MMPretrain's vit": Format("vit", "patch_embed.projection.weight", _MM_VIT),
    "CLIP's vit": Format("vit", "ln_pre.weight", _CLIP),
}

OPENAI = "CLIP's vit of OpenAI"
"""The format of a CLIP whose file holds the notes that OpenAI's own have."""

_DEPTHS: dict[tuple[int, ...], int] = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16}
_CLIP_HEADS = {1280: 16, 1408: 16, 1664: 16}
"""Width -> heads of the CLIPs whose heads are not 64 wide."""

_HINTS = (
    (r"embeddings\.patch_embeddings|encoder\.layers?\.\d+\.(attention|self_attn|layernorm)|embedder\.embedder\.", ""),
    (r"downsample_layers\.0\.0\.weight|stages\.0\.(blocks\.)?0\.(dwconv|conv_dw)", "convnext_tiny"),
    (r"layers\.0\.blocks\.0\.attn\.relative_position", "swin_tiny_patch4_window7_224"),
    (r"storage_tokens|rope_embed\.periods|(^|\.)reg_token$", "vit_{size}_patch16_dinov3"),
    (r"blocks\.0\.(attn\.q_bias|attn\.relative_position_bias_table)|rel_pos_bias\.", "beit_base_patch16_224"),
    (r"blocks\.0\.mlp\.(w12|fc1_g)", "vit_giant_patch14_dinov2"),
    (r"preprocessor\.patchifier|trunk\.blocks\.0\.norm_1\.", "aimv2_large_patch14_224"),
    (r"attnpool\.(q|c)_proj", "resnet50_clip"),
    (r"layer1\.0\.se\.", "seresnet50"),
    (r"layer1\.0\.(conv1\.conv|downsample\.1\.0)|conv1\.0\.weight", "resnet50d"),
    (r"_blocks\.0\._depthwise_conv|blocks\.0\.0\.conv_dw", "efficientnet_b0"),
    (r"Mixed_5b\.branch1x1", "inception_v3"),
)
"""What is in a name, and a name of timm for such a network; without one it is transformers'."""

_SIZES = {384: "small", 768: "base", 1024: "large", 1280: "huge_plus", 4096: "7b"}


def hint(state: State, path: Path) -> str:
    """A sentence: what to write for a network that is not recognised."""
    width = next((t.shape[0] for name, t in state.items() if name.endswith("patch_embed.proj.weight")), 0)
    for pattern, name in _HINTS:
        if any(re.search(pattern, key) for key in state):
            name = name.format(size=_SIZES.get(width, "base"))
            if name:
                return f"It looks like one that timm has: write {name}={path}, or the name of its size there."
            return "Its names are those of transformers: give the whole folder, in which config.json says what it is."
    return (
        f"For a network of timm write TIMM_NAME={path}; for any other, a function (docs/own-network.md, 'In twenty "
        "lines')."
    )


def resnet_arguments(
    tensors: State, form: str, solo: bool, noted: bool, account: Account, path: Path
) -> dict[str, Any]:
    """Depth, widths and stem of a ResNet, of tensors with torchvision's names. ValueError for one it does not have.

    `solo`: solo-learn wrote the file, which is `noted` beside it or else a guess.
    """
    blocks = tuple(len({n.split(".")[1] for n in tensors if n.startswith(f"layer{k}.")}) for k in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in tensors
    depth = 50 if blocks == (3, 4, 6, 3) and bottleneck else _DEPTHS.get(blocks)
    first = tensors.get("conv1.weight")
    if depth is None or first is None or first.ndim != 4 or first.shape[1] != 3:
        raise ValueError(
            f"{path} holds a ResNet with {blocks} blocks and a stem that torchvision does not have. "
            + hint(tensors, path)
        )
    arguments: dict[str, Any] = {"depth": depth}
    if (widen := first.shape[0] // 64) > 1:
        arguments["widen"] = widen
    if bottleneck:
        inner, inputs = tensors["layer1.0.conv2.weight"].shape[:2]
        groups = inner // inputs
        if groups > 1 or inner != 64 * widen:
            arguments |= {"groups": groups, "group_width": inner // groups}
    if first.shape[-1] == 3:
        arguments["stem"] = _stem(form, solo, noted, account)
    return arguments


def _stem(form: str, solo: bool, noted: bool, account: Account) -> str:
    """That of a ResNet whose first convolution is 3x3: solo-learn's and lightly's are known."""
    if account.reading.stem is not None:
        if account.reading.stem not in STEMS[1:]:
            raise ValueError(f"stem is one of {', '.join(STEMS[1:])}, not {account.reading.stem!r}.")
        return account.reading.stem
    if form.startswith("lightly"):
        return "lightly"
    if solo:
        if not noted:
            account.assumed("a padding of 2 and no max-pool at the 3x3 stem, as solo-learn has it", "--stem small")
        return "solo"
    account.assumed("a padding of 1 and no max-pool at the 3x3 stem", "--stem solo, or pooled,")
    return "small"


_IN_A_BLOCK = re.compile(
    r"blocks\.\d+\.(norm[12]\.(weight|bias)|attn\.(qkv|proj)\.(weight|bias)|mlp\.fc[12]\.(weight|bias)|ls[12]\.gamma)"
)


def vit_arguments(tensors: State, form: str, writer: str, noted: Noted, account: Account, path: Path) -> dict[str, Any]:
    """What builds a ViT of timm that has these tensors. Raises ValueError, saying what to write, for another kind."""
    embed = tensors["patch_embed.proj.weight"]
    odd = [name for name in tensors if name.startswith("blocks.") and not _IN_A_BLOCK.fullmatch(name)]
    if embed.ndim != 4 or odd or "pos_embed" not in tensors or "blocks.0.attn.qkv.weight" not in tensors:
        there = f"with {odd[0]}" if odd else "without plain position embeddings and blocks"
        raise ValueError(f"{path} holds a ViT of an unusual kind ({there}). {hint(tensors, path)}")
    width, patch = embed.shape[0], embed.shape[-1]
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    arguments: dict[str, Any] = {"name": _kind_of_vit(tensors, form, noted, account)}
    arguments |= {"img_size": 0, "patch_size": patch, "embed_dim": width, "depth": depth}
    arguments["num_heads"] = _heads(tensors, form, writer, width, noted, account, path)
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    arguments |= {"mlp_ratio": hidden / width} if hidden != 4 * width else {}
    arguments |= {"qkv_bias": False} if "blocks.0.attn.qkv.bias" not in tensors else {}
    arguments |= {"init_values": 1e-5} if "blocks.0.ls1.gamma" in tensors else {}
    if "norm_pre.weight" in tensors and "clip" not in arguments["name"]:
        arguments["pre_norm"] = True
    return arguments | _pooling(tensors, form, account) | _positions(tensors, patch, account, path)


def _kind_of_vit(tensors: State, form: str, noted: Noted, account: Account) -> str:
    """The name in timm of a ViT that has these parts; sizes are given beside it."""
    if form.startswith("CLIP") or "norm_pre.weight" in tensors:
        known = {"quick_gelu": "vit_base_patch16_clip_quickgelu_224", "gelu": "vit_base_patch16_clip_224"}
        if not form.startswith("CLIP"):
            account.assumed("a CLIP, as a norm comes before its blocks", "TIMM_NAME=FILE")
        if (activation := account.reading.activation) is not None:
            if activation not in known:
                raise ValueError(f"The activation of a CLIP is one of {', '.join(known)}, not {activation!r}.")
            return known[activation]
        if form == OPENAI:
            account.said("activation: quick_gelu, as OpenAI's own files have it")
            return known["quick_gelu"]
        if noted.quick_gelu is not None:
            activation = "quick_gelu" if noted.quick_gelu else "gelu"
            account.said(f"activation: {activation}, from {noted.where} beside the file")
            return known[activation]
        account.assumed("GELU in the blocks, which open_clip trains with", "--activation quick_gelu")
        return known["gelu"]
    if "dist_token" in tensors:
        return "deit_base_distilled_patch16_224"
    if "attn_pool.latent" in tensors:
        return "vit_base_patch16_siglip_224"
    return "vit_base_patch16_224" if "cls_token" in tensors else "vit_huge_patch14_gap_224"


def _heads(tensors: State, form: str, writer: str, width: int, noted: Noted, account: Account, path: Path) -> int:
    """Attention heads are not in a file: those of a note or a program that is known, else the usual number."""
    if (known := known_heads(tensors, writer, width, account)) is not None:
        return known
    if form.startswith("CLIP") and noted.head_width and width % noted.head_width == 0:
        number = width // noted.head_width
        account.said(f"{number} attention heads, from {noted.where} beside the file")
        return number
    usual = _HEADS.get(width)
    if form.startswith("CLIP"):
        usual = _CLIP_HEADS.get(width, None if width % 64 else width // 64)
    if usual is None:
        raise ValueError(f"{path} holds a ViT of width {width}, which is no usual one: say its heads with --heads N.")
    account.assumed(f"{usual} attention heads, as is usual for a width of {width}", "--heads N")
    return usual


def known_heads(tensors: State, writer: str, width: int, account: Account) -> int | None:
    """What an option says, or 12, as MoCo v3 has them, and MoCo v3 and MAE of solo-learn, whose are the fixed position
    embeddings, which are zero for the class token.
    """
    if (heads := account.reading.heads) is not None:
        if heads < 1 or width % heads:
            raise ValueError(f"A ViT of width {width} cannot have {heads} attention heads.")
        return heads
    place = tensors.get("pos_embed")
    fixed = "cls_token" in tensors and place is not None and place.ndim == 3 and not place[:, 0].any()
    if (writer == "MoCo" or (fixed and writer == "solo-learn")) and width < 1024 and width % 12 == 0:
        whose = "MoCo v3 has them" if writer == "MoCo" else "solo-learn's MoCo v3 and MAE have them"
        account.assumed(f"12 attention heads, as {whose}", "--heads N")
        return 12
    return None


def _pooling(tensors: State, form: str, account: Account) -> dict[str, Any]:
    """What becomes of the tokens: what the parts of the network say, else the class token."""
    if "attn_pool.latent" in tensors:
        return {}
    after = "fc_norm.weight" in tensors
    if "cls_token" not in tensors:
        return {"fc_norm": True} if after else {}
    if after:
        account.said("representation: the mean of the patches, as the norm behind it tells (fine-tuned MAE)")
        return {"global_pool": "avg", "fc_norm": True}
    if "dist_token" in tensors:
        account.said(
            "representation: the mean of the class and the distillation token, as DeiT's classifiers read them"
        )
        return {}
    if account.reading.pooling is None and not form.startswith("CLIP"):
        account.assumed("the class token is the representation", "--pooling mean")
    return {"global_pool": "avg", "fc_norm": False} if account.reading.pooling == "mean" else {}


def _positions(tensors: State, patch: int, account: Account, path: Path) -> dict[str, Any]:
    """Side of the images, and whether class and register tokens have positions, from the number of positions."""
    count = tensors["pos_embed"].shape[-2]
    side = isqrt(count)
    prefix = ("cls_token" in tensors) + ("dist_token" in tensors)
    registers = next((tensors[name] for name in ("reg_token", "register_tokens") if name in tensors), None)
    arguments: dict[str, Any] = {}
    if registers is not None:
        arguments = {"reg_tokens": registers.shape[-2], "no_embed_class": True}
    if count - side**2 == 0 and prefix and "no_embed_class" not in arguments:
        arguments["no_embed_class"] = True
        account.assumed(
            f"its {count} positions are a square of patches, and the class token has none", "TIMM_NAME=FILE"
        )
    elif count - side**2 not in (0, prefix):
        raise ValueError(f"{path} has {count} positions, which are no square of patches. {hint(tensors, path)}")
    own = side * patch
    if account.reading.image_size is not None:
        if account.reading.image_size % patch:
            raise ValueError(f"--image-size must be a multiple of the patches' {patch} px.")
        own = account.reading.image_size
    elif own > 256:
        account.assumed(f"images of {own} px, the size of its position embeddings", "--image-size 224")
    return arguments | {"img_size": own}
