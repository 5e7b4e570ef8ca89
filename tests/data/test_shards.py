"""Tar shards and streams from the hub: every image once, its own share for each process, held-out ones never."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rcdm.data import hub_stream
from rcdm.data import images as im
from rcdm.data.datasets import load_dataset
from rcdm.data.hub_stream import HubStream
from rcdm.data.shards import shuffle_in_windows


def png(number: int) -> bytes:
    """A 12 px image that says its number."""
    stream = io.BytesIO()
    Image.fromarray(np.full((12, 12, 3), number, np.uint8)).save(stream, "png")
    return stream.getvalue()


def number(images: torch.Tensor) -> list[int]:
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()


def write_tar(file: Path, samples: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as archive:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RCDM_HOME", str(tmp_path / "home"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Images 0 … 29 in three shards, with their class (number modulo 3)."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(3):
        samples = {}
        for i in range(10 * k, 10 * k + 10):
            samples |= {f"a/{i:04}.png": png(i), f"a/{i:04}.cls": b"%d" % (i % 3), f"a/{i:04}.json": b"{}"}
        write_tar(folder / f"train-{k}.tar", samples)
    return folder


def test_every_image_of_the_shards_comes_once_per_epoch_and_some_never(shards):
    data = load_dataset(str(shards), 8)
    assert data.n_train == 27 and data.classes == 3 and data.name == "photos"
    batches = [data.batch(step, 9) for step in range(6)]
    epochs = [number(torch.cat([batch.images for batch in part])) for part in (batches[:3], batches[3:])]
    assert len(set(epochs[0])) == 27 and sorted(epochs[0]) == sorted(epochs[1]) and epochs[0] != epochs[1]
    assert sorted(number(data.held_out(100).images) + epochs[0]) == list(range(30))
    for batch in batches:
        assert [n % 3 for n in number(batch.images)] == batch.labels.tolist()
        assert torch.equal(data.take(batch.rows).images, batch.images)


def test_any_batch_can_be_had_at_once_and_in_parts(shards):
    data, again = load_dataset(str(shards), 8, seed=5), load_dataset(str(shards), 8, seed=5)
    whole = data.batch(4, 8)
    parts = [again.batch(step, 4) for step in (8, 9)]  # what two processes with half the batch see
    assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
    assert number(load_dataset(str(shards), 8, seed=6).batch(4, 8).images) != number(whole.images)


def test_shards_that_are_named_so_are_held_out(shards):
    (shards / "train-2.tar").rename(shards / "val-0.tar")
    data = load_dataset(str(shards), 8)
    assert data.n_train == 20 and sorted(number(data.held_out(100).images)) == list(range(20, 30))


def test_images_are_shuffled_within_a_window_of_shards():
    shard = torch.arange(6).repeat_interleave(10)
    order = shuffle_in_windows(shard, window=20)(torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(60)) and order.tolist() != list(range(60))
    assert [len(set(shard[part].tolist())) for part in order.split(20)] == [2, 2, 2]


def test_the_index_is_kept_and_follows_the_files(shards, monkeypatch):
    first = load_dataset(str(shards), 8)
    monkeypatch.setattr("rcdm.data.shards._read_headers", None)  # must not be needed
    assert load_dataset(str(shards), 8).fingerprint() == first.fingerprint()
    monkeypatch.undo()
    write_tar(shards / "train-3.tar", {"x.png": png(99), "y.png": png(98)})
    assert load_dataset(str(shards), 8).fingerprint() != first.fingerprint()


def test_another_image_stands_in_for_a_damaged_one(tmp_path, caplog):
    write_tar(tmp_path / "0.tar", {"a.png": png(1), "b.png": b"no image", "c.png": png(3), "d.png": png(4)})
    write_tar(tmp_path / "val.tar", {"e.png": png(5)})
    images = load_dataset(str(tmp_path), 8).take(torch.arange(4)).images
    assert number(images) == [1, 3, 3, 4] and "0.tar" in caplog.text and "stands in" in caplog.text


@pytest.mark.parametrize("content", [b"", b"this is no tar file" * 100])
def test_a_file_that_is_no_tar_is_named(tmp_path, content):
    (tmp_path / "broken.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.tar|0 images"):
        load_dataset(str(tmp_path), 8)


def test_a_class_that_is_no_number_is_named(tmp_path):
    write_tar(tmp_path / "0.tar", {"a.png": png(1), "a.cls": b"cat"})
    with pytest.raises(ValueError, match=r"a\.cls must hold the class"):
        load_dataset(str(tmp_path), 8)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """What a data set on the hub looks like: parquet shards of a split `train`, images 0 … 199 in four of them."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=2)})
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    for k in range(4):
        rows = [{"image": {"bytes": png(i), "path": None}, "label": i % 2} for i in range(50 * k, 50 * k + 50)]
        table = datasets.Dataset.from_list(rows, features=features)
        table.to_parquet(folder / "data" / f"train-0000{k}-of-00004.parquet")
    return folder


