"""Strangers for a while: 50 clients that draw, vanish, never listen and send damaged files, through a proxy's header.

    python benchmarks/soak.py --minutes 20

Prints the server's memory of each minute, what went wrong how often, and images per second beside the bare pipeline.
Only a full queue, and a client's own limit, may refuse a drawing.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from server import ROOT, Server

sys.path.insert(0, str(ROOT / "tests" / "security"))
from fuzzer import FORMATS, damaged, picture

PHOTO = (ROOT / "rcdm" / "examples" / "heart.png").read_bytes()
BUSY = "busy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="sprites-32")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--images", type=int, default=4, help="of a drawing")
    options = parser.parse_args()
    server = Server("--checkpoint", options.checkpoint, "--queue", "16", "--trusted-proxies", "127.0.0.1")
    server.wait(seconds=300)
    end, counts, lock = time.monotonic() + 60 * options.minutes, Counter[str](), threading.Lock()

    def visit(number: int) -> None:
        stranger, rng = Stranger(server.url, number, options), random.Random(number)
        while time.monotonic() < end:
            try:
                what = stranger.act(rng)
            except Exception as error:
                what = f"error: {type(error).__name__} {str(error)[:200]}"
            with lock:
                counts[what] += 1
            time.sleep(rng.uniform(0, 1 if what != BUSY else 5))

    threads = [threading.Thread(target=visit, args=(i,), daemon=True) for i in range(options.clients)]
    begun, work = time.monotonic(), server.work()
    for thread in threads:
        thread.start()
    print("| minute | MiB | drawn |\n|---|---|---|")
    while time.monotonic() < end:
        print(f"| {(time.monotonic() - begun) / 60:.0f} | {server.memory():.0f} | {counts['drawn']} |", flush=True)
        time.sleep(min(60, max(0, end - time.monotonic())))
    for thread in threads:
        thread.join(60)
    time.sleep(15)  # what nobody waits for ends
    idle = server.work()
    time.sleep(5)
    print(f"| end | {server.memory():.0f} | {counts['drawn']} |\n")
    print(f"afterwards: {server.work() - idle:.1f} s of work in 5 s")
    for what, count in counts.most_common():
        print(f"{count:6d} {what}")
    spent, work = time.monotonic() - begun, server.work() - work
    images = counts["drawn"] * options.images
    print(
        f"{images / spent:.1f} images per second by the clock, {images / work:.1f} of computing; bare: {bare(options)}"
    )
    print("served to the end" if server.answers() else "NOT ANSWERING")
    server.stop(signal.SIGTERM)


class Stranger:
    """One client with an address of its own."""

    def __init__(self, url: str, number: int, options: argparse.Namespace) -> None:
        headers = {"X-Forwarded-For": f"10.0.{number // 250}.{number % 250 + 1}"}
        self.client = httpx.Client(base_url=url, headers=headers, timeout=120)
        config = self.client.get("/config").json()
        self.ids = {f["api_name"]: f["id"] for f in config["dependencies"] if f["api_name"]}
        self.number, self.options, self.calls = number, options, 0

    def act(self, rng: random.Random) -> str:
        """Something that people, or others, do; what came of it."""
        what = rng.choices(("draw", "vanish", "unheard", "damaged"), (70, 12, 6, 12))[0]
        if what == "damaged":
            kind = rng.choice(list(FORMATS))
            return self._encode(self._upload(damaged(picture(kind, rng), rng), FORMATS[kind]))
        session = self._join("draw", self._upload(PHOTO, "png"), 1, 40 if what != "draw" else 8)
        if session is None:
            return BUSY
        if what == "unheard":
            return "never listened"
        if what == "vanish":
            self._listen(session, rng.uniform(0, 2))
            return "vanished"
        answer = self._listen(session, 120)
        return "drawn" if answer.get("success") else f"refused: {(answer.get('output') or {}).get('error')}"

    def _encode(self, path: str | None) -> str:
        session = None if path is None else self._join("encode", path)
        if session is None:
            return BUSY
        answer = self._listen(session, 60)
        said = (answer.get("output") or {}).get("error")
        return (
            "damaged file read" if answer.get("success") else "damaged file refused" if said else "error: no sentence"
        )

    def _upload(self, data: bytes, ending: str) -> str | None:
        answer = self.client.post("/gradio_api/upload", files={"files": (f"photo.{ending}", data)})
        return answer.json()[0] if answer.status_code == 200 else None

    def _join(self, name: str, path: str | None, *more: int) -> str | None:
        """The session of a call, or None where there is no room."""
        self.calls += 1
        session, source = f"s{self.number}-{self.calls}", f"simclr/{'backbone' if name == 'draw' else 'projector'}"
        image, where = {"path": path, "meta": {"_type": "gradio.FileData"}}, self.options.checkpoint
        drawn: list[Any] = [image, [source], self.options.images, more[-1] if more else 1, self.calls * 100, where]
        body = {"fn_index": self.ids[name], "session_hash": session}
        answer = self.client.post(
            "/gradio_api/queue/join", json={**body, "data": drawn if name == "draw" else [image, source, where]}
        )
        if answer.status_code in (400, 503):
            return None
        answer.raise_for_status()
        return session

    def _listen(self, session: str, seconds: float) -> dict[str, Any]:
        """The last message of a session, or {} where the time is over and the connection is closed."""
        end = time.monotonic() + seconds
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
            for line in lines.iter_lines():
                if line.startswith("data: ") and (message := json.loads(line[6:]))["msg"] == "process_completed":
                    return message
                if time.monotonic() > end:
                    break
        return {}


def bare(options: argparse.Namespace) -> str:
    """Images per second of the pipeline alone, with the steps of a drawing."""
    from PIL import Image

    import rcdm

    pipe, photo = rcdm.load(options.checkpoint), Image.open(Path(ROOT / "rcdm" / "examples" / "heart.png"))
    seconds = []
    for _ in range(5):
        begun = time.monotonic()
        pipe(photo, source="simclr/backbone", seeds=range(options.images), num_inference_steps=8)
        seconds.append(time.monotonic() - begun)
    return f"{options.images / sorted(seconds)[2]:.1f}"


if __name__ == "__main__":
    main()
