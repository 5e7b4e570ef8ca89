"""Files that lightly, timm, torchvision, open_clip and torch itself have written, compared with their own forward."""

import copy
import json
from collections import OrderedDict
from functools import partial

import pytest
import timm
import torch
import torchvision
from interop import Case, below, check, compare, random, refuse_stale_rows, saved
from timm.models import eva, register_model, vision_transformer
from torch import nn

import rcdm
from rcdm.networks.backbones import resnet
from rcdm.networks.reading import Reading
from rcdm.networks.resolve import network_of

FEW = {"image_size": 64}
"""Pixels, for networks that read any."""

SMALL = {"patch_size": 8, "img_size": 32, "embed_dim": 192, "depth": 2, "num_heads": 3}


def registered(name: str, build, **fixed) -> str:
    """A small relative of a network of timm, under a name of its own, as its files need one."""

    def small(pretrained=False, **options):
        return build(**{**SMALL, **fixed, **options})

    small.__name__, small.__module__ = name, vision_transformer.__name__
    register_model(small)
    return name


@pytest.fixture(autouse=True)
def _same_weights():
    """With some random weights a wrong function makes hardly a difference; these are always the same."""
    torch.manual_seed(0)


DINOV3 = registered("tiny_dinov3_for_tests", eva.vit_small_patch16_dinov3)
CLIP = registered("tiny_clip_224_for_tests", vision_transformer.vit_base_patch16_clip_224)
SIGLIP = registered("tiny_siglip_for_tests", vision_transformer.vit_base_patch16_siglip_224)


def vit(name: str = "vit_base_patch16_224", **options) -> nn.Module:
    return random(timm.create_model(name, **{**SMALL, "num_classes": 0, **options}))


def timm_vit(folder, **options) -> Case:
    network = vit(**options)
    return Case(saved(folder, {"state_dict": network.state_dict(), "optimizer": {"state": {}}}), network)


def classifier(folder, name: str, **options) -> Case:
    """With its classifier, which is left out."""
    network = vit(name, num_classes=7, **options)
    pooled = copy.deepcopy(network)
    for head in ("head", "head_dist"):
        setattr(pooled, head, nn.Identity())
    return Case(saved(folder, {"model": network.state_dict(), "epoch": 3}), pooled)


def dinov2(folder, registers: int) -> Case:
    """With the names that its authors' own files have."""
    network = vit("vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2")
    state = dict(network.state_dict()) | {"mask_token": torch.zeros(1, 192)}
    if registers:
        moved = torch.randn(1, 1, 192)
        state["register_tokens"] = state.pop("reg_token")
        state["cls_token"] = state["cls_token"] - moved  # there the class token has a position
        state["pos_embed"] = torch.cat([moved, state["pos_embed"]], 1)
    return Case(saved(folder, {"teacher": below("backbone.", network) if not registers else state}), network)


def dinov3(folder) -> Case:
    network = vit(DINOV3, global_pool="token")
    return Case(saved(folder, network.state_dict()), network, name=DINOV3)


def siglip(folder) -> Case:
    network = vit("vit_base_patch16_siglip_224")
    return Case(saved(folder, network.state_dict()), network)


def torchvision_resnet(folder, name: str) -> Case:
    network = random(getattr(torchvision.models, name)())
    path = saved(folder, {"state_dict": below("module.", network), "epoch": 90})
    network.fc = nn.Identity()
    return Case(path, network, options=FEW)


def widened(folder) -> Case:
    network = random(resnet(50, widen=2))
    return Case(saved(folder, below("module.", network)), network, options=FEW)


def moco(folder, layers: int) -> Case:
    """As its authors' script writes it: query and key encoders with the projection as `fc`, and a queue."""
    network = torchvision.models.resnet18(num_classes=16)
    if layers == 2:
        network.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), network.fc)
    random(network)
    state = below("module.encoder_q.", network) | below("module.encoder_k.", random(copy.deepcopy(network)))
    path = saved(folder, {"arch": "resnet18", "state_dict": state | {"module.queue": torch.randn(16, 50)}})
    projector, network.fc = network.fc, nn.Identity()
    return Case(path, network, projector, options=FEW)


def lightly_msn(folder, *, anchors: bool) -> Case:
    from lightly.models.modules import MaskedVisionTransformerTorchvision, heads

    plain = torchvision.models.VisionTransformer(32, 8, 2, 3, 192, 768)
    plain.heads = nn.Identity()
    backbone = random(MaskedVisionTransformerTorchvision(vit=plain))
    head = random(heads.MSNProjectionHead(192, 24, 8))
    module = nn.ModuleDict({"backbone": backbone, "projection_head": head})
    if anchors:
        module["anchor_backbone"], module["anchor_projection_head"] = map(random, map(copy.deepcopy, (backbone, head)))
        module["prototypes"] = nn.Linear(8, 10, bias=False)
    path = saved(folder, {"state_dict": module.state_dict(), "hyper_parameters": {}}, "last.ckpt")
    return Case(path, lambda x: backbone(x), head)


