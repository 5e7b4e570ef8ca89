"""Sources on disk: copies stand alone, shared networks are found beside and checked."""

import json
import shutil

import pytest
import torch
from conftest import make_tiny_sources

import rcdm
from rcdm.networks.representation import SSLNetwork
from rcdm.networks.source_folder import digest
from rcdm.networks.sources import Sources, read_sources, share_networks


@pytest.fixture
def shared(tiny_checkpoint, tmp_path):
    """Two checkpoints side by side: `backbones` holds the network, `drawing` refers to it."""
    shutil.copytree(tiny_checkpoint / "sources", tmp_path / "backbones" / "sources")
    shutil.copytree(tiny_checkpoint, tmp_path / "drawing")
    share_networks(tmp_path / "drawing" / "sources", tmp_path / "backbones" / "sources")
    return tmp_path


def test_a_checkpoint_that_shares_its_networks_draws_the_same(shared, tiny_checkpoint):
    assert not list((shared / "drawing").glob("sources/*/model.safetensors"))
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    first, second = (
        rcdm.load(folder, device="cpu")(image, source="tiny/projector", output_type="pt").images
        for folder in (shared / "drawing", tiny_checkpoint)
    )
    assert torch.equal(first, second)
    alone = rcdm.load_source(f"{shared}/drawing/tiny/projector")
    assert torch.equal(alone(image), rcdm.load_source(f"{shared}/backbones/tiny/projector")(image))


def test_a_saved_copy_stands_alone(shared, tmp_path):
    rcdm.load(shared / "drawing", device="cpu").save_pretrained(tmp_path / "elsewhere" / "copy")
    shutil.rmtree(shared / "backbones")
    assert rcdm.load(tmp_path / "elsewhere" / "copy", device="cpu").sources == (
        "tiny/backbone",
        "tiny/projector",
        "tiny/layer2",
    )


def test_a_network_that_has_changed_or_gone_is_refused(shared):
    config = shared / "backbones" / "sources" / "tiny" / "config.json"
    changed = json.loads(config.read_text())
    changed["preprocessing"]["mean"] = [0.4, 0.4, 0.4]
    config.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="has changed"):
        Sources.from_pretrained(shared / "drawing" / "sources")
    shutil.rmtree(shared / "backbones")
    with pytest.raises(ValueError, match="shares tiny with backbones"):
        Sources.from_pretrained(shared / "drawing" / "sources")


def test_only_the_same_network_can_be_shared(tiny_checkpoint, tmp_path):
    for name in ("one", "other"):
        shutil.copytree(tiny_checkpoint / "sources", tmp_path / name / "sources")
    config = tmp_path / "other" / "sources" / "tiny" / "config.json"
    config.write_text(config.read_text() + " ")
    before = digest(tmp_path / "one" / "sources" / "tiny")
    with pytest.raises(ValueError, match="not the network"):
        share_networks(tmp_path / "one" / "sources", tmp_path / "other" / "sources")
    assert digest(tmp_path / "one" / "sources" / "tiny") == before


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.zeros(2, 3, 16, 16).long()])
def test_whole_numbers_are_no_images(pipe, images):
    for read in (pipe.encode, pipe.sources.encode_all):
        with pytest.raises(ValueError, match="must be float"):
            read(images, *["tiny/backbone"] * (read == pipe.encode))


@pytest.mark.parametrize("images", ["cat.png", torch.zeros(8, 8, 3).numpy(), ["cat.png"]])
def test_what_is_no_picture_is_refused_in_a_sentence(pipe, images):
    with pytest.raises(ValueError, match="PIL images are needed"):
        pipe(images, source="tiny/backbone")


def test_every_network_runs_once_for_all_sources(pipe):
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    together = pipe.sources.encode_all(images)
    assert tuple(together) == tuple(pipe.sources)
    assert all(torch.equal(h, pipe.encode(images, name)) for name, h in together.items())


def test_the_name_of_a_network_may_hold_a_dot(tmp_path):
    tiny = make_tiny_sources()
    names = ["s0.25/backbone", "s0.25/projector"]
    Sources({"s0.25": tiny.network("tiny")}, names, {"s0.25": tiny.config_of("tiny")}).save_pretrained(tmp_path)
    again, images = Sources.from_pretrained(tmp_path), torch.rand(2, 3, 16, 16)
    assert again == tuple(names)
    assert torch.allclose(again.encode(images, names[1]), tiny.encode(images, "tiny/projector"), atol=1e-6)
    assert set(again.encode_all(images)) == set(names)


def test_networks_that_were_saved_one_by_one_are_read_together(tmp_path):
    """By default backbone and projector, and of a network that has no projector its backbone."""
    both = make_tiny_sources()
    network, preprocessing = both.network("tiny")
    config = both.config_of("tiny") | {"levels": list(network.levels())}
    alone = SSLNetwork(network.backbone)
    Sources({"b": (network, preprocessing)}, ["b/projector"], {"b": config}).save_pretrained(tmp_path)
    config = config | {"levels": list(alone.levels())}
    Sources({"a": (alone, preprocessing)}, ["a/backbone"], {"a": config}).save_pretrained(tmp_path)
    sources, image = read_sources(tmp_path), torch.rand(2, 3, 16, 16) * 2 - 1
    assert sources.names == ("a/backbone", "b/backbone", "b/projector")
    assert torch.equal(sources.encode(image, "a/backbone"), both.encode(image, "tiny/backbone"))
