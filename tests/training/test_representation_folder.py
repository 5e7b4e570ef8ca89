"""Representations in a folder: the same numbers, computed once, continued when interrupted, refused for other data."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tiny_sources
from test_shards import png, write_tar
from test_training import photographs, tiny

from rcdm.data.datasets import load_dataset
from rcdm.networks.sources import Sources
from rcdm.training import representation_folder
from rcdm.training.denoiser import train
from rcdm.training.representation_cache import in_memory
from rcdm.training.representation_folder import in_folder


@pytest.fixture
def sources() -> Sources:
    return make_tiny_sources()


@pytest.fixture
def data(tmp_path: Path):
    return load_dataset(str(photographs(tmp_path / "photos", 30)), 16)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(representation_folder, "SHARD_ROWS", 10)
    monkeypatch.setenv("RCDM_HOME", str(tmp_path / "home"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_gives_what_the_memory_gives(sources, data, tmp_path):
    kept, folder = in_memory(sources, data, mirrored=True), in_folder(tmp_path / "h", sources, data, mirrored=True)
    rows = torch.tensor([26, 0, 9, 10, 25, 3])
    names = ["tiny/backbone"] * 2 + ["tiny/layer2"] + ["tiny/projector"] * 3
    for flipped in (None, torch.tensor([1, 0, 1, 1, 0, 0]).bool()):
        assert torch.allclose(kept(names, rows, flipped), folder(names, rows, flipped), atol=2e-3)
    for name in sources.names:
        assert torch.allclose(kept.sample(name), folder.sample(name), atol=2e-3)
    assert len(list((tmp_path / "h" / "tiny--backbone").glob("*.npy"))) == 3


def test_what_is_there_is_not_computed_again(sources, data, tmp_path, monkeypatch):
    in_folder(tmp_path, sources, data, mirrored=False)
    monkeypatch.setattr(Sources, "encode_all", None)  # must not be needed
    assert torch.isfinite(
        in_folder(tmp_path, sources, data, mirrored=False)(["tiny/backbone"], torch.tensor([0]))
    ).all()


def test_an_interrupted_computation_continues(sources, data, tmp_path, monkeypatch):
    in_folder(tmp_path / "whole", sources, data, mirrored=True)
    compute, count = representation_folder._compute, []

    def interrupted(*arguments):
        count.append(arguments[1])
        if len(count) == 2:
            (tmp_path / "h" / "tiny--layer2" / "00001.partial").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        compute(*arguments)

    monkeypatch.setattr(representation_folder, "_compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_folder(tmp_path / "h", sources, data, mirrored=True)
    in_folder(tmp_path / "h", sources, data, mirrored=True)
    assert count == [0, 1, 1, 2] and contents(tmp_path / "h") == contents(tmp_path / "whole")


def test_a_source_that_is_added_is_computed_alone(sources, data, tmp_path, monkeypatch):
    one = Sources({"tiny": (sources.networks["tiny"], sources["tiny/backbone"].preprocessing)}, ["tiny/backbone"])
    one._configs = sources._configs
    in_folder(tmp_path, one, data, mirrored=False)
    asked = []
    encode_all = Sources.encode_all
    monkeypatch.setattr(Sources, "encode_all", lambda self, x, names: asked.append(names) or encode_all(self, x, names))
    in_folder(tmp_path, sources, data, mirrored=False)
    assert all(names == ["tiny/projector", "tiny/layer2"] for names in asked) and asked


def test_representations_of_something_else_are_refused(sources, data, tmp_path):
    in_folder(tmp_path / "h", sources, data, mirrored=False)
    before = contents(tmp_path / "h")
    with pytest.raises(ValueError, match="random_flip differs"):
        in_folder(tmp_path / "h", sources, data, mirrored=True)
    other = load_dataset(str(photographs(tmp_path / "others", 31)), 16)
    with pytest.raises(ValueError, match="the number of images, the images differs"):
        in_folder(tmp_path / "h", sources, other, mirrored=False)
    with pytest.raises(ValueError, match="the images differs"):
        in_folder(tmp_path / "h", sources, load_dataset(str(tmp_path / "photos"), 24), mirrored=False)
    with torch.no_grad():
        next(sources.networks.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match="the network differs"):
        in_folder(tmp_path / "h", sources, data, mirrored=False)
    assert contents(tmp_path / "h") == before


def test_another_preprocessing_is_another_network(sources):
    before = sources.fingerprint("tiny/backbone")
    assert before != sources.fingerprint("tiny/layer2")
    preprocessing = sources._preprocessing["tiny"]
    sources._preprocessing["tiny"] = type(preprocessing)(16, mean=(0.4, 0.5, 0.5))
    assert sources.fingerprint("tiny/backbone") != before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "damaged: delete it"),
        ("other shape", "damaged: delete it"),
        ("manifest", "something else"),
        ("no manifest", "something else"),
    ],
)
def test_damage_is_named(sources, data, tmp_path, damage, message):
    in_folder(tmp_path, sources, data, mirrored=False)
    file = tmp_path / "tiny--backbone" / "00001.npy"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-40])
    elif damage == "other shape":
        np.save(file, np.zeros((1, 3, 32), np.float16))
    elif damage == "manifest":
        (tmp_path / "tiny--backbone" / "source.json").write_text("{")
    else:
        (tmp_path / "tiny--backbone" / "source.json").unlink()
    with pytest.raises(ValueError, match=message):
        in_folder(tmp_path, sources, data, mirrored=False)


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_computed(sources, data, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(1000))
    with pytest.raises(ValueError, match=r"take another 0\.0 GB.* larger disk"):
        in_folder(tmp_path / "h", sources, data, mirrored=False)
    assert not (tmp_path / "h").exists()


def test_a_disk_that_fills_up_leaves_no_half_shard(sources, data, tmp_path, monkeypatch):
    save = np.save

    def full(file, array):
        if "tiny--layer2" in file.name and "00001" in file.name:
            file.write(b"some")
            raise OSError(28, "No space left on device")
        save(file, array)

    monkeypatch.setattr(representation_folder.np, "save", full)
    with pytest.raises(ValueError, match="No space left on device"):
        in_folder(tmp_path, sources, data, mirrored=False)
    assert not list(tmp_path.rglob("*.partial")) and (tmp_path / "tiny--layer2" / "00000.npy").is_file()
    monkeypatch.setattr(representation_folder.np, "save", save)
    in_folder(tmp_path, sources, data, mirrored=False)


def test_numbers_beyond_half_precision_are_refused(sources, data, tmp_path):
    with torch.no_grad():
        sources.networks["tiny"].projector[-1][0].weight.mul_(1e8)
    with pytest.raises(ValueError, match="half precision does not hold"):
        in_folder(tmp_path, sources, data, mirrored=False)


def test_a_denoiser_is_trained_on_tar_shards_from_the_folder(sources, tmp_path):
    sources.save_pretrained(tmp_path / "sources")
    (tmp_path / "photos").mkdir()
    for k in range(2):
        write_tar(tmp_path / "photos" / f"{k}.tar", {f"{i}.png": png(60 * k + 2 * i) for i in range(20)})
    options = {"train_data_dir": str(tmp_path / "photos"), "max_train_steps": 3, "validation_steps": 99}
    live = train(tiny(tmp_path / "sources", tmp_path / "live", **options))
    options["representations_dir"] = str(tmp_path / "h")
    kept = train(tiny(tmp_path / "sources", tmp_path / "kept", **options))
    runs = [json.loads((folder / "training.json").read_text()) for folder in (live, kept)]
    assert runs[0]["images"] == runs[1]["images"] == 12 and len(list((tmp_path / "h").rglob("*.npy"))) == 8


def test_images_without_numbers_are_not_kept(sources, tmp_path):
    sources.save_pretrained(tmp_path / "sources")
    with pytest.raises(ValueError, match="leave representations_dir out"):
        train(tiny(tmp_path / "sources", tmp_path / "run", representations_dir=str(tmp_path / "h")))