def lightly_head(folder, name: str) -> Case:
    from lightly.models.modules import heads

    network = random(torchvision.models.resnet18())
    network.fc = nn.Identity()
    head = random(getattr(heads, f"{name}ProjectionHead")(512, 24, 8))
    state = below("backbone.", network) | below("projection_head.", head)
    return Case(saved(folder, {"state_dict": state}), network, head, options=FEW)


def lightly_dino(folder) -> Case:
    from lightly.models.modules import MaskedVisionTransformerTIMM, heads

    network = vit()
    head, other = (random(heads.DINOProjectionHead(192, 24, 8, 40, batch_norm=False)) for _ in range(2))
    student = random(copy.deepcopy(network))
    state = below("student_backbone.", MaskedVisionTransformerTIMM(student)) | below("student_head.", other)
    state |= below("teacher_backbone.", MaskedVisionTransformerTIMM(network)) | below("teacher_head.", head)
    return Case(saved(folder, {"state_dict": state}), network, head.layers)


TOWERS = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 192, "patch_size": 8, "head_width": 64},
    "text_cfg": {"context_length": 10, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}


def open_clip_vit(folder, *, quick: bool, name: str = "") -> Case:
    from open_clip.model import CLIP as OpenCLIP

    network = random(OpenCLIP(**TOWERS, quick_gelu=quick))
    visual, projection = network.visual, network.visual.proj.detach().clone()
    state = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
    path = saved(folder, {"epoch": 3, "name": "run", "state_dict": state, "optimizer": {}, "scaler": {}})
    visual.proj = None
    return Case(path, visual, lambda h: h @ projection, name, {"activation": "quick_gelu"} if quick else {})


def open_clip_timm(folder, *, projection: str, name: str = "") -> Case:
    from open_clip.model import CustomTextCLIP

    vision = {"timm_model_name": SIGLIP, "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": projection}
    width = 192 if projection == "none" else 16
    parts = TOWERS | {"embed_dim": width, "vision_cfg": vision | {"image_size": 32}}
    network = random(CustomTextCLIP(**parts))
    path = saved(folder, {"state_dict": network.state_dict()}, "open_clip_pytorch_model.bin")
    return Case(path, network.visual.trunk, None if projection == "none" else network.visual.head, name)


TIMM = {
    "ViT": timm_vit,
    "ViT with LayerScale": partial(timm_vit, init_values=0.1),
    "ViT without class token": partial(timm_vit, class_token=False, global_pool="avg", fc_norm=False),
    "ViT, norm behind the mean": partial(timm_vit, class_token=False, global_pool="avg"),
    "MAE, fine-tuned (`fc_norm`)": partial(classifier, name="vit_base_patch16_224", global_pool="avg"),
    "DeiT, distilled": partial(classifier, name="deit_base_distilled_patch16_224"),
    "DINOv2, its own names": partial(dinov2, registers=0),
    "DINOv2 with registers, its own names": partial(dinov2, registers=4),
    "DINOv3, `NAME=FILE`": dinov3,
    "SigLIP": siglip,
}
TORCHVISION = {
    "ResNet-18": partial(torchvision_resnet, name="resnet18"),
    "wide ResNet-50-2": partial(torchvision_resnet, name="wide_resnet50_2"),
    "ResNeXt-50 32x4d": partial(torchvision_resnet, name="resnext50_32x4d"),
    "ResNet-50 of twice the width": widened,
    "MoCo v1": partial(moco, layers=1),
    "MoCo v2": partial(moco, layers=2),
}
LIGHTLY = {
    "MSN": partial(lightly_msn, anchors=True),
    "MSN, no anchors": partial(lightly_msn, anchors=False),
    "DINO on a ViT": lightly_dino,
} | {f"{name} on a ResNet-18": partial(lightly_head, name=name) for name in
     ("BarlowTwins", "BYOL", "MoCo", "NNCLR", "SimCLR", "SimSiam", "SwaV", "TiCo", "VICReg")}  # fmt: skip
