"""FID and KID of features that pass by: the same as of all at once, and as torchmetrics has them."""

import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

import rcdm
from rcdm.data.datasets import load_dataset
from rcdm.measures import realism as streamed
from rcdm.measures.judge import Evaluator
from rcdm.measures.parts import Parts, keeping
from rcdm.measures.realism import Moments, blocks, frechet, kernel_distance, realism


def features(n: int, seed: int) -> torch.Tensor:
    """[n,6], correlated."""
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=stream) @ torch.randn(6, 6, generator=torch.Generator().manual_seed(9)) + seed


def moments(x: torch.Tensor, size: int) -> Moments:
    found = Moments()
    for batch in x.split(size):
        found.add(batch)
    return found


def test_moments_do_not_depend_on_batches():
    x = features(101, 0)
    found = moments(x, 7)
    assert found.n == 101 and torch.allclose(found.mean, x.double().mean(0))
    assert torch.allclose(found.covariance, torch.cov(x.double().T))


def test_fid_is_that_of_torchmetrics():
    class Flat(nn.Module):
        num_features = 6

        def forward(self, images):
            return images.flatten(1)

    a, b = features(80, 0), features(90, 1)
    theirs = FrechetInceptionDistance(Flat(), normalize=True, input_img_size=(1, 2, 3)).set_dtype(torch.float64)
    theirs.update(a.view(-1, 1, 2, 3), real=True)
    theirs.update(b.view(-1, 1, 2, 3), real=False)
    assert frechet(moments(a, 11), moments(b, 13)) == pytest.approx(float(theirs.compute()), rel=1e-6)
    assert frechet(moments(a, 11), moments(a, 80)) == pytest.approx(0, abs=1e-6)


def test_kid_of_a_block_is_that_of_torchmetrics():
    x, y = features(40, 0).double(), features(40, 1).double()
    kernels = [((a @ b.T) / 6 + 1) ** 3 for a, b in ((x, x), (x, y), (y, y))]
    from torchmetrics.image.kid import maximum_mean_discrepancy

    assert kernel_distance(x, y) == pytest.approx(float(maximum_mean_discrepancy(*kernels)), rel=1e-9)
    assert kernel_distance(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-9)


def test_blocks_keep_order_and_leave_the_rest_out():
    rows = torch.arange(25)[:, None]
    found = list(blocks(rows.split(4), 10))
    assert [len(block) for block in found] == [10, 10] and torch.equal(torch.cat(found), rows[:20])
    assert [len(block) for block in blocks([rows], 10)] == [10, 10]


@pytest.fixture
def judged(pipe, tiny_checkpoint):
    judge = Evaluator(rcdm.load_source(f"{tiny_checkpoint}/tiny/backbone"), load_dataset("sprites", 16), n=500)
    data = load_dataset("sprites", 16)
    h = pipe.encode(data.held_out(10).images, "tiny/projector")
    return lambda n: realism(pipe, judge, h, "tiny/projector", data, n)


def test_fid_of_features_that_pass_by_is_that_of_the_judge(pipe, tiny_checkpoint):
    """The same draws and images: one number under one name, and no unit of the features in it."""
    data = load_dataset("sprites", 16)
    judge = Evaluator(rcdm.load_source(f"{tiny_checkpoint}/tiny/backbone"), data, n=500)
    h = pipe.encode(data.held_out(10).images, "tiny/projector")
    drawn = pipe.draw(h[[i % 10 for i in range(96)]], "tiny/projector", range(10, 106))
    images = torch.cat([data.batch(0, 64).images, data.batch(1, 64).images])[:96]
    found = realism(pipe, judge, h, "tiny/projector", data, 96)["fid"]["value"]
    assert found == pytest.approx(judge.fid(drawn, images)["value"], rel=1e-3)
    raw = judge.features
    judge.features = lambda images: 7 * raw(images)
    assert realism(pipe, judge, h, "tiny/projector", data, 96)["fid"]["value"] == pytest.approx(found, rel=1e-4)


def test_draws_are_of_every_image_with_new_noise(judged, pipe, monkeypatch):
    asked = []
    draw = pipe.draw
    monkeypatch.setattr(
        pipe, "draw", lambda h, source, seeds, **more: asked.extend(seeds) or draw(h, source, seeds, **more)
    )
    found = judged(130)
    assert asked == list(range(10, 140)) and found["fid"]["n"] == found["kid"]["n"] == 130
    assert found["kid"]["subset"] == 65 and found["fid"]["value"] > 0


def test_what_was_interrupted_goes_on(judged, pipe, monkeypatch, tmp_path):
    whole, drawn = judged(200), []
    draw = pipe.draw

    def counted(h, source, seeds, **more):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(len(seeds))
        return draw(h, source, seeds, **more)

    monkeypatch.setattr(pipe, "draw", counted)
    with keeping(Parts(tmp_path / "parts")):
        with pytest.raises(KeyboardInterrupt):
            judged(200)
        drawn.insert(0, 0)  # two more are let through
        assert judged(200) == whole and drawn == [0, 64, 64, 64, 8]


def test_memory_does_not_grow_with_the_draws(judged, monkeypatch):
    """What `blocks` holds is less than a block and a batch, whatever the number of draws."""
    held = []
    cat = torch.cat

    def watched(parts, *more, **named):
        held.append(sum(map(len, parts)))
        return cat(parts, *more, **named)

    monkeypatch.setattr(streamed, "BLOCK", 70)
    monkeypatch.setattr(streamed.torch, "cat", watched)
    judged(400)
    assert max(held) <= 70 + 64
