"""Two runs never share a folder, and a run that is continued is the one that was begun."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import make_tiny_sources
from test_training import same, tiny, train_until

from rcdm.training.denoiser import train
from rcdm.training.run_folder import alone_in, check_settings, remember_settings

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
