"""Which images are held out, and in which order, wherever they lie."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from test_shards import png, write_tar

from rcdm.data.datasets import load_dataset
from rcdm.data.in_memory import Pixels, mixed

CLASSES = ("cat", "dog", "hen")


def in_folders(folder: Path, per_class: int, first: int = 0) -> None:
    for k, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            (folder / name / f"{i:03}.png").write_bytes(png(first + per_class * k + i))


def in_parquet(file: Path, labels: list[int]) -> None:
    cells = []
    for i in range(len(labels)):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), (i, 0, 0)).save(stream, "PNG")
        cells.append(stream.getvalue())
    pq.write_table(pa.table({"image": cells, "label": labels}), file)


def pixels(batch) -> set[bytes]:
    return {image.numpy().tobytes() for image in batch.images}


@pytest.mark.parametrize("name", ["val", "validation", "valid", "test", "dev"])
def test_a_folder_beside_the_training_images_is_held_out_with_the_same_classes(tmp_path, name):
    in_folders(tmp_path / "train", 6)
    in_folders(tmp_path / name, 4, first=100)
    data, alone = load_dataset(str(tmp_path), 8), load_dataset(str(tmp_path / name), 8)
    assert (data.classes, data.n_train) == (3, 18)
    assert pixels(data.held_out(99)) == pixels(alone.batch(0, alone.n_train)) | pixels(alone.held_out(99))
    assert not pixels(data.held_out(99)) & pixels(data.batch(0, 18))


def test_a_folder_without_the_classes_of_the_training_is_left_out_with_a_word(tmp_path, caplog):
    in_folders(tmp_path / "train", 10)
    (tmp_path / "val").mkdir()
    (tmp_path / "test").mkdir()
    for i in range(5):
        (tmp_path / "test" / f"{i}.png").write_bytes(png(100 + i))
    data = load_dataset(str(tmp_path), 8)
    assert (data.classes, data.n_train, len(data.held_out(99).labels)) == (3, 27, 3)
    assert "test has other classes than train" in caplog.text
    in_folders(tmp_path / "dev", 2, first=200)  # and an empty folder hides nothing
    for file in (tmp_path / "test").iterdir():
        file.unlink()
    assert len(load_dataset(str(tmp_path), 8).held_out(99).labels) == 6


def test_the_first_held_out_images_are_of_every_class_and_always_the_same(tmp_path):
    in_folders(tmp_path / "folders" / "train", 2)
    in_folders(tmp_path / "folders" / "val", 20, first=100)
    (tmp_path / "files").mkdir()
    in_parquet(tmp_path / "files" / "train.parquet", [0, 1, 2, 0])
    in_parquet(tmp_path / "files" / "test.parquet", [0] * 20 + [1] * 20 + [2] * 20)
    for folder in ("folders", "files"):
        first, all_of_them = (load_dataset(str(tmp_path / folder), 8).held_out(n) for n in (15, 99))
        assert set(first.labels.tolist()) == {0, 1, 2} and all_of_them.labels.bincount().tolist() == [20, 20, 20]
        assert torch.equal(first.images, all_of_them.images[:15])


def test_mixing_leaves_an_image_its_label_and_what_is_mixed_its_order():
    images = torch.arange(60, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    sorted_labels = torch.arange(3).repeat_interleave(20)
    found = mixed(Pixels(images, sorted_labels))
    assert torch.equal(found.labels, found.images[:, 0, 0, 0] // 20) and len(set(found.labels[:10].tolist())) == 3
    by_chance = sorted_labels[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    for labels in (by_chance, torch.arange(60) - 1, torch.tensor([3]), torch.zeros(60).long()):
        assert mixed(Pixels(images[: len(labels)], labels)).labels is labels
    several_files = torch.arange(3).repeat_interleave(5).repeat(4)  # each in the order of its labels
    assert not torch.equal(mixed(Pixels(images, several_files)).labels, several_files)


def test_images_of_one_name_up_to_the_dot_are_left_out_with_a_word_each_time(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RCDM_HOME", str(tmp_path / "home"))
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "0.tar", {f"cat.{i}.png": png(i) for i in range(9)} | {"a.png": png(50)})
    for _ in range(2):  # the second time from the index that was kept
        caplog.clear()
        assert load_dataset(str(tmp_path / "tars"), 8).n_train == 1
        assert "8 images are left out" in caplog.text
