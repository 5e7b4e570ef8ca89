"""Several users at once, without Gradio: seconds per drawing of the engine by lanes, beside the pipeline alone."""

import argparse
import threading
import time
from collections.abc import Callable

import torch
from PIL import Image
from server import ROOT

from rcdm.ui.drawing import Columns
from rcdm.ui.engine import Engine
from rcdm.ui.settings import Settings
from rcdm.ui.together import SharedCalls

SOURCES = ("simclr/backbone", "simclr/projector")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="sprites-32")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--drawings", type=int, default=3, help="of each user, 2 sources x 8 images")
    options = parser.parse_args()
    engine = Engine(Settings(checkpoint=options.checkpoint), device="cpu")
    picture = Image.open(ROOT / "rcdm" / "examples" / "heart.png")
    pipe, count = engine[options.checkpoint].pipe, options.users * options.drawings

    def alone() -> None:
        for seed in range(count):
            seeds = range(8 * seed, 8 * seed + 8)
            pipe([picture] * len(SOURCES), source=SOURCES, seeds=seeds, num_inference_steps=options.steps)

    def users() -> None:
        """New seeds in each run, so that nothing is remembered."""
        first = time.monotonic_ns() // 10**6 % 10**6

        def visit(user: int) -> None:
            for drawing in range(options.drawings):
                seed = first + 8 * (user * options.drawings + drawing)
                job = Columns(picture, SOURCES, tuple(range(seed, seed + 8)), options.steps)
                list(engine.run(options.checkpoint, job))

        threads = [threading.Thread(target=visit, args=(user,)) for user in range(options.users)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    users()  # once for what is only slow once
    print(f"{count} drawings of 2 sources x 8 images, {options.steps} steps, {torch.get_num_threads()} threads")
    print("\n| | seconds each | of computing | rate, of the pipeline's |\n|---|---|---|---|")
    bare = _row("pipeline, one after the other", alone, count)
    for lanes in sorted({1, torch.get_num_threads()}):
        engine._shared = SharedCalls(lanes)
        _row(f"engine, {options.users} users, {lanes} at once", users, count, bare)


def _row(name: str, work: Callable[[], None], count: int, bare: float | None = None) -> float:
    begun, computed = time.monotonic(), time.process_time()
    work()
    each, computed = (time.monotonic() - begun) / count, (time.process_time() - computed) / count
    print(f"| {name} | {each:.2f} | {computed:.2f} | {(bare or each) / each:.2f} |", flush=True)
    return each


if __name__ == "__main__":
    main()
