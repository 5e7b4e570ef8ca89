"""Two processes with half of a batch each end where one process with the whole batch does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_sources
from safetensors.torch import load_file
from test_training import photographs, tiny

import rcdm
from rcdm.networks.representation import RepresentationSource
from rcdm.networks.source_folder import load_network, read_config
from rcdm.training.denoiser import train


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which two processes have pretrained a backbone and trained a denoiser."""
    out = tmp_path_factory.mktemp("out")
    make_tiny_sources().save_pretrained(out / "sources")
    photographs(out / "photos", 30)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).with_name("two_processes.py")
    places = (str(Path(rcdm.__file__).parents[1]), str(script.parents[1]), str(script.parent))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    environment["ACCELERATE_USE_CPU"] = "true"
    done = subprocess.run(
        [*launch, str(script), str(out / "sources"), str(out)],
        env=environment, capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("finished") == 2, done.stderr[-3000:]
    return out


def test_two_processes_end_with_the_weights_of_one(out):
    options = {"train_data_dir": str(out / "photos"), "representations_dir": str(out / "h"), "random_flip": True}
    options |= {"train_batch_size": 8, "lr_warmup_steps": 1, "checkpoints_total_limit": 4}
    one = train(tiny(out / "sources", out / "one", **options))

    def matrices(run: str, step: int) -> torch.Tensor:
        """All but biases: a norm of single channels takes theirs away, and Adam scales the rounding that is left up."""
        state = load_file(out / run / f"checkpoint-{step}" / "model.safetensors")
        return torch.cat([state[name].flatten() for name in sorted(state) if state[name].ndim > 1])

    last, moved = matrices("one", 8), (matrices("one", 8) - matrices("one", 2)).norm()
    assert (matrices("two", 8) - last).norm() < 1e-3 * moved
    assert (matrices("two", 8) - last).abs().max() < 1e-4
    x, t = torch.randn(8, 3, 16, 16), torch.arange(100, 900, 100)
    outputs = []
    for folder in (one, out / "two"):
        pipe = rcdm.load(folder, device="cpu")
        with torch.no_grad():
            outputs.append(pipe.unet(x, t, pipe.encode(x.clamp(-1, 1), "tiny/backbone"), "tiny/backbone").sample)
    assert torch.allclose(*outputs, atol=2e-3 * float(outputs[0].std()))  # of averaged weights in half precision
    assert json.loads((out / "two" / "training.json").read_text())["images"] == 64
    assert (out / "two" / "validation" / "step-0000004.png").is_file()


def test_two_processes_pretrain_one_backbone(out):
    folder = out / "pretrained"
    network, preprocessing = load_network(folder)
    assert RepresentationSource("x", network, "projector", preprocessing)(torch.zeros(1, 3, 16, 16)).shape == (1, 8)
    assert read_config(folder)["training"]["seconds"] >= 1 and not list(folder.glob("checkpoint-*"))
