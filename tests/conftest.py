"""A complete checkpoint with random weights, small enough to draw from in milliseconds."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from threadpoolctl import threadpool_limits
from torch import nn

import rcdm
from rcdm.diffusion.image_space import PixelSpace
from rcdm.diffusion.unet import RepresentationUNet, unet_arguments
from rcdm.networks.backbones import SmallResNet
from rcdm.networks.representation import Preprocessing, SSLNetwork
from rcdm.networks.sources import Sources

TINY_SOURCES = ("tiny/backbone", "tiny/projector", "tiny/layer2")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Of torch and of BLAS, which would take all cores in each worker: then workers wait for each other."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests begin, and of libraries that come later
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


def make_tiny_sources() -> Sources:
    """A network of random weights with moved batch statistics, read at three levels of different width."""
    torch.manual_seed(0)
    projector = nn.Sequential(
        nn.Sequential(nn.Linear(32, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU()), nn.Sequential(nn.Linear(16, 8))
    )
    network = SSLNetwork(SmallResNet(width=4), projector)
    network.train()
    network(torch.randn(16, 3, 16, 16))
    preprocessing = {"size": 16, "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "small_resnet", "arguments": {"width": 4}, "preprocessing": preprocessing}
    return Sources({"tiny": (network.eval(), Preprocessing(16))}, TINY_SOURCES, {"tiny": config})


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline that draws 16 px images in 4 steps from the sources `TINY_SOURCES`."""
    sources = make_tiny_sources()
    arguments = unet_arguments(
        16, channels=(8, 16), layers_per_block=1, attention_resolutions=(4,), space=PixelSpace(patch=2)
    )
    unet = RepresentationUNet(sources.widths(), arguments, {"kind": "pixels", "patch": 2})
    for name in TINY_SOURCES:
        dim = unet.config.sources[name]
        unet.set_statistics(name, torch.rand(dim), 0.5 + torch.rand(dim))
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        thresholding=True,
        sample_max_value=1.0,
    )
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-16"
    rcdm.RCDMPipeline(unet, scheduler, sources, default_steps=4).save_pretrained(folder)
    return folder


@pytest.fixture
def pipe(tiny_checkpoint: Path) -> rcdm.RCDMPipeline:
    return rcdm.load(tiny_checkpoint, device="cpu")
