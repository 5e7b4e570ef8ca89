"""Two runs never share a folder, and a run that is continued is the one that was begun."""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import make_tiny_sources
from kills import survive
from test_training import half_way, photographs, same, sources_dir, tiny, train_until, uninterrupted

import rcdm
from rcdm.training.denoiser import _Run, train
from rcdm.training.resume import lacks_room
from rcdm.training.run_folder import alone_in, check_settings, remember_settings

__all__ = ["half_way", "sources_dir", "uninterrupted"]  # fixtures

_HOLDER = """
import sys, time
from pathlib import Path
from rcdm.training.run_folder import alone_in
with alone_in(Path(sys.argv[1])):
    print("inside", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_until_the_first_is_gone_however_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    child = subprocess.Popen([sys.executable, "-c", _HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "inside\n"
        with pytest.raises(ValueError, match=f"process {child.pid}"), alone_in(folder):
            pytest.fail("two runs in one folder")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    (folder / "partial-7").mkdir()
    (folder / "checkpoint-4").mkdir()
    deadline = time.monotonic() + 10
    while True:
        try:
            with alone_in(folder):
                assert not (folder / "partial-7").exists() and (folder / "checkpoint-4").is_dir()
            break
        except ValueError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_an_error_inside_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), alone_in(tmp_path):
        raise RuntimeError
    with alone_in(tmp_path):
        assert (tmp_path / "run.lock.owner").read_text() == f"{os.getpid()}\n"


def test_settings_are_compared_but_for_what_is_harmless(tmp_path: Path) -> None:
    check_settings(tmp_path, {"seed": 1}, ())  # nothing is known
    remember_settings(tmp_path, {"seed": 0, "channels": (8, 16), "steps": 5})
    check_settings(tmp_path, {"seed": 0, "channels": (8, 16), "steps": 9}, ("steps",))
    with pytest.raises(ValueError, match=r"seed 0 \(now 1\), channels \[8, 16\] \(now \[8\]\)"):
        check_settings(tmp_path, {"seed": 1, "channels": (8,), "steps": 5}, ())


def test_a_run_is_not_continued_as_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, folder = tmp_path / "sources", tmp_path / "run"
    make_tiny_sources().save_pretrained(sources)
    train_until(3, tiny(sources, folder), monkeypatch)
    for changes in ({"seed": 1}, {"train_batch_size": 8}, {"channels": (8, 32)}, {"learning_rate": 1e-5}):
        with pytest.raises(ValueError, match=f"begun with {next(iter(changes))}"):
            train(tiny(sources, folder, resume_from_checkpoint="latest", **changes))
    longer = {"max_train_steps": 9, "checkpointing_steps": 3, "validation_steps": 99}
    assert (train(tiny(sources, folder, resume_from_checkpoint="latest", **longer)) / "model_index.json").is_file()
    assert not same(folder, train(tiny(sources, tmp_path / "whole", max_train_steps=8)))


def test_a_run_is_not_continued_with_other_networks_or_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, folder, images = make_tiny_sources(), tmp_path / "run", tmp_path / "images"
    sources.save_pretrained(tmp_path / "sources")
    photographs(images)
    train_until(3, tiny(tmp_path / "sources", folder, train_data_dir=str(images)), monkeypatch)
    again = tiny(tmp_path / "sources", folder, train_data_dir=str(images), resume_from_checkpoint="latest")
    added = images / "a" / "one more.png"
    added.write_bytes(next(images.rglob("*.png")).read_bytes())
    with pytest.raises(ValueError, match=r"begun with training images \(digest\)"):
        train(again)
    added.unlink()
    next(iter(sources.networks.values())).backbone.conv1.weight.data *= 2
    shutil.rmtree(tmp_path / "sources")
    sources.save_pretrained(tmp_path / "sources")
    with pytest.raises(ValueError, match=r"begun with tiny \(digest\)"):
        train(again)


@pytest.mark.parametrize("seed", [0])
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_been(
    sources_dir: Path, uninterrupted: Path, tmp_path: Path, seed: int
) -> None:
    """Up to five kills, two of them while a state is written: no machine is too fast for those (CONTRIBUTING.md)."""
    config = tiny(sources_dir, tmp_path / "killed")
    assert survive(config, 5, random.Random(seed)) >= 2
    assert same(tmp_path / "killed", uninterrupted)
    rcdm.load(tmp_path / "killed", device="cpu")


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """`small_disk(BYTES)`: no file can be longer; the system says so as it does for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_said_in_a_sentence_that_names_what_is_whole(
    sources_dir: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk
) -> None:
    config = tiny(sources_dir, tmp_path / "run")
    train_until(6, config, monkeypatch)
    with monkeypatch.context() as patch:
        step = _Run.step
        patch.setattr(_Run, "step", lambda self: (small_disk(20_000), step(self))[1])
        with pytest.raises(ValueError, match=r"no room on the disk.*checkpoint-6.*latest") as full:
            train(tiny(sources_dir, tmp_path / "run", resume_from_checkpoint="latest"))
    assert "\n" not in str(full.value) and not list((tmp_path / "run").glob("partial-*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert same(train(tiny(sources_dir, tmp_path / "run", resume_from_checkpoint="latest")), uninterrupted)


def test_a_checkpoint_that_was_not_written_to_its_end_says_so(
    sources_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk
) -> None:
    write = _Run._write
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_write", lambda self, pipe: (small_disk(20_000), write(self, pipe))[1])
        with pytest.raises(ValueError, match=r"no room on the disk for the checkpoint.*checkpoint-8"):
            train(tiny(sources_dir, tmp_path / "run"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with pytest.raises(ValueError, match=r"not written to its end.*resume_from_checkpoint latest|has not written"):
        rcdm.load(tmp_path / "run", device="cpu")
    train(tiny(sources_dir, tmp_path / "run", resume_from_checkpoint="latest"))
    rcdm.load(tmp_path / "run", device="cpu")


def test_a_run_under_way_is_no_checkpoint_yet(half_way: Path) -> None:
    with pytest.raises(ValueError, match="under way, or was stopped"):
        rcdm.load(half_way, device="cpu")


def test_a_damaged_state_that_is_named_says_which_are_whole(half_way: Path, sources_dir: Path) -> None:
    (half_way / "checkpoint-6" / "optimizer.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="checkpoint-6 is damaged; whole are: checkpoint-4"):
        train(tiny(sources_dir, half_way, resume_from_checkpoint="checkpoint-6"))
    with pytest.raises(ValueError, match=r"no checkpoint 'checkpoint-7'.*whole are: checkpoint-4"):
        train(tiny(sources_dir, half_way, resume_from_checkpoint="checkpoint-7"))


@pytest.mark.parametrize(("error", "full"), [
    (OSError(errno.ENOSPC, "No space left on device"), True), (OSError(errno.EACCES, "no"), False),
    (RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0"), True), (ValueError("x"), False),
])  # fmt: skip
def test_what_a_full_disk_looks_like(error: Exception, full: bool) -> None:
    assert lacks_room(error) is full
