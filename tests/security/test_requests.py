"""Requests of strangers to a served page: other files, devices, the way past the queue, made-up addresses."""

import asyncio
import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import uvicorn
from PIL import Image
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from rcdm.data import images as im
from rcdm.ui import page, routes
from rcdm.ui.engine import Engine
from rcdm.ui.guard import client_of
from rcdm.ui.settings import Settings

SECRET = (201, 17, 96)  # the one colour of a picture that lies on the server
FILES = ("image", "file")


@pytest.fixture(scope="module")
def served(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[gr.Blocks, str, Engine]]:
    """A page, its address and its engine."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as probe:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        patch.delenv("FORWARDED_ALLOW_IPS", raising=False)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        engine = Engine(Settings(checkpoint=str(tiny_checkpoint), port=port, network_mib=10), device="cpu")
        blocks = page.launch(engine, prevent_thread_lock=True)
        try:
            yield blocks, f"http://127.0.0.1:{port}", engine
        finally:
            blocks.close()


def post(address: str, body: Any, timeout: float = 10) -> tuple[int, str]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_no_function_of_the_page_reads_another_file(served: tuple[gr.Blocks, str, Engine], tmp_path: Path) -> None:
    """Every function by its number, each photograph a path that was never uploaded, with and without Gradio's mark."""
    _, address, _ = served
    Image.new("RGB", (64, 64), SECRET).save(tmp_path / "secret.tif")
    with urllib.request.urlopen(f"{address}/config", timeout=10) as answer:
        config = json.load(answer)
    kinds = {part["id"]: part for part in config["components"]}
    asked = 0
    for path in (str(tmp_path / "secret.tif"), os.path.relpath(tmp_path / "secret.tif"), "/dev/zero", "/etc/hostname"):
        for mark in ({}, {"meta": {"_type": "other"}}, {"meta": {"_type": "gradio.FileData"}}):
            for function in config["dependencies"]:
                if not any(kinds[i]["type"] in FILES for i in function["inputs"]):
                    continue
                values = [
                    {"path": path, **mark} if kinds[i]["type"] in FILES else kinds[i]["props"].get("value")
                    for i in function["inputs"]
                ]
                body = {"fn_index": function["id"], "session_hash": "k", "data": values}
                status, text = post(f"{address}/gradio_api/run/predict", body)
                asked += 1
                assert "secret" not in text and "hostname" not in text and "Traceback" not in text
                assert status != 200 or not _drawn(json.loads(text)), (function["id"], mark)
    assert asked >= 24
    with urllib.request.urlopen(f"{address}/health", timeout=10) as answer:
        assert answer.read() == b"ok\n"


def _drawn(answer: dict[str, Any]) -> bool:
    """Whether an answer holds a picture."""
    return "data:image" in json.dumps(answer) or ".png" in json.dumps(answer)


def test_a_link_to_the_page_shows_its_own_title(served: tuple[gr.Blocks, str, Engine]) -> None:
    with urllib.request.urlopen(served[1], timeout=10) as answer:
        html, length = answer.read(), int(answer.headers["content-length"])
    assert len(html) == length
    assert html.count(b'content="Gradio"') == 0
    assert html.count(f'content="{routes.TITLE}"'.encode()) >= 2


def test_what_draws_is_reached_through_the_queue_alone(served: tuple[gr.Blocks, str, Engine]) -> None:
    _, address, _ = served
    with urllib.request.urlopen(f"{address}/config", timeout=10) as answer:
        functions = json.load(answer)["dependencies"]
    queued = [f for f in functions if f["queue"] and f["backend_fn"]]
    assert len(queued) > 8
    for function in queued:
        status, _ = post(
            f"{address}/gradio_api/run/predict", {"fn_index": function["id"], "session_hash": "k", "data": []}
        )
        assert status in (404, 422), function["id"]


@pytest.mark.usefixtures("served")
def test_an_address_that_a_client_makes_up_is_not_believed() -> None:
    """Gradio's server is uvicorn: what it makes of a header is what `client_of` sees."""
    config = uvicorn.Config(app=None)
    assert config.forwarded_allow_ips == "", "the server believes somebody"
    assert os.environ["FORWARDED_ALLOW_IPS"] == ""
    assert client_of(None) == ""
    made_up = gr.Request(
        client=type("Client", (), {"host": "10.1.2.3"})(), headers={"x-forwarded-for": "1.1.1.1, 2.2.2.2"}
    )
    assert client_of(made_up) == "10.1.2.3"


@pytest.mark.parametrize(("trusted", "socket_address", "expected"), [
    ("", "10.0.0.9", "10.0.0.9"), ("10.0.0.1", "10.0.0.9", "10.0.0.9"), ("10.0.0.9", "10.0.0.9", "2.2.2.2"),
    ("10.0.0.9,2.2.2.2", "10.0.0.9", "1.1.1.1"),
])  # fmt: skip
def test_a_proxy_that_is_trusted_says_who_asks(trusted: str, socket_address: str, expected: str) -> None:
    """The last address that no trusted proxy vouches for: those before it can be made up."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])

    scope = {
        "type": "http", "client": (socket_address, 5), "scheme": "http",
        "headers": [(b"x-forwarded-for", b"1.1.1.1, 2.2.2.2")],
    }  # fmt: skip
    asyncio.run(ProxyHeadersMiddleware(app, trusted_hosts=trusted)(scope, None, None))
    assert seen == [expected]


def upload(address: str, files: list[bytes]) -> int:
    """The status of an upload of these files."""
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    body = b"".join(part + file + b"\r\n" for file in files) + b"--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        request = urllib.request.Request(f"{address}/gradio_api/upload", body, headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:  # the server has hung up
        return 413


def test_an_upload_has_an_end(served: tuple[gr.Blocks, str, Engine]) -> None:
    _, address, _ = served
    assert upload(address, [b"one"]) == 200
    assert upload(address, [b"x"] * routes.MOST_FILES) == 200
    assert upload(address, [b"x"] * (routes.MOST_FILES + 1)) == 400
    assert upload(address, [b"x" * (im.MAX_BYTES + 1)]) == 413
    assert upload(address, [b"x" * (im.MAX_BYTES // 2)] * 3) == 413
    assert upload(address, [b"one"]) == 200


def test_a_client_sends_so_much_in_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(routes.time, "monotonic", lambda: clock[0])
    counter = routes.Uploads(None)
    part = routes.IN_A_MINUTE * im.MAX_BYTES // 4
    assert [counter._of_last_minute("a", part) for _ in range(3)] == [part, 2 * part, 3 * part]
    assert counter._of_last_minute("b", part) == part
    clock[0] += 61
    assert counter._of_last_minute("a", 1) == 1


def test_many_small_parts_are_not_remembered_one_by_one() -> None:
    counter = routes.Uploads(None)
    assert [counter._of_last_minute("a", 1) for _ in range(5000)][-1] == 5000
    assert len(counter._sent["a"]) < 10
