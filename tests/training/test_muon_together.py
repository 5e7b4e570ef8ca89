"""Matrices that are orthogonalised together move as timm's Muon moves them one by one."""

import pytest
import torch
from timm.optim import muon
from torch._subclasses.fake_tensor import FakeTensorMode

from rcdm.training import muon_together, setup
from rcdm.training.config import TrainingConfig

SHAPES = [(24, 6, 3, 3), (24, 24, 3, 3), (24, 24, 3, 3), (48, 24, 3, 3), (96, 64), (96, 64), (24, 216), (40, 24, 1, 1)]
"""Of one kind several, some alike once they are matrices (24 x 216), some higher than wide."""


def moved(step, nesterov, weight_decay, adjust, mode="flatten", scale_eps=False):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in SHAPES]
    weights[1] = weights[1].to(memory_format=torch.channels_last)
    momenta = [torch.zeros_like(weight) for weight in weights]
    for _ in range(3):
        gradients = [torch.randn(shape, generator=generator) for shape in SHAPES]
        step(
            weights, gradients, momenta, lr=0.02, weight_decay=weight_decay, momentum=0.9, nesterov=nesterov,
            ns_steps=5, ns_coefficients="quintic", eps=1e-7, safety_factor=1.0, adjust_lr_fn=adjust,
            conv_mode=mode, normalize_spatial=True, scale_eps=scale_eps, capturable=False,
        )  # fmt: skip
    return weights + momenta


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original", None])
def test_weights_and_momenta_are_those_of_one_after_the_other(nesterov, weight_decay, adjust):
    one_by_one = moved(muon._single_tensor_muon, nesterov, weight_decay, adjust)
    together = moved(muon_together.step, nesterov, weight_decay, adjust)
    for own, given in zip(together, one_by_one, strict=True):
        torch.testing.assert_close(own, given, rtol=0, atol=2e-4)  # products are in bfloat16


@pytest.mark.parametrize(("mode", "scale_eps"), [("batched", False), ("flatten", True)])
def test_what_it_does_not_do_is_left_to_timm(mode, scale_eps):
    options = True, 0.1, "match_rms_adamw", mode, scale_eps
    one_by_one, together = moved(muon._single_tensor_muon, *options), moved(muon_together.step, *options)
    assert all(map(torch.equal, together, one_by_one))


def test_fewer_products_are_asked_for(monkeypatch):
    asked, real = [], muon.zeropower_via_newtonschulz

    def watched(matrices, *settings, **more):
        asked.append(matrices.shape)
        return real(matrices, *settings, **more)

    monkeypatch.setattr(muon, "zeropower_via_newtonschulz", watched)
    moved(muon_together.step, True, 0.0, None)
    assert len(asked) == 3 * len({(shape[0], torch.Size(shape[1:]).numel()) for shape in SHAPES})


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_it_is_for_cuda_alone(device, monkeypatch):
    used = []
    monkeypatch.setattr(setup, "orthogonalise_together", lambda: used.append(device))
    monkeypatch.setattr(setup, "multiplies_bfloat16", lambda _: True)
    config = TrainingConfig(sources_dir="x", output_dir="y", max_train_steps=1, optimizer="muon")
    with FakeTensorMode():
        setup.optimizer_of(config, [torch.nn.Parameter(torch.empty(4, 8, device=device))], setup.DistributedType.NO)
    assert used == (["cuda"] if device == "cuda" else [])


def test_the_optimizer_takes_it(monkeypatch):
    monkeypatch.setattr(muon, "muon", muon.muon)  # to be put back
    asked = []
    muon_together.orthogonalise_together()
    monkeypatch.setattr(muon, "get_lr_scale", lambda *_: asked.append(1) or 1.0)
    weights = [torch.nn.Parameter(torch.randn(8, 8)) for _ in range(3)]
    optimizer = muon.Muon(weights, lr=0.1)
    for weight in weights:
        weight.grad = torch.randn(8, 8)
    optimizer.step()
    assert len(asked) == 1
