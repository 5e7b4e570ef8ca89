"""What is measured on a GPU is what is measured on a CPU: nothing is forgotten on the other device."""

import json
import shutil
from functools import partial
from typing import Any

import pytest
import torch
from pretended_gpu import OnGPU, pretended_gpu
from test_study_files import quick_save

import rcdm
from rcdm import cli
from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.measures.judge import Evaluator
from rcdm.measures.metrics import retention


def test_the_pretended_gpu_refuses_what_cuda_refuses():
    with pretended_gpu():
        there, here = torch.ones(3, 2, device="cuda"), torch.ones(3, 2)
        assert there.device.type == "cuda" and (there + 1).device.type == "cuda" and isinstance(there.sum(), OnGPU)
        assert there.cpu().device.type == "cpu" and float((there @ there.T).sum()) == 18
        assert there[torch.tensor([0, 2])].shape == (2, 2)  # an index may lie on the CPU
        for mixed in (lambda: there + here, lambda: here[there[:, 0].long()], lambda: there.numpy()):
            with pytest.raises((RuntimeError, TypeError)):
                mixed()


def test_a_pipeline_goes_there(tiny_checkpoint):
    with pretended_gpu():
        pipe = rcdm.load(tiny_checkpoint, device="cuda")
        h = pipe.encode(torch.zeros(2, 3, 16, 16), "tiny/backbone")
        drawn = pipe.draw(h, "tiny/backbone", seeds=[1, 2])
        assert pipe.device.type == "cuda" and isinstance(h, OnGPU) and isinstance(drawn, OnGPU)


def test_an_interval_is_the_same_wherever_numbers_lie():
    drawn, given = torch.randn(9, 4, 2), torch.randn(9, 2)
    with pretended_gpu():
        assert retention(drawn.to("cuda"), given.to("cuda")) == retention(drawn, given)


@pytest.fixture
def photographs(tmp_path) -> str:
    """A folder of 80 images that nothing is known of: what is read of them are statistics of their pixels."""
    (tmp_path / "photographs").mkdir()
    for i, image in enumerate(im.to_pil(sprites.render(sprites.sample_factors(80, seed=4), 16))):
        image.save(tmp_path / "photographs" / f"{i}.png")
    return str(tmp_path / "photographs")


@pytest.mark.parametrize("study", ["retention", "information", "interpolation", "spectrum"])
def test_a_study_finds_on_a_gpu_what_it_finds_on_a_cpu(study, photographs, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("rcdm.studies.study_files.save", quick_save)
    images, more = {
        "information": ("6", ("levels=3",)), "interpolation": ("2", ("points=3",)), "spectrum": ("8", ()),
    }.get(study, ("6", ()))  # fmt: skip

    def found(device: str) -> dict[str, Any]:
        out = tmp_path / device
        asked = ["--checkpoint", str(tiny_checkpoint), "--device", device, "--out", str(out), "--samples", "2"]
        asked += ["--images", images, "--reference", "40", "--source", "tiny/backbone", "tiny/projector"]
        cli.main(["study", study, *asked, "--data", photographs, *(word for one in more for word in ("--option", one))])
        record = json.loads((out / f"{study}.json").read_text())
        return {name: of for name, of in record.items() if name not in ("settings", "command")}

    on_cpu = found("cpu")
    with pretended_gpu():
        assert found("cuda") == on_cpu


def test_a_checkpoint_is_measured_on_a_gpu_as_on_a_cpu(photographs, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("rcdm.cli.measuring.Evaluator", partial(Evaluator, n=30))
    (tmp_path / "judges" / "sources").mkdir(parents=True)
    (tmp_path / "judges" / "sources" / "judge").symlink_to(tiny_checkpoint / "sources" / "tiny")
    sizes = ["--gallery", "6", "--retention-images", "4", "--retention-draws", "2", "--probe-images", "30"]
    sizes += ["--guidance-images", "4", "--guidance-draws", "2", "--evaluator", f"{tmp_path}/judges/judge/backbone"]

    def found(device: str) -> dict[str, Any]:
        out = tmp_path / device
        shutil.copytree(tiny_checkpoint, out)
        cli.main(["evaluate", str(out), "--device", device, "--data", photographs, *sizes])
        return {name: of for name, of in json.loads((out / "metrics.json").read_text()).items() if name != "seconds"}

    on_cpu = found("cpu")
    with pretended_gpu():
        assert found("cuda") == on_cpu