OPEN_CLIP = {
    "ViT": partial(open_clip_vit, quick=False),
    "ViT, quick GELU": partial(open_clip_vit, quick=True),
    "ViT, `NAME=FILE`": partial(open_clip_vit, quick=False, name=CLIP),
    "SigLIP": partial(open_clip_timm, projection="none"),
    "SigLIP, `NAME=FILE`": partial(open_clip_timm, projection="none", name=SIGLIP),
    "ViT of timm, linear projection": partial(open_clip_timm, projection="linear"),
    "ViT of timm, MLP": partial(open_clip_timm, projection="mlp"),
}
LIBRARIES = {"timm": TIMM, "torchvision": TORCHVISION, "lightly": LIGHTLY, "open_clip_torch": OPEN_CLIP}
NAMED = {
    library: {f"{label}, {library}": make for label, make in cases.items()} for library, cases in LIBRARIES.items()
}
CASES = [(library, label) for library, cases in NAMED.items() for label in cases]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("library", "label"), CASES, ids=[label for _, label in CASES])
def test_a_file_of_another_library_is_its_own_forward(library, label, tmp_path):
    pytest.importorskip(library.removesuffix("_torch"))
    check(label, library, NAMED[library][label](tmp_path), tmp_path)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_table_of_the_document_is_that_of_these_tests(library):
    refuse_stale_rows(NAMED[library], library)


def lines_of(path, **options) -> str:
    return "\n".join(network_of(str(path), (), Reading(**options))[3]["reading"]["lines"])


def test_an_activation_that_nothing_tells_is_said_and_can_be_given(tmp_path):
    case = lightly_head(tmp_path, "VICReg")
    assert "assumed: ReLU between the projector's layers (--activation" in lines_of(case.path)
    assert "ReLU" not in lines_of(case.path, activation="gelu")
    difference, _, config = compare(case._replace(options=FEW | {"activation": "gelu"}), tmp_path)
    assert difference > 1e-2 and config["projector_activation"] == "gelu"
    assert config["reading"]["options"] == "--activation gelu --image-size 64"
    with pytest.raises(ValueError, match=r"activation is one of relu, gelu.*, not 'swish'"):
        lines_of(case.path, activation="swish")


def test_strict_reading_refuses_until_everything_is_decided(tmp_path):
    path = moco(tmp_path, 1).path
    with pytest.raises(ValueError, match=r"strict: chosen: .*encoder_k.*; left out: .*; assumed: images of 224 px"):
        lines_of(path, strict=True)
    decided = {"part": "state_dict.encoder_q.", "image_size": 64, "normalisation": "half"}
    decided["leave_out"] = ("state_dict.encoder_k.", "state_dict.queue")
    assert "assumed" not in lines_of(path, strict=True, **decided)


@pytest.mark.parametrize(("name", "mean"), [("clip", 0.48145466), ("siglip", 0.5)])
def test_a_family_has_its_normalisation_with_and_without_a_name(name, mean, tmp_path):
    case = open_clip_vit(tmp_path, quick=False) if name == "clip" else siglip(tmp_path)
    for written in (str(case.path), f"{CLIP if name == 'clip' else SIGLIP}={case.path}"):
        preprocessing = network_of(written)[2]
        assert preprocessing.mean[0] == mean and preprocessing.size == 32


@pytest.mark.parametrize(
    "notes",
    [
        {"method": "byol", "dataset": "custom", "crop_size": [96, 48], "mean": [0.4] * 3, "std": [0.2] * 3},
        {"method": "byol", "data": {"dataset": "custom"}, "augmentations": [{"crop_size": 96}, {"crop_size": 48}]},
    ],
)
def test_the_crops_that_solo_learn_notes_are_fed(notes, tmp_path):
    path = torchvision_resnet(tmp_path, "resnet18").path
    (tmp_path / "args.json").write_text(json.dumps(notes))
    preprocessing = network_of(str(path))[2]
    assert preprocessing.size == 96 and preprocessing.mean[0] == (0.4 if "mean" in notes else 0.485)
    assert "images: 96 px, from args.json" in lines_of(path)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    state = dict(torchvision.models.resnet18().state_dict())
    state["layer2.0.conv1.weight"] = state["layer2.0.conv1.weight"] * float("nan")
    with pytest.raises(ValueError, match=r"layer2\.0\.conv1\.weight holds NaN"):
        lines_of(saved(tmp_path, state))


KEYS = ["state_dict_ema", "ema", "model_ema", "ema_state_dict", "encoder", "backbone", "weights", "params"]
KEYS += ["model_state", "online_backbone", "classy_state_dict.base_model.model", "a.b.c.net", "module"]


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    network = random(torchvision.models.resnet18())
    network.fc = nn.Identity()
    return network


@pytest.mark.parametrize("keys", KEYS)
def test_weights_are_found_however_deep_they_lie_and_the_place_is_said(keys, plain, tmp_path):
    content = plain.state_dict()
    for key in reversed(keys.split(".")):
        content = {"epoch": 1, key: content, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}
    path = saved(tmp_path, content)
    assert compare(Case(path, plain, options=FEW), tmp_path)[0] == 0
    assert f"tensors at {'the top' if keys == 'module' else f'{keys}.'}" in lines_of(path)
    assert "left out: optimizer (states of the training)" in lines_of(path)


