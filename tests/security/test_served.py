"""Strangers and a served page: requests made from its own list of functions, and files from a fuzzer, by the hundred.

Whatever comes: an answer within SECONDS, no traceback in the log, the next request is served, nothing is read outside
the uploads, and the memory comes back.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fuzzer import FORMATS, damaged, flat_png, picture
from PIL import Image

REQUESTS, UPLOADS = 180, 200
SECONDS = 10
MEMORY_MIB = 100  # that may stay after the uploads
SERVED = Path(__file__).with_name("served.py")


@dataclass
class Page:
    """A served page as a stranger sees it, and its process."""

    address: str
    process: subprocess.Popen
    log: Path
    opened: Path
    secret: Path
    uploads: Path
    functions: list[dict] = field(default_factory=list)
    components: dict[int, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.address, timeout=SECONDS)
        config = self.client.get("/config").json()
        self.components = {part["id"]: part for part in config["components"]}
        self.functions = [f for f in config["dependencies"] if f["backend_fn"]]

    def memory(self) -> float:
        """MiB in use, after a garbage collection."""
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(1)
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def values(self, function: dict, photo: Any) -> list[Any]:
        """Harmless values for a function: those that the page shows, one image, one step."""
        values = []
        for i in function["inputs"]:
            part = self.components[i]
            small = part["type"] == "slider" and part["props"]["maximum"] >= 16
            value = photo if part["type"] == "image" else 1 if small else part["props"].get("value")
            values.append(value)
        return values

    def call(self, function: dict, values: Any, session: str) -> dict[str, Any]:
        """What comes of a call, through the queue where the function is behind it: the last message, or the refusal."""
        body = {"fn_index": function["id"], "session_hash": session, "data": values}
        if not function["queue"]:
            answer = self.client.post("/gradio_api/run/predict", json=body)
            return {"status": answer.status_code, "output": answer.json()}
        answer = self.client.post("/gradio_api/queue/join", json=body)
        if answer.status_code != 200:
            return {"status": answer.status_code, "output": answer.json()}
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
            for line in lines.iter_lines():
                if line.startswith("data: ") and (message := json.loads(line[6:]))["msg"] == "process_completed":
                    return {"status": 200, **message}
        raise AssertionError("the stream ended without an answer")

    def upload(self, data: bytes, name: str) -> str | None:
        """The path of an upload, or None where it is refused."""
        answer = self.client.post("/gradio_api/upload", files={"files": (name, data)})
        return answer.json()[0] if answer.status_code == 200 else None


@pytest.fixture(scope="module")
def page(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("served")
    secret, uploads = folder / "private" / ("0" * 64) / "secret.tif", folder / "uploads"
    secret.parent.mkdir(parents=True)
    uploads.mkdir()
    Image.new("RGB", (64, 64), "red").save(secret)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(uploads), "OMP_NUM_THREADS": "1", "no_proxy": "*"}
    log, opened = folder / "log.txt", folder / "opened.txt"
    command = [sys.executable, str(SERVED), str(tiny_checkpoint), str(port), str(opened)]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 300
        while b"ready" not in log.read_bytes():
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.2)
        yield Page(f"http://127.0.0.1:{port}", process, log, opened, secret, uploads)
    finally:
        process.kill()
        process.wait()


def deep(levels: int) -> list:
    tree: list = []
    for _ in range(levels):
        tree = [tree]
    return tree


def payloads(page: Page, photo: str) -> list[Any]:
    """Values that no control of the page would send."""
    pipe, link = page.uploads / ("f" * 64) / "pipe.png", page.uploads / ("f" * 64) / "link.png"
    pipe.parent.mkdir(exist_ok=True)
    if not pipe.exists():
        os.mkfifo(pipe)
        link.symlink_to(page.secret)
    paths = [
        str(page.secret), os.path.relpath(page.secret), "/dev/zero", "/dev/stdin", "/proc/self/environ", "/etc/passwd",
        str(pipe), str(link), str(pipe.parent), f"{page.uploads}/../private/{'0' * 64}/secret.tif", "file:///etc/passwd",
        "http://127.0.0.1:1/x.png", "http://169.254.169.254/latest/meta-data", "http://[::1]:22/", "~/.ssh/id_rsa", "",
    ]  # fmt: skip
    marks = ({}, {"meta": {"_type": "gradio.FileData"}}, {"meta": {"_type": "other"}}, {"url": "http://127.0.0.1:1/"})
    files = [{"path": path, **mark} for path in paths for mark in marks]
    base64 = [
        {"url": "data:image/png;base64,AAAA", "path": ""},
        {"path": photo, "is_stream": True, "orig_name": "../x"},
    ]
    odd = [None, True, -1, 0, 1.5, 10**30, "", "x" * 100_000, "../..", [], {}, [None], {"a": 1}, deep(50), deep(400)]
    return [
        *files,
        *base64,
        *odd,
        [photo] * 3,
        {"path": 17},
        {"path": ["a"]},
        {"path": None},
        {"path": {"path": "/etc/passwd"}},
    ]


def opened_elsewhere(page: Page, since: int) -> list[str]:
    """Files opened after the first `since` lines that are neither uploads nor part of the program."""
    roots = (
        str(page.uploads), sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), os.path.realpath(sys.prefix),
        "/usr/lib", "/usr/local/lib", "/usr/share", "/sys/", "/proc/meminfo", "/proc/cpuinfo", "/dev/null",
    )  # fmt: skip
    names = page.opened.read_text(errors="replace").splitlines()[since:]
    return [name for name in names if name.startswith("/") and not name.startswith(roots)]


def test_requests_of_every_kind(page: Page, tiny_checkpoint: Path) -> None:
    """Every function of the page, each of its values in turn replaced by a hostile one."""
    rng = random.Random(0)
    photo = page.upload(flat_png(40, 30), "photo.png")
    assert photo is not None
    given = {"path": photo, "meta": {"_type": "gradio.FileData"}}
    for function in page.functions:  # once as they are meant, so that all that is loaded once is loaded
        page.call(function, page.values(function, given), f"warm{function['id']}")
    since, hostile = len(page.opened.read_text().splitlines()), payloads(page, photo)
    cases = [(f, i) for f in page.functions for i in range(len(f["inputs"]) + 1)]
    slow, asked = [], 0
    for number in range(REQUESTS):
        function, place = cases[number % len(cases)] if number < len(cases) else rng.choice(cases)
        values = page.values(function, given)
        if place < len(values):
            values[place] = rng.choice(hostile)
        else:  # too few, none, or no list at all
            values = rng.choice([values[:-1], [], {}, None, "x", values * 2])
        begun = time.monotonic()
        answer = page.call(function, values, f"s{number}")
        asked += 1
        if time.monotonic() - begun > SECONDS:
            slow.append((function["id"], place))
        text = json.dumps(answer)
        said = (answer.get("output") or {}).get("error", "") if isinstance(answer.get("output"), dict) else ""
        assert said is not None, f"no sentence: function {function['id']} {function['api_name']}, {values}"[:600]
        assert "Traceback" not in text and "secret" not in said and len(said) < 1000
    assert asked == REQUESTS and not slow
    assert page.client.get("/health").text == "ok\n" and page.process.poll() is None
    log = page.log.read_text(errors="replace")
    assert "Traceback" not in log, log[log.index("Traceback") - 300 :][:3000]
    assert not [name for name in opened_elsewhere(page, since) if not name.startswith(str(tiny_checkpoint))]


def test_files_of_every_kind(page: Page) -> None:
    """UPLOADS files, looked at and encoded; the last are as large as is allowed, and larger."""
    encode = next(f for f in page.functions if f["api_name"] == "encode")
    for number in range(30):  # what is loaded once, and the room that ordinary pictures take
        look(page, encode, picture("JPEG", random.Random(number)), "jpg", f"first{number}")
    before, since, taken = page.memory(), len(page.opened.read_text().splitlines()), 0
    for number in range(UPLOADS):
        rng = random.Random(1000 + number)
        kind = rng.choice(list(FORMATS))
        taken += look(page, encode, damaged(picture(kind, rng), rng), FORMATS[kind], f"u{number}")
    assert UPLOADS // 5 < taken < UPLOADS
    assert look(page, encode, flat_png(7000, 7000), "png", "large")
    assert not look(page, encode, flat_png(7100, 7100), "png", "larger")
    assert not look(page, encode, flat_png(6000, 6000, "LA"), "png", "transparent")
    assert page.memory() - before < MEMORY_MIB
    assert "Traceback" not in page.log.read_text(errors="replace")
    assert page.client.get("/health").text == "ok\n" and not opened_elsewhere(page, since)


def look(page: Page, function: dict, data: bytes, ending: str, session: str) -> bool:
    """Upload a file and encode it: whether it was taken. A refusal is a sentence."""
    path = page.upload(data, f"photo.{ending}")
    if path is None:
        return False
    begun = time.monotonic()
    given = {"path": path, "meta": {"_type": "gradio.FileData"}}
    answer = page.call(function, page.values(function, given), session)
    assert time.monotonic() - begun < SECONDS
    if answer.get("success"):
        return True
    assert answer["output"]["error"], (session, answer)
    return False
