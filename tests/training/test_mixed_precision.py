"""Half as many bits are taken where the hardware multiplies them, and nobody waits ten times as long without a word."""

import json
import logging
from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import make_tiny_sources
from test_training import tiny

import rcdm
from rcdm import cli
from rcdm.data.datasets import load_dataset
from rcdm.diffusion import precision
from rcdm.networks.source_folder import read_config
from rcdm.ssl.pretraining import pretrain
from rcdm.ssl.pretraining_config import PretrainConfig
from rcdm.training import mixed_precision
from rcdm.training.config import TrainingConfig
from rcdm.training.denoiser import train
from rcdm.training.mixed_precision import precision_of

SMALL = {"width": 4, "blocks": (1, 1, 1, 1), "projector_dim": 8, "batch_size": 8, "max_steps": 1, "warmup_steps": 1}


@pytest.fixture
def hardware(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """A CPU that multiplies bfloat16, or one that does not."""
    for module in (precision, mixed_precision):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda _: request.param)
    AcceleratorState._reset_state()  # which a process has once, with one precision
    yield request.param
    AcceleratorState._reset_state()


def test_a_cpu_that_multiplies_bfloat16_lists_it():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch without oneDNN")
    flags = torch.backends.cpu.get_cpu_capability()
    if flags in ("DEFAULT", "NO AVX", "AVX2"):  # what torch sees of x86 before AVX-512
        assert not precision.multiplies_bfloat16("cpu")


@pytest.mark.parametrize("hardware", [True, False], indirect=True)
def test_auto_is_what_the_hardware_has_and_the_rest_is_itself(hardware, caplog):
    assert precision_of("auto") == ("bf16" if hardware else "no")
    assert ("In float32" in caplog.text) != hardware
    caplog.clear()
    assert precision_of("no") == "no" and not caplog.records
    assert precision_of("bf16") == "bf16" and ("up to ten times" in caplog.text) != hardware


def test_fp16_is_no_float32_by_another_name(monkeypatch):
    monkeypatch.setattr(mixed_precision, "best_device", lambda: "cpu")
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        precision_of("fp16")
    monkeypatch.setattr(mixed_precision, "best_device", lambda: "cuda")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(mixed_precision, "warn_of_emulation", lambda *_: None)
    assert precision_of("fp16") == "fp16"


@pytest.mark.parametrize("hardware", [True, False], indirect=True)
def test_what_was_chosen_is_written_down_and_a_run_goes_on_so(hardware, tmp_path, monkeypatch):
    found = "bf16" if hardware else "no"
    pretrain(load_dataset("sprites", 16), PretrainConfig("simclr", **SMALL), tmp_path / "simclr")
    assert read_config(tmp_path / "simclr")["training"]["mixed_precision"] == found
    sources, run = tmp_path / "sources", tmp_path / "run"
    make_tiny_sources().save_pretrained(sources)
    train(tiny(sources, run, mixed_precision="auto"))
    assert json.loads((run / "training.json").read_text())["config"]["mixed_precision"] == found
    AcceleratorState._reset_state()
    monkeypatch.setattr(mixed_precision, "multiplies_bfloat16", lambda _: not hardware)
    with pytest.raises(ValueError, match=f"begun with mixed_precision '{found}'"):
        train(tiny(sources, run, mixed_precision="auto", resume_from_checkpoint="latest", max_train_steps=9))


@pytest.mark.parametrize("hardware", [True, False], indirect=True)
def test_drawing_in_bfloat16_says_where_it_is_slow(hardware, tiny_checkpoint, caplog):
    with caplog.at_level(logging.WARNING):
        rcdm.load(tiny_checkpoint, device="cpu", mixed_precision="bf16")
        assert ("up to ten times" in caplog.text) != hardware
        caplog.clear()
        rcdm.load(tiny_checkpoint, device="cpu")
    assert not caplog.records


def test_another_name_is_refused_before_anything_is_loaded(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"no, bf16, fp16, auto, and is 'fp8'"):
        TrainingConfig(sources_dir="s", output_dir="o", max_train_steps=1, mixed_precision="fp8")
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "--objective", "simclr", "--mixed-precision", "fp8", "--out", str(tmp_path)])
    assert "and is 'fp8'" in capsys.readouterr().err
