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
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import make_tiny_sources
from kills import survive
from test_training import half_way, photographs, same, sources_dir, tiny, train_until, uninterrupted

import rcdm
from rcdm.diffusion.checkpoints import save_guidance
from rcdm.training.budget import Progress
from rcdm.training.denoiser import _Run, train
from rcdm.training.loop import Diverged
from rcdm.training.resume import lacks_room, saved_states
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
    for changes in ({"seed": 1}, {"train_batch_size": 8}, {"channels": (8, 32)}, {"ema_decay": 0.5}):
        with pytest.raises(ValueError, match=f"begun with {next(iter(changes))}"):
            train(tiny(sources, folder, resume_from_checkpoint="latest", **changes))
    longer = {"max_train_steps": 9, "checkpointing_steps": 3, "validation_steps": 99}
    assert (train(tiny(sources, folder, resume_from_checkpoint="latest", **longer)) / "model_index.json").is_file()
    assert not same(folder, train(tiny(sources, tmp_path / "whole", max_train_steps=8)))


def test_a_run_that_was_begun_with_latest_is_not_continued_as_another_one(
    sources_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(3, tiny(sources_dir, tmp_path / "run", resume_from_checkpoint="latest"), monkeypatch)
    with pytest.raises(ValueError, match="begun with seed"):
        train(tiny(sources_dir, tmp_path / "run", resume_from_checkpoint="latest", seed=1))


def test_a_run_goes_on_with_a_lower_rate(
    sources_dir: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(6, tiny(sources_dir, tmp_path / "run"), monkeypatch)
    lower = tiny(sources_dir, tmp_path / "run", resume_from_checkpoint="latest", learning_rate=1e-6, lr_warmup_steps=9)
    assert not same(train(lower), uninterrupted)


def test_a_finished_run_that_is_begun_again_keeps_the_guidance_that_was_chosen(
    sources_dir: Path,
    uninterrupted: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After more steps numbers and guidance are of other weights: they are put aside, and the card's tables go."""
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    shutil.rmtree(folder / "regressor", ignore_errors=True)
    train(tiny(sources_dir, folder, resume_from_checkpoint="latest", regressor_images=12))
    pipe = rcdm.load(folder, device="cpu")
    pipe.use_guidance({"tiny/backbone": 2.0})
    save_guidance(pipe, folder)
    (folder / "metrics.json").write_text('{"sources": {}}')
    pipe.save_pretrained(folder)
    assert "The numbers are in `metrics.json`." in (folder / "README.md").read_text()
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and "lock" not in file.name}
    again = tiny(sources_dir, folder, resume_from_checkpoint="latest", regressor_images=12)
    assert train(again) == folder and "has run to its end" in caplog.text
    assert before == {file: file.read_bytes() for file in before}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # the last step is taken, nothing is written
        patch.setattr(_Run, "export", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        train(replace(again, max_train_steps=9))
    train(replace(again, max_train_steps=9))
    assert not (folder / "metrics.json").exists() and (folder / "metrics.before.json").exists()
    assert (
        "Nothing has been measured yet" in (folder / "README.md").read_text() and "metrics.before.json" in caplog.text
    )
    assert rcdm.load(folder, device="cpu").config.guidance_scales == {}


def test_with_other_numbers_of_processes_no_batch_comes_twice() -> None:
    progress, seen = Progress(), []
    for processes, micro_batches in ((2, 1), (1, 1), (3, 2), (2, 3), (1, 1)):
        for micro in range(micro_batches):
            for rank in range(processes):
                run = SimpleNamespace(
                    progress=progress, config=SimpleNamespace(train_batch_size=16),
                    accelerator=SimpleNamespace(num_processes=processes, process_index=rank),
                )  # fmt: skip
                seen.append(_Run._place(run, micro))  # type: ignore[arg-type]
        progress.images += 16 * processes * micro_batches
    assert seen == list(range(len(seen)))


def test_weights_that_are_no_numbers_are_not_saved(
    sources_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss was still one: the gradient of the step before the state was not."""
    step = _Run.step

    def spoilt(self: _Run) -> torch.Tensor:
        loss = step(self)
        if self.progress.step == 5:
            next(iter(self.unet.parameters())).data.fill_(float("nan"))
        return loss

    monkeypatch.setattr(_Run, "step", spoilt)
    with pytest.raises(Diverged, match="last good checkpoint"):
        train(tiny(sources_dir, tmp_path / "run", checkpointing_steps=2, checkpointing_minutes=99))
    assert [state.name for state in saved_states(tmp_path / "run")] == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize("changes", [
    {"max_train_steps": 0}, {"max_train_steps": -1}, {"max_train_minutes": 0.0}, {"num_inference_steps": 0},
    {"num_inference_steps": 1001}, {"gradient_accumulation_steps": 0}, {"validation_steps": 0}, {"train_batch_size": 0},
    {"num_validation_images": 0}, {"checkpoints_total_limit": 0}, {"channels": (0, 8)}, {"layers_per_block": 0},
])  # fmt: skip
def test_numbers_that_no_run_can_have_are_refused_before_it(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))} must be"):
        tiny(tmp_path, tmp_path, **changes)


def test_networks_are_shared_by_neighbours_alone(sources_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave it out with backbone"):
        tiny("", tmp_path, backbone="resnet18=x.pth", share_sources=True)
    for place in ("far/away/sources", "networks"):
        shutil.copytree(sources_dir, tmp_path / place)
        with pytest.raises(ValueError, match="SIBLING/sources"):
            train(tiny(tmp_path / place, tmp_path / "run", share_sources=True))
    assert not saved_states(tmp_path / "run")


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
