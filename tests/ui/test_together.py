"""Jobs that share calls draw what each would draw alone, in common batches, and none stops another."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import rcdm
from rcdm.data import images as im
from rcdm.ui import together
from rcdm.ui.drawing import Columns, Job
from rcdm.ui.engine import Engine
from rcdm.ui.exploring import Encoding, Study
from rcdm.ui.settings import Settings
from rcdm.ui.together import SharedCalls

BOTH = ("tiny/backbone", "tiny/projector")
PICTURES = [Image.linear_gradient("L").rotate(90 * i).convert("RGB") for i in range(3)]


class Adder:
    """A network that adds timestep and embedding to an image, and remembers how many images each call had."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, timestep: Any, class_labels: Tensor) -> Any:
        self.sizes.append(len(x))
        if x.min() < 0:
            raise ValueError("no")
        steps = torch.as_tensor(timestep).expand(len(x))
        return SimpleNamespace(sample=x + (steps + class_labels[:, 0])[:, None, None, None])


def _at_once(shared: SharedCalls, works: list[Callable[[], Any]]) -> list[Any]:
    """Run each in a job of its own, all of them drawing before the first asks; results or errors."""
    found: list[Any] = [None] * len(works)
    there = threading.Barrier(len(works), timeout=10)

    def run(i: int) -> None:
        try:
            with shared.job(), torch.no_grad(), together.drawing():
                there.wait()
                found[i] = works[i]()
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return found


def _asker(network: Adder, value: float, images: int = 2, calls: int = 3) -> Callable[[], list[float]]:
    """Calls the network with timesteps `value`, `value` + 1 …; what it answers at the first image."""
    x, embedding = torch.full((images, 1, 1, 1), value), torch.full((images, 1), 10 * value)
    return lambda: [float(together.call(network, x, value + i, embedding)[0, 0, 0, 0]) for i in range(calls)]


def test_jobs_share_calls_and_get_their_own_answers() -> None:
    network = Adder()
    found = _at_once(
        SharedCalls(), [_asker(network, 1.0), _asker(network, 2.0, images=3), _asker(network, 3.0, calls=5)]
    )
    assert found == [[12, 13, 14], [24, 25, 26], [36, 37, 38, 39, 40]]
    assert network.sizes == [7, 7, 7, 2, 2]


