"""Two processes that share an evaluation or a study come to the numbers of one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from two_share import work

import rcdm
from rcdm import cli
from rcdm.measures import processes


@pytest.fixture(scope="module")
def results(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int, list[int]]:
    """Folders of one process and of two, and how many images it and each of them has drawn."""
    out = tmp_path_factory.mktemp("out")
    (out / "judges" / "sources").mkdir(parents=True)
    (out / "judges" / "sources" / "judge").symlink_to(tiny_checkpoint / "sources" / "tiny")
    given = (str(tiny_checkpoint), f"{out}/judges/judge/backbone")
    script = Path(__file__).with_name("two_share.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(script), *given, str(out / "two")],
        env=os.environ
        | {"PYTHONPATH": f"{Path(rcdm.__file__).parents[1]}", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return (
        out / "one",
        out / "two",
        work(*given, out / "one"),
        list(map(int, re.findall(r"drawn (\d+)", done.stdout))),
    )


def furthest(a: Any, b: Any) -> float:
    """The largest difference of any two numbers at the same place."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max((furthest(a[key], b[key]) for key in a if key not in ("seconds", "versions")), default=0.0)
    if isinstance(a, list):
        assert len(a) == len(b)
        return max(map(furthest, a, b), default=0.0)
    if isinstance(a, float | int):
        return abs(a - b)
    assert a == b
    return 0.0


@pytest.mark.parametrize("name", ["metrics", "retention", "samples", "information"])
def test_numbers_are_those_of_one_process(results, name):
    one, two = (json.loads((folder / f"{name}.json").read_text()) for folder in results[:2])
    assert furthest(one, two) < 1e-6
    assert name == "metrics" or (results[1] / f"{name}.png").is_file()


def test_each_process_draws_a_part(results):
    _, _, alone, each = results
    assert len(each) == 2 and sum(each) == alone and min(each) > 0.1 * alone


def test_nothing_unfinished_is_left(results):
    assert not [path for folder in results[:2] for path in folder.rglob("*.parts")]


def test_what_cannot_be_shared_is_refused(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes, "meet", lambda: None)
    monkeypatch.setattr("rcdm.cli.study_runs.meet", lambda: None)
    for arguments, words in (
        (["sample", "README.md"], "sample runs in one process; several can share train"),
        (["study", "interpolation", "--checkpoint", str(tiny_checkpoint), "--device", "cpu"], "samples, retention"),
    ):
        with pytest.raises(SystemExit):
            cli.main([*arguments, "--out", str(tmp_path / "x.png")])
        assert words in capsys.readouterr().err


def test_alone_everything_is_computed_in_order():
    assert [int(x) for x in processes.over_processes(range(5), torch.tensor)] == [0, 1, 2, 3, 4]
    assert processes.agreed("so") == "so" and processes.first() and not processes.several()
