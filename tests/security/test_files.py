"""Files that a request names: what was uploaded is read, and nothing else on the server, whatever it is called."""

import os
import sys
import threading
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from rcdm.data import images as im
from rcdm.ui.controls import EXAMPLES, example_of
from rcdm.ui.guard import _NOT_HERE, read_photo, received


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


def put(folder: Path, name: str = "photo.png", digest: str = "0" * 64) -> Path:
    (folder / digest).mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").convert("RGB").save(folder / digest / name)
    return folder / digest / name


def elsewhere(tmp_path: Path, uploads: Path) -> dict[str, str]:
    """Name -> a path that must not be read. All that exist are whole pictures, or never end."""
    secret = put(tmp_path / "private", "secret.tif")
    inside = uploads / ("1" * 64)
    inside.mkdir()
    (inside / "link.png").symlink_to(secret)
    (uploads / "linked").symlink_to(secret.parent, target_is_directory=True)
    os.mkfifo(inside / "pipe.png")
    os.link(secret, uploads / "flat.png")
    deep = put(uploads / ("2" * 64), "deep.png")
    return {
        "another file": str(secret),
        "one that is not there": str(secret.with_name("nobody.tif")),
        "a way round": str(uploads / ("0" * 64) / ".." / ".." / "private" / ("0" * 64) / "secret.tif"),
        "a link": str(inside / "link.png"),
        "a linked folder": str(uploads / "linked" / "secret.tif"),
        "a pipe": str(inside / "pipe.png"),
        "a folder": str(inside),
        "the uploads": str(uploads),
        "not in a folder of its own": str(uploads / "flat.png"),
        "too deep": str(deep),
        "zeros without end": "/dev/zero",
        "the terminal": "/dev/tty",
        "a process": "/proc/self/environ",
        "a relative path": os.path.relpath(secret),
        "nothing": "",
        "a null byte": "/tmp/a\0b.png",
        "a long name": "/" + "a" * 5000,
        "an address": "http://127.0.0.1:1/secret.png",
        "a home": "~/.bashrc",
    }


def test_an_upload_is_read(uploads: Path) -> None:
    assert read_photo(str(put(uploads))).size == (256, 256)


def test_nothing_else_is_opened_and_nobody_learns_whether_it_is_there(tmp_path: Path, uploads: Path) -> None:
    paths, opened, watching = elsewhere(tmp_path, uploads), [], [True]

    def hook(event: str, arguments: tuple) -> None:
        if watching[0] and event == "open" and threading.current_thread() is threading.main_thread():
            opened.append(str(arguments[0]))

    sys.addaudithook(hook)  # stays for the life of the process, so it is switched off below
    try:
        for name, path in paths.items():
            with pytest.raises(ValueError) as refused:
                read_photo(path)
            assert str(refused.value) == _NOT_HERE, name
    finally:
        watching[0] = False
    private = [file for file in opened if "secret" in file or file.startswith(("/dev", "/proc")) or "deep" in file]
    assert not private


def test_what_is_no_path_is_refused(uploads: Path) -> None:
    for value in (17, 1.5, True, ["a"], {"path": "/etc/hostname"}, b"/etc/hostname\0"):
        with pytest.raises(ValueError, match="no longer on the server"):
            received(value)  # type: ignore[arg-type]


def test_an_example_is_told_by_its_upload_alone(tmp_path: Path, uploads: Path) -> None:
    place = uploads / ("3" * 64) / "heart.png"
    place.parent.mkdir()
    place.write_bytes(EXAMPLES["heart.png"].read_bytes())
    assert example_of(str(place)) == "heart.png" and example_of(None) == ""
    with pytest.raises(ValueError, match="no longer on the server"):
        example_of(str(EXAMPLES["heart.png"]))  # the package's own folder is no upload


def test_no_more_is_read_than_may_be_decoded(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = put(uploads)
    with open(place, "wb") as file:
        file.truncate(2**33)  # 8 GiB that take no room on the disk
    assert len(received(str(place))) == im.MAX_BYTES + 1
    with pytest.raises(ValueError, match="larger than"):
        read_photo(str(place))


def test_a_large_picture_is_kept_small_and_cropped_alike(uploads: Path) -> None:
    place = uploads / ("4" * 64) / "large.jpg"
    place.parent.mkdir()
    Image.effect_noise((2500, 3100), 80).convert("RGB").save(place)
    kept, whole = read_photo(str(place)), im.decode(place)
    assert min(kept.size) < 1024
    for size in (16, 224, 512):
        assert im.centre_crop(kept, size).tobytes() == im.centre_crop(whole, size).tobytes()
    assert im.centre_crop(read_photo(str(place), 700), 700).tobytes() == im.centre_crop(whole, 700).tobytes()


def test_pictures_are_decoded_one_after_the_other(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, inside, most = put(uploads), [0], [0]
    decode = im.decode

    def slow(data: bytes) -> Image.Image:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.05)
        inside[0] -= 1
        return decode(data)

    monkeypatch.setattr(im, "decode", slow)
    threads = [threading.Thread(target=read_photo, args=(str(place),)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_refusal_reaches_the_user_as_a_sentence(uploads: Path) -> None:
    from rcdm.ui.guard import in_a_sentence

    with pytest.raises(gr.Error) as refused, in_a_sentence():
        read_photo("/etc/passwd")
    assert refused.value.message == _NOT_HERE
