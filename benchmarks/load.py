"""Many clients at once against one page: errors, latency, images per second against the bare pipeline, and memory.

Then the server is killed and started again: checkpoints intact, and how soon it serves. With `--requests N` only memory
is looked at, over N cheap requests of one client.
"""

import argparse
import hashlib
import json
import os
import signal
import statistics
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from gradio_client import Client, handle_file
from server import ROOT, Server

EXAMPLES = [ROOT / "rcdm" / "examples" / name for name in ("heart.png", "arrow.png", "cat.jpg", "plane.jpg")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="sprites-32")
    parser.add_argument("--sources", nargs="+", default=["simclr/backbone", "simclr/projector"])
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--queue", type=int, default=32, help="places to wait; fewer than clients: some are refused")
    parser.add_argument("--images", type=int, default=8, help="per source and drawing")
    parser.add_argument("--steps", type=int, help="denoising steps; by default the checkpoint's own number")
    parser.add_argument("--requests", type=int, default=0, help="only memory, over so many requests of one client")
    options = parser.parse_args()
    if options.requests:
        return memory_curve(options)
    folder = ROOT / "checkpoints" / options.checkpoint
    if options.steps is None:
        options.steps = json.loads((folder / "model_index.json").read_text())["default_steps"]
    before = digest(folder)
    server = Server("--checkpoint", options.checkpoint, "--queue", str(options.queue), "--jobs", "0")
    server.wait(seconds=300)
    warm = visitor(server)
    for i, photo in enumerate(EXAMPLES):
        draw(warm, photo, options, 10**6 + i)
    memory, work = server.memory(), server.work()
    clients = time.process_time()
    waits, errors, spent = load(server, options)
    clients = time.process_time() - clients
    after, work = server.memory(), server.work() - work
    for i in range(5):
        draw(warm, EXAMPLES[0], options, 2 * 10**6 + i)
    server.stop(signal.SIGKILL)
    again = Server("--checkpoint", options.checkpoint)
    back = again.wait()
    visitor(again).predict(handle_file(str(EXAMPLES[0])), api_name="/draw")
    again.stop()
    each = options.images * len(options.sources)
    rates = each * len(waits) / spent, each * len(waits) / work
    report(waits, errors, rates, bare(options, each), (memory, after), back)
    print(
        f"\nOf {spent:.0f} s on {os.cpu_count()} cores the server computed {work:.0f} s, the clients {clients:.0f} s."
    )
    assert digest(folder) == before, "the checkpoint has changed"


def visitor(server: Server) -> Client:
    """A client that does not read the certificates of all authorities (50 ms) for each image that it fetches."""
    return Client(server.url, verbose=False, ssl_verify=False)


def draw(client: Client, photo: Path, options: argparse.Namespace, seed: int) -> None:
    """One drawing, with its images and numbers."""
    client.predict(handle_file(str(photo)), options.sources, options.images, options.steps, seed, api_name="/draw")


def load(server: Server, options: argparse.Namespace) -> tuple[list[float], Counter[str], float]:
    """Seconds of every drawing that came, what went wrong how often, and how long it took altogether."""
    waits: list[float] = []
    errors: Counter[str] = Counter()
    begun = time.monotonic()
    end = begun + options.seconds

    def visit(number: int) -> None:
        client, seed = visitor(server), number * 10_000
        photo = EXAMPLES[number % len(EXAMPLES)]
        while time.monotonic() < end:
            seed, start = seed + 100, time.monotonic()
            try:
                draw(client, photo, options, seed)
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


def bare(options: argparse.Namespace, each: int) -> dict[int, tuple[float, float]]:
    """Requests drawn at once, 1 or 4 -> images per second of the pipeline alone, and per second that it computes."""
    from PIL import Image

    import rcdm

    pipe = rcdm.load(options.checkpoint)
    picture, found = Image.open(EXAMPLES[0]), {}
    for requests in (1, 4):
        seconds, computed = [], []
        for _ in range(4):
            begun, work = time.monotonic(), time.process_time()
            pictures, sources = [picture] * len(options.sources) * requests, options.sources * requests
            pipe(pictures, source=sources, seeds=range(options.images), num_inference_steps=options.steps)
            seconds.append(time.monotonic() - begun)
            computed.append(time.process_time() - work)
        images = each * requests
        found[requests] = (images / statistics.median(seconds[1:]), images / statistics.median(computed[1:]))
    return found


def report(
    waits: list[float],
    errors: Counter[str],
    rates: tuple[float, float],
    bare: dict[int, tuple[float, float]],
    memory: tuple[float, float],
    back: float,
) -> None:
    """Rates of the page beside those of the pipeline: by the clock, and by the seconds that each has computed.

    The clock counts the clients too, and whatever else this machine does.
    """
    middle, slow = np.quantile(waits, [0.5, 0.95])
    print(f"{len(waits)} drawings, median wait {middle:.1f} s, 95 % below {slow:.1f} s.\n")
    print("| images per second | page | pipeline, a request at a time | share | four requests at once | share |")
    print("|---" * 6 + "|")
    for i, name in enumerate(("by the clock", "of computing")):
        page, one, four = rates[i], bare[1][i], bare[4][i]
        print(f"| {name} | {page:.1f} | {one:.1f} | {page / one:.2f} | {four:.1f} | {page / four:.2f} |")
    print(f"\n{memory[0]:.0f} MiB before, {memory[1]:.0f} after; serving {back:.1f} s after kill -9.")
    for words, count in errors.items():
        print(f"\n{count} times: {words}")


def memory_curve(options: argparse.Namespace) -> None:
    """Memory of the page after every 250 requests, encodings and drawings of one step by turns, no two the same."""
    server = Server("--checkpoint", options.checkpoint, "--result-mib", "1")  # soon full
    server.wait(seconds=300)
    client, source = visitor(server), options.sources[0]
    print("| requests | MiB |\n|---|---|")
    try:
        for i in range(options.requests + 1):
            if i % 250 == 0:
                print(f"| {i} | {server.memory():.0f} |", flush=True)
            photo = handle_file(str(EXAMPLES[i // 2 % len(EXAMPLES)]))
            if i % 2:
                client.predict(photo, source, api_name="/encode")
            else:
                client.predict(photo, [source], 1, 1, i, api_name="/draw")
    finally:
        server.stop(signal.SIGTERM)


def digest(folder: Path) -> str:
    """Of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


if __name__ == "__main__":
    main()
