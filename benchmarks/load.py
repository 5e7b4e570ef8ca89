"""Many clients at once against one page: errors, latency, images per second against the bare pipeline, and memory.

Then the server is killed and started again: checkpoints intact, and how soon it serves.
"""

import argparse
import hashlib
import signal
import statistics
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from gradio_client import Client, handle_file
from server import ROOT, Server

EXAMPLES = [ROOT / "rcdm" / "examples" / name for name in ("heart.png", "arrow.png", "caps.jpg", "plane.jpg")]
STEPS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="sprites-32")
    parser.add_argument("--sources", nargs="+", default=["simclr/backbone", "simclr/projector"])
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--queue", type=int, default=32, help="places to wait; fewer than clients: some are refused")
    parser.add_argument("--images", type=int, default=8, help="per source and drawing")
    options = parser.parse_args()
    folder = ROOT / "checkpoints" / options.checkpoint
    before = digest(folder)
    server = Server("--checkpoint", options.checkpoint, "--queue", str(options.queue))
    server.wait()
    warm = Client(server.url, verbose=False)
    for i, photo in enumerate(EXAMPLES):
        warm.predict(handle_file(str(photo)), options.sources, options.images, STEPS, 10**6 + i, api_name="/draw")
    memory = server.memory()
    waits, errors, spent = load(server, options)
    after = server.memory()
    for i in range(5):
        warm.predict(
            handle_file(str(EXAMPLES[0])), options.sources, options.images, STEPS, 2 * 10**6 + i, api_name="/draw"
        )
    server.stop(signal.SIGKILL)
    again = Server("--checkpoint", options.checkpoint)
    back = again.wait()
    Client(again.url, verbose=False).predict(handle_file(str(EXAMPLES[0])), api_name="/draw")
    again.stop()
    each = options.images * len(options.sources)
    report(waits, errors, each * len(waits) / spent, bare(options, each), (memory, after), back)
    assert digest(folder) == before, "the checkpoint has changed"


def load(server: Server, options: argparse.Namespace) -> tuple[list[float], Counter[str], float]:
    """Seconds of every drawing that came, what went wrong how often, and how long it took altogether."""
    waits: list[float] = []
    errors: Counter[str] = Counter()
    begun = time.monotonic()
    end = begun + options.seconds

    def visit(number: int) -> None:
        client, seed = Client(server.url, verbose=False), number * 10_000
        photo = handle_file(str(EXAMPLES[number % len(EXAMPLES)]))
        while time.monotonic() < end:
            seed, start = seed + 100, time.monotonic()
            try:
                client.predict(photo, options.sources, options.images, STEPS, seed, api_name="/draw")
                waits.append(time.monotonic() - start)
            except Exception as error:
                errors[str(error)[:100]] += 1
                time.sleep(1)

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits, errors, time.monotonic() - begun


def bare(options: argparse.Namespace, each: int) -> float:
    """Images per second of the pipeline alone, same batches, same steps."""
    from PIL import Image

    import rcdm

    pipe = rcdm.load(options.checkpoint)
    pictures = [Image.open(EXAMPLES[0])] * len(options.sources)
    seconds = []
    for _ in range(6):
        begun = time.monotonic()
        pipe(pictures, source=options.sources, seeds=range(options.images), num_inference_steps=STEPS)
        seconds.append(time.monotonic() - begun)
    return each / statistics.median(seconds[1:])


def report(
    waits: list[float], errors: Counter[str], rate: float, bare_rate: float, memory: tuple[float, float], back: float
) -> None:
    middle, slow = np.quantile(waits, [0.5, 0.95])
    print(
        "| drawings | median | 95 % | images/s | bare pipeline | share | MiB before | after | serving after kill -9 |"
    )
    print("|---" * 9 + "|")
    print(
        f"| {len(waits)} | {middle:.1f} s | {slow:.1f} s | {rate:.1f} | {bare_rate:.1f} | {rate / bare_rate:.2f} "
        f"| {memory[0]:.0f} | {memory[1]:.0f} | {back:.1f} s |"
    )
    for words, count in errors.items():
        print(f"\n{count} times: {words}")


def digest(folder: Path) -> str:
    """Of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


if __name__ == "__main__":
    main()
