"""FSDP: two processes, each with a half of every weight, end where one process with the whole batch does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from conftest import make_tiny_sources
from test_training import tiny

import rcdm
from rcdm.training.denoiser import train


def test_two_halves_end_with_the_weights_of_a_whole(tmp_path):
    make_tiny_sources().save_pretrained(tmp_path / "sources")
    script = Path(__file__).with_name("two_sharded.py")
    places = (str(Path(rcdm.__file__).parents[1]), str(script.parents[1]), str(script.parent))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
        + [str(tmp_path / "sources"), str(tmp_path)],
        env=environment | {"ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("finished") == 2, done.stderr[-3000:]
    assert json.loads((tmp_path / "eight" / "training.json").read_text())["images"] == 64
    one = train(tiny(tmp_path / "sources", tmp_path / "one", train_batch_size=8, lr_warmup_steps=1))
    outputs, x, t = [], torch.randn(8, 3, 16, 16), torch.arange(100, 900, 100)
    for folder in (one, tmp_path / "eight"):
        pipe = rcdm.load(folder, device="cpu")
        with torch.no_grad():
            outputs.append(pipe.unet(x, t, pipe.encode(x.clamp(-1, 1), "tiny/backbone"), "tiny/backbone").sample)
    assert torch.allclose(*outputs, atol=2e-3 * float(outputs[0].std()))  # of averaged weights in half precision