def test_of_raw_and_averaged_weights_one_is_chosen_and_the_other_can_be(plain, tmp_path):
    averaged = random(copy.deepcopy(plain))
    path = saved(tmp_path, {"state_dict": plain.state_dict(), "state_dict_ema": averaged.state_dict()})
    assert compare(Case(path, plain, options=FEW), tmp_path)[0] == 0
    assert "chosen: the backbone at state_dict., not at state_dict_ema. (--part PREFIX" in lines_of(path)
    assert compare(Case(path, averaged, options=FEW | {"part": "state_dict_ema"}), tmp_path)[0] == 0
    with pytest.raises(ValueError, match=r"no backbone at 'teacher'; it has one at state_dict\., state_dict_ema\."):
        lines_of(path, part="teacher")


def written(kind: str, plain: nn.Module, folder):
    """The same network as other parts of torch and accelerate save it."""
    target = folder / "saved"
    if kind == "whole module":
        torch.save(plain, target)
    elif kind == "TorchScript":
        torch.jit.script(plain).save(str(target))
    elif kind == "traced":
        torch.jit.trace(plain, torch.randn(1, 3, 64, 64)).save(str(target))
    elif kind == "safetensors named .bin":
        from safetensors.torch import save_file

        target = folder / "model.bin"
        save_file(plain.state_dict(), target)
    elif kind == "torch.distributed.checkpoint":
        from torch.distributed import checkpoint

        optimizer = torch.optim.SGD(plain.parameters(), 0.1)
        checkpoint.save({"model": plain.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint_id=str(target))
    elif kind == "accelerate":
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        accelerator.prepare(plain, torch.optim.SGD(plain.parameters(), 0.1))
        accelerator.save_state(str(target))
    else:
        names = {n.replace("layer1.", "layer1._checkpoint_wrapped_module."): t for n, t in plain.state_dict().items()}
        torch.save({f"_orig_mod.module.{name}": tensor for name, tensor in names.items()}, target)
    return target


WAYS = ["whole module", "TorchScript", "traced", "safetensors named .bin", "torch.distributed.checkpoint", "accelerate"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*WAYS, "wrapped"])
def test_ways_of_torch_and_accelerate_to_save_a_network_are_read(kind, plain, tmp_path):
    assert compare(Case(written(kind, plain, tmp_path), plain, options=FEW), tmp_path)[0] == 0


UNKNOWN = {
    "a ConvNeXt of timm": (lambda: timm.create_model("test_convnext").state_dict(), "write convnext_tiny="),
    "a DINOv3": (lambda: vit(DINOV3).state_dict(), r"write vit_\w+_patch16_dinov3="),
    "a BEiT": (lambda: timm.create_model("beit_base_patch16_224", depth=1).state_dict(), "write beit_base_patch16"),
    "a ResNet-D": (lambda: timm.create_model("test_resnet").state_dict(), "resnet50d="),
    "a bare file of transformers": (
        lambda: {"encoder.layer.0.attention.attention.query.weight": torch.zeros(3, 3)}, "give the whole folder"
    ),
}  # fmt: skip


@pytest.mark.parametrize("label", UNKNOWN)
def test_for_a_network_that_is_not_recognised_the_sentence_says_what_to_write(label, tmp_path):
    make, words = UNKNOWN[label]
    with pytest.raises(ValueError, match=words) as error:
        lines_of(saved(tmp_path, OrderedDict(make())))
    assert "\n" not in str(error.value)


def test_positions_are_resized_to_the_images_that_are_asked_for(tmp_path):
    path = dinov2(tmp_path, 0).path
    _, network, preprocessing, _ = network_of(str(path), (), Reading(image_size=48))
    assert preprocessing.size == 48 and network.backbone.pos_embed.shape[1] == 37
    with pytest.raises(ValueError, match="multiple of the patches' 8 px"):
        lines_of(path, image_size=50)


def test_options_reach_a_source_and_unknown_ones_are_refused(tmp_path):
    path = lightly_head(tmp_path, "VICReg").path
    images = torch.rand(8, 3, 64, 64) * 2 - 1  # of one alone all values may be so large that both functions agree
    relu, gelu = (rcdm.load_source(f"{path}/projector", activation=name)(images) for name in ("relu", "gelu"))
    assert not torch.equal(relu, gelu)
    with pytest.raises(ValueError, match="no option 'activtion' of a file; choose one of part, projector"):
        rcdm.sources_of(str(path), activtion="gelu")
    with pytest.raises(ValueError, match="--heads is for files"):
        rcdm.sources_of("dinov2-vits14", heads=3)
