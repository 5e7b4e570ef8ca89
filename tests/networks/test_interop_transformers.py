"""Folders that transformers itself has written, compared with its own forward."""

import json

import pytest
import torch
from interop import Case, check, random, refuse_stale_rows

import rcdm
from rcdm import cli
from rcdm.networks import resolve
from rcdm.networks.reading import Reading
from rcdm.networks.representation import Preprocessing
from rcdm.networks.resolve import network_of

transformers = pytest.importorskip("transformers")

VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
VIT |= {"image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]}
TOWERS = {"text_config": VIT | {"vocab_size": 50, "max_position_embeddings": 8}, "vision_config": VIT}

MODELS = {
    "Dinov2": ("Dinov2Model", VIT),
    "Dinov2WithRegisters": ("Dinov2WithRegistersModel", VIT),
    "DINOv3 ViT": ("DINOv3ViTModel", VIT),
    "DINOv3 ConvNeXt": ("DINOv3ConvNextModel", STAGES),
    "ViT": ("ViTModel", VIT),
    "ViTMAE": ("ViTMAEModel", VIT),
    "ViTMSN": ("ViTMSNModel", VIT),
    "IJepa": ("IJepaModel", VIT),
    "CLIP vision tower": ("CLIPVisionModelWithProjection", VIT | {"projection_dim": 6}),
    "CLIP, both towers": ("CLIPModel", TOWERS | {"projection_dim": 6}),
    "Siglip vision tower": ("SiglipVisionModel", VIT),
    "Siglip, both towers": ("SiglipModel", TOWERS),
    "Siglip2 (NaFlex)": ("Siglip2VisionModel", VIT | {"num_patches": 16}),
    "ResNet": ("ResNetModel", STAGES | {"embedding_size": 8}),
    "ConvNext": ("ConvNextModel", STAGES),
    "ConvNextV2": ("ConvNextV2Model", STAGES),
    "Data2VecVision": ("Data2VecVisionModel", VIT),
    "Beit": ("BeitModel", VIT),
    "DeiT": ("DeiTModel", VIT),
    "Swin": ("SwinModel", {"embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32, "window_size": 4}),
}
LABELS = {f"{label}, `save_pretrained`": model for label, model in MODELS.items()}


def model_of(label: str) -> torch.nn.Module:
    torch.manual_seed(0)
    kind, options = MODELS[label]
    model = getattr(transformers, kind)
    return random(model(model.config_class(**options)))


def own_forward(label: str, model: torch.nn.Module):
    """Its own output, as the authors of the family read it."""
    if label.startswith("CLIP"):
        return lambda x: model.vision_model(pixel_values=x).pooler_output
    if label == "Siglip, both towers":
        return lambda x: model.vision_model(pixel_values=x).pooler_output
    if label == "Siglip2 (NaFlex)":
        processor = transformers.models.siglip2.image_processing_siglip2

        def forward(x):
            patches = torch.stack([processor.convert_image_to_patches(image, 8) for image in x])
            ones, grid = torch.ones(len(x), 16, dtype=torch.long), torch.tensor([[4, 4]] * len(x))
            return model(pixel_values=patches, pixel_attention_mask=ones, spatial_shapes=grid).pooler_output

        return forward
    if label == "ViTMAE":
        model.config.mask_ratio = 0.0  # it masks in `eval`, too
        return lambda x: model(pixel_values=x).last_hidden_state[:, 0]
    if label in ("ViT", "DeiT", "ViTMSN"):
        return lambda x: model(pixel_values=x).last_hidden_state[:, 0]
    if label in ("IJepa", "Data2VecVision"):
        return lambda x: model(pixel_values=x).last_hidden_state[:, 0 if label == "IJepa" else 1 :].mean(1)
    return lambda x: model(pixel_values=x).pooler_output


@pytest.mark.parametrize("label", list(MODELS))
def test_a_folder_of_transformers_is_its_own_forward(label, tmp_path):
    model = model_of(label)
    model.save_pretrained(tmp_path / "network")
    projector = model.visual_projection if label.startswith("CLIP") else None
    case = Case(tmp_path / "network", own_forward(label, model), projector)
    config = check(f"{label}, `save_pretrained`", "transformers", case, tmp_path)
    assert any("of transformers" in line for line in config["reading"]["lines"])
    assert any("there is no preprocessor_config.json" in line for line in config["reading"]["lines"])
    assert "blocks.0" in config["levels"]


def test_the_table_of_the_document_is_that_of_these_tests():
    refuse_stale_rows(LABELS, "transformers")


def test_shards_with_an_index_and_half_precision_are_the_same_network(tmp_path):
    model = model_of("Dinov2").half().float()
    model.half().save_pretrained(tmp_path / "network", max_shard_size="10KB")
    assert (tmp_path / "network" / "model.safetensors.index.json").is_file()
    check(
        "Dinov2, `save_pretrained`",
        "transformers",
        Case(tmp_path / "network", own_forward("Dinov2", model.float())),
        tmp_path,
    )


def test_a_network_of_timm_that_transformers_saved_is_fed_as_timm_notes(tmp_path):
    torch.manual_seed(0)
    noted = {"input_size": [3, 64, 64], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    kind = transformers.TimmWrapperModel
    model = random(kind(transformers.TimmWrapperConfig(architecture="resnet10t", pretrained_cfg=noted)))
    model.save_pretrained(tmp_path / "network")
    network, preprocessing, config = resolve.read_transformers(tmp_path / "network")
    assert preprocessing == Preprocessing(64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network.backbone(x), model.eval().timm_model(x), atol=1e-5)
    assert not any("ImageNet" in line or "imagenet" in line for line in config["reading"]["lines"])


def test_images_are_those_of_the_preprocessor(tmp_path):
    model_of("Dinov2").save_pretrained(tmp_path / "network")
    noted = {"do_center_crop": True, "crop_size": {"height": 56, "width": 56}, "size": {"shortest_edge": 64}}
    noted |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "network" / "preprocessor_config.json").write_text(json.dumps(noted))
    _, _, preprocessing, _ = network_of(str(tmp_path / "network"), (), Reading(strict=True))  # nothing is assumed
    assert preprocessing == rcdm.Preprocessing(56, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    _, _, preprocessing, _ = network_of(str(tmp_path / "network"), (), Reading(image_size=40, normalisation="half"))
    assert preprocessing == rcdm.Preprocessing(40)


def test_levels_are_what_the_layers_put_out(tmp_path):
    model = model_of("Dinov2WithRegisters")
    model.save_pretrained(tmp_path / "network")
    network = network_of(str(tmp_path / "network"))[1]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        hidden = model(pixel_values=x, output_hidden_states=True).hidden_states
        levels = network.all_levels(x, ["blocks.0", "blocks.0@mean"])
    assert torch.allclose(levels["blocks.0"], hidden[1][:, 0], atol=1e-5)
    assert torch.allclose(levels["blocks.0@mean"], hidden[1][:, 5:].mean(1), atol=1e-5)  # class token, four registers


def test_a_network_of_the_hub_is_its_folder(tmp_path, monkeypatch, capsys):
    model_of("ViT").save_pretrained(tmp_path / "network")
    monkeypatch.setattr(resolve, "snapshot_download", lambda repository, **_: str(tmp_path / "network"))
    source = rcdm.load_source("hf://owner/dino-vits16/blocks.1@mean", normalisation="imagenet")
    assert source.name == "dino-vits16/blocks.1@mean" and source.dim == 24
    cli.main(["networks", "hf://owner/dino-vits16"])
    printed = capsys.readouterr().out
    assert "ViTModel of transformers" in printed and "assumed: mean and deviation half" in printed
    assert "left out: pooler." in printed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "made_up"}, "cannot be read by transformers"),
        ({"model_type": "bert"}, "no network that reads images alone"),
        ({"hidden_size": 48, "num_attention_heads": 3}, "cannot be read|does not fit"),
        ({"num_hidden_layers": 3}, "is missing"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_in_a_sentence(change, words, tmp_path):
    model_of("ViT").save_pretrained(tmp_path / "network")
    file = tmp_path / "network" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=words) as error:
        network_of(str(tmp_path / "network"))
    assert "\n" not in str(error.value)


def test_of_a_family_that_nobody_knows_here_the_pooled_output_is_taken_or_it_is_refused(tmp_path):
    torch.manual_seed(0)
    known = {"embedding_size": 32, "hidden_sizes": [32, 32, 32, 32], "depths": [1, 1, 1, 1], "num_groups": 4}
    model = random(transformers.BitModel(transformers.BitConfig(**known)))
    model.save_pretrained(tmp_path / "bit")
    _, network, _, config = network_of(str(tmp_path / "bit"))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.backbone(x), model(pixel_values=x).pooler_output.flatten(1))
    assert any(line.startswith("assumed: the pooled output is") for line in config["reading"]["lines"])
    transformers.VideoMAEModel(transformers.VideoMAEConfig(**VIT)).save_pretrained(tmp_path / "video")
    with pytest.raises(ValueError, match="a videomae of transformers, which gives no pooled vector"):
        network_of(str(tmp_path / "video"))


def test_without_transformers_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    import sys

    model_of("ViT").save_pretrained(tmp_path / "network")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[hf\]'"):
        network_of(str(tmp_path / "network"))


def test_a_tower_of_clip_that_was_saved_without_its_projection_has_none(tmp_path):
    torch.manual_seed(0)
    model = random(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VIT)))
    model.save_pretrained(tmp_path / "tower")
    _, network, _, _ = network_of(str(tmp_path / "tower"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(network.backbone(x), model(pixel_values=x).pooler_output, atol=1e-6)
    assert network.projector is None


def test_pixels_are_those_of_a_processor_of_newer_versions(tmp_path):
    model_of("CLIP vision tower").save_pretrained(tmp_path / "tower")
    image_processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "crop_size": {"height": 32}}
    (tmp_path / "tower" / "processor_config.json").write_text(json.dumps({"image_processor": image_processor}))
    _, _, preprocessing, _ = network_of(str(tmp_path / "tower"))
    assert (preprocessing.mean, preprocessing.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