def test_a_batch_has_a_largest_size_and_networks_are_kept_apart() -> None:
    first, second = Adder(), Adder()
    _at_once(SharedCalls(), [_asker(n, 1.0, together.MOST // 2, 1) for n in (first, first, first, second)])
    assert first.sizes == [together.MOST, together.MOST // 2] and second.sizes == [together.MOST // 2]


def test_an_error_of_a_call_is_raised_in_its_jobs_and_the_next_ones_work() -> None:
    shared, network, other = SharedCalls(), Adder(), Adder()
    failed, fine = _at_once(shared, [_asker(network, -1.0), _asker(other, 1.0)])
    assert isinstance(failed, ValueError) and fine == [12, 13, 14]
    assert _at_once(shared, [_asker(network, 1.0)]) == [[12, 13, 14]]


def test_outside_of_a_job_and_for_gradients_the_network_is_called_at_once() -> None:
    network, shared = Adder(), SharedCalls()
    with torch.no_grad():
        assert _asker(network, 1.0)() == [12, 13, 14]
    with shared.job(), torch.enable_grad():
        assert _asker(network, 1.0)() == [12, 13, 14]


def test_nobody_waits_for_a_job_that_calls_with_gradients_until_it_calls_without() -> None:
    network, other, through = Adder(), Adder(), threading.Event()

    def plain() -> list[float]:
        found = _asker(network, 1.0)()
        through.set()
        return found

    def led() -> list[float]:
        with torch.enable_grad():
            first = _asker(other, 2.0, calls=1)()
        assert through.wait(10), "the other job waits for this one"
        return [*first, *_asker(network, 3.0, calls=2)()]

    shared = SharedCalls()
    assert _at_once(shared, [plain, led]) == [[12, 13, 14], [24, 36, 37]]
    assert shared._drawing == 0
    assert _at_once(shared, [_asker(network, 1.0), _asker(network, 2.0)]) == [[12, 13, 14], [24, 25, 26]]
    assert network.sizes[-3:] == [4, 4, 4], "they share calls as before"


def test_lanes_share_the_jobs_and_the_cores() -> None:
    cores = torch.get_num_threads()
    meet = threading.Barrier(2)  # broken by its timeout where calls are made one after the other

    class Meeting(Adder):
        def __call__(self, x: Tensor, timestep: Any, class_labels: Tensor) -> Any:
            meet.wait(10)
            threads.append(torch.get_num_threads())
            return super().__call__(x, timestep, class_labels)

    threads: list[int] = []
    network, shared = Meeting(), SharedCalls(lanes=2)
    found = _at_once(shared, [_asker(network, float(i)) for i in range(4)])
    assert found == [[11.0 * i + 1 * i + k for k in range(3)] for i in range(4)]
    assert network.sizes == [4] * 6 and set(threads) == {max(1, cores // 2)}
    assert torch.get_num_threads() == cores  # of this thread: each has a setting of its own
    meet.abort()


def test_a_lane_is_not_kept_from_who_is_there_alone() -> None:
    network, shared = Adder(), SharedCalls(lanes=4)
    found = _at_once(shared, [_asker(network, 1.0, calls=2), _asker(network, 2.0, calls=1)])
    assert found == [[12, 13], [24]] and network.sizes == [2, 2, 2]


def test_a_network_can_be_read_in_several_threads_at_once(pipe: rcdm.RCDMPipeline) -> None:
    images = [torch.rand(8, 3, 16, 16) * 2 - 1 for _ in range(4)]
    levels = [*BOTH, "tiny/layer2", BOTH[0]]
    alone = [pipe.encode(x, level) for x, level in zip(images, levels, strict=True)]
    found: list[list[Tensor]] = [[] for _ in images]
    errors: list[Exception] = []

    def read(i: int) -> None:
        try:
            for _ in range(20):
                found[i].append(pipe.encode(images[i], levels[i]))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    for h, again in zip(alone, found, strict=True):
        assert len(again) == 20
        for one in again:
            torch.testing.assert_close(one, h, rtol=1e-4, atol=1e-5)


@pytest.fixture
def engine(tiny_checkpoint: Path) -> Engine:
    """Of one lane, so that what is drawn together does not depend on the machine."""
    engine = Engine(Settings(checkpoint=str(tiny_checkpoint)), device="cpu")
    engine._shared = SharedCalls()
    return engine


def _draw_at_once(engine: Engine, jobs: list[Job]) -> list[Any]:
    """What each job ends with, as the page would run them."""
    found: list[Any] = [None] * len(jobs)

    def run(i: int) -> None:
        found[i] = list(engine.run(engine.settings.checkpoint, jobs[i]))[-1][0]  # type: ignore[index]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    engine._shared.expect(True)  # holds the first calls back until all of them are there
    for thread in threads:
        thread.start()
    while engine._shared._drawing < 1 + len(jobs):
        time.sleep(0.01)
    engine._shared.expect(False)
    for thread in threads:
        thread.join(30)
    return found


def _batches_of(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the denoiser has, from now on."""
    sizes: list[int] = []
    network = type(engine[engine.settings.checkpoint].pipe.unet.unet)
    forward = network.forward

    def noted(self: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(sample))
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(network, "forward", noted)
    return sizes


def test_drawings_of_several_users_are_those_of_each_alone(
    engine: Engine, pipe: rcdm.RCDMPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [(BOTH, (0, 1), 3), (BOTH[1:], (7, 8, 9), 5), (("tiny/layer2",), (2**31 - 1,), 3)]
    sizes = _batches_of(engine, monkeypatch)
    jobs: list[Job] = [Columns(picture, *s) for picture, s in zip(PICTURES, settings, strict=True)]
    found = _draw_at_once(engine, jobs)
    assert sizes == [4 + 3 + 1] * 3 + [3] * 2
    for picture, (sources, seeds, steps), columns in zip(PICTURES, settings, found, strict=True):
        alone = pipe([picture] * len(sources), source=sources, seeds=seeds, num_inference_steps=steps).images
        drawn = [image for column in columns for image in column.images]
        assert len(drawn) == len(alone)
        apart = [(im.to_tensor(a) - im.to_tensor(b)).abs().max() * 127.5 for a, b in zip(drawn, alone, strict=True)]
        assert max(apart) < 1.5


def test_who_stops_leaves_the_batch_and_stops_nobody_else(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, name = _batches_of(engine, monkeypatch), engine.settings.checkpoint
    forward = rcdm.RepresentationUNet.forward

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.05)
        return forward(*args, **kwargs)

    monkeypatch.setattr(rcdm.RepresentationUNet, "forward", slow)
    jobs = (Columns(PICTURES[1], BOTH, (1, 2), 60), Study("samples", (PICTURES[1],), BOTH[:1], (1, 2, 3, 4), 60))
    for i, leaving in enumerate(jobs):
        sizes.clear()
        stream = engine.run(name, leaving)
        staying: list[Any] = []
        other = Columns(PICTURES[0], BOTH[:1], (5, 100 + i), 12)
        thread = threading.Thread(target=lambda job=other, out=staying: out.extend(engine.run(name, job)))
        next(stream)
        thread.start()
        while 6 not in sizes:  # until they draw together
            next(stream)
        stream.close()
        thread.join(20)
        assert isinstance(staying[-1], tuple) and len(staying[-1][0][0].images) == 2
        assert sizes[-1] == 2 and len(sizes) < 40


def test_encoding_does_not_wait_for_a_drawing_to_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, name = _batches_of(engine, monkeypatch), engine.settings.checkpoint
    stream = engine.run(name, Columns(PICTURES[0], BOTH, (0, 1), 2000))
    next(stream)
    (h,) = list(engine.run(name, Encoding(PICTURES[0], BOTH[0])))[-1]  # type: ignore[misc]
    stream.close()
    assert len(h) == 32 and len(sizes) < 2000