@pytest.fixture
def address(hub: Path, monkeypatch) -> str:
    """`hf://datasets/me/photos`, which is the folder `hub`."""
    import datasets

    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)  # else seconds per pass
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: load(str(hub.parent / name[3:]), **options))
    return "hf://datasets/me/hub"


def test_a_stream_gives_every_image_and_holds_a_tenth_out(address):
    data = load_dataset(address, 8)
    assert isinstance(data, HubStream) and data.name == "hub" and data.classes == 2 and data.n_train is None
    held_out = number(data.held_out(200).images)
    n = 200 - len(held_out)
    assert 5 < len(held_out) < 40 and held_out != sorted(held_out)  # of all shards, however they are sorted
    assert number(load_dataset(address, 8).held_out(4).images) == held_out[:4]
    batch = data.batch(0, n)
    assert sorted(number(batch.images) + held_out) == list(range(200))
    assert [k % 2 for k in number(batch.images)] == batch.labels.tolist()
    again = number(data.batch(1, n).images)
    assert sorted(again) == sorted(number(batch.images)) and again != number(batch.images)
    assert number(batch.images) != sorted(number(batch.images))


def test_a_stream_depends_on_its_seed_and_its_first_step_alone(address):
    streams = [(load_dataset(address, 8, seed=seed), step) for seed in (0, 0, 1) for step in (0, 7)]
    first = [number(data.batch(step, 20).images) for data, step in streams]
    assert first[:2] == first[2:4] and first[0] != first[1] and first[0] != first[4]


def test_each_process_streams_its_own_share(address, monkeypatch):
    seen = []
    for rank in range(2):
        monkeypatch.setattr(hub_stream.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(hub_stream.dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(hub_stream.dist, "get_rank", lambda rank=rank: rank)
        data = load_dataset(address, 8)
        seen.append(number(torch.cat([data.batch(step, 20).images for step in (rank, rank + 2, rank + 4)])))
    assert len(set(seen[0])) == len(set(seen[1])) == 60 and not set(seen[0]) & set(seen[1])


def test_a_validation_split_is_what_is_held_out(hub, address):
    file = hub / "data" / "train-00003-of-00004.parquet"
    file.rename(hub / "data" / "validation-00000-of-00001.parquet")
    data = load_dataset(address, 8)
    assert sorted(number(data.held_out(100).images)) == list(range(150, 200))
    assert sorted(number(data.batch(0, 150).images)) == list(range(150))


def test_a_damaged_image_of_a_stream_is_left_out(caplog):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image()})
    rows = [{"image": {"bytes": content, "path": None}} for content in (png(1), b"no image", png(3))]
    stream = datasets.Dataset.from_list(rows, features=features).to_iterable_dataset()
    data = HubStream(stream, stream, 8, name="x")
    assert sorted(number(data.batch(0, 4).images)) == [1, 1, 3, 3] and "left out" in caplog.text


@pytest.mark.parametrize("name", ["hf://models/x", "hf://datasets/"])
def test_an_address_that_means_nothing_is_named(name):
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match="hf://datasets/OWNER/NAME"):
        load_dataset(name, 8)


def test_a_data_set_without_images_is_named():
    datasets = pytest.importorskip("datasets")
    stream = datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()
    with pytest.raises(ValueError, match="no column of images; its columns are text"):
        HubStream(stream, None, 8, name="words")


def test_an_image_that_is_too_large_is_not_decoded(tmp_path, caplog):
    write_tar(tmp_path / "0.tar", {"a.png": png(1) + b"\0" * im.MAX_BYTES, "b.png": png(2)})
    write_tar(tmp_path / "val.tar", {"c.png": png(3)})
    assert number(load_dataset(str(tmp_path), 8).take(torch.arange(2)).images) == [2, 2]
    assert "larger than" in caplog.text
