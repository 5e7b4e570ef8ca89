"""Drawings that nobody waits for, and clients who ask for many at once."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from test_requests import post, served

from rcdm.ui import waiting
from rcdm.ui.controls import EXAMPLES
from rcdm.ui.waiting import Listening, Sessions, check_waited_for

assert served  # the fixture


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    return now


def test_a_session_is_left_some_seconds_after_the_last_listener(clock: list[float]) -> None:
    sessions = Sessions()
    assert not sessions.left("a") and not sessions.left(None), "of a session that never asked nothing is known"
    sessions.joined("a", "event")
    clock[0] += waiting.LEFT_SECONDS - 1
    assert not sessions.left("a")
    clock[0] += 2
    assert sessions.left("a"), "nobody ever listened"
    with sessions.listening("a"):
        assert not sessions.left("a")
        with sessions.listening("event"):
            pass
        clock[0] += 1000
        assert not sessions.left("a"), "one of two still listens"
    assert not sessions.left("a")
    clock[0] += waiting.LEFT_SECONDS + 1
    assert sessions.left("a")
    with pytest.raises(ValueError, match="Nobody waits"):
        check_waited_for(sessions, SimpleNamespace(session_hash="a"))  # type: ignore[arg-type]
    check_waited_for(sessions, None)


def test_what_was_left_long_ago_is_forgotten(clock: list[float]) -> None:
    sessions = Sessions()
    sessions.joined("old", "1")
    clock[0] += waiting.FORGOTTEN_SECONDS
    sessions.joined("new", "2")
    clock[0] += 1
    assert sessions.forget() == ["old"]
    assert list(sessions._sessions) == ["new"] and list(sessions._of_event) == ["2"]


def test_listeners_of_unknown_sessions_are_not_remembered() -> None:
    sessions = Sessions()
    for number in range(100):
        with sessions.listening(f"made up {number}"):
            pass
    assert not sessions._sessions


@pytest.mark.parametrize(("path", "query", "name"), [
    ("/gradio_api/queue/data", b"session_hash=abc&x=1", "abc"), ("/gradio_api/queue/data", b"", ""),
    ("/gradio_api/call/draw/e1", b"", "e1"), ("/gradio_api/call/v2/draw/e1/", b"", "e1"), ("/config", b"", ""),
    ("/gradio_api/call/draw", b"", ""),
])  # fmt: skip
def test_who_listens_is_told_by_the_address(path: str, query: bytes, name: str) -> None:
    assert waiting._listened_to({"path": path, "query_string": query}) == name


def test_a_listener_counts_while_the_answer_lasts() -> None:
    sessions, inside = Sessions(), []
    sessions.joined("abc", "e")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        inside.append(sessions._sessions["abc"].listeners)

    scope = {"type": "http", "method": "GET", "path": "/queue/data", "query_string": b"session_hash=abc"}
    asyncio.run(Listening(app, sessions)(scope, None, None))
    assert inside == [1] and sessions._sessions["abc"].listeners == 0


def draw_slowly(served: Any) -> tuple[str, list[float], Any, Any]:
    """The address, when the denoiser was called, and what makes a body that asks for 40 slow steps, with the hook."""
    blocks, address, engine = served
    pipe, calls = engine[engine.settings.checkpoint].pipe, []

    def slow(*_: Any) -> None:
        calls.append(time.monotonic())
        time.sleep(0.1)

    hook = pipe.unet.register_forward_pre_hook(slow)
    draw = next(f for f in blocks.config["dependencies"] if f["api_name"] == "draw")
    photo = EXAMPLES["heart.png"].read_bytes()
    path = httpx.post(f"{address}/gradio_api/upload", files={"files": ("heart.png", photo)}).json()[0]
    image = {"path": path, "meta": {"_type": "gradio.FileData"}}

    def body(session: str, seed: int) -> dict[str, Any]:
        data = [image, [pipe.sources[0]], 1, 40, seed, engine.settings.checkpoint]
        return {"fn_index": draw["id"], "session_hash": session, "data": data}

    return address, calls, body, hook


def test_what_nobody_listens_to_ends(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sessions.left, "__defaults__", (0.5,))
    address, calls, body, hook = draw_slowly(served)
    try:
        assert post(f"{address}/gradio_api/queue/join", body("unheard", 5))[0] == 200
        end = time.monotonic() + 20
        while not calls and time.monotonic() < end:
            time.sleep(0.05)
        assert calls, "it never began"
        while time.monotonic() - calls[-1] < 1 and time.monotonic() < end:
            time.sleep(0.1)
        assert 1 <= len(calls) < 30
    finally:
        hook.remove()


def test_a_client_has_a_few_drawings_under_way(served: Any) -> None:
    address, _, body, hook = draw_slowly(served)
    try:
        answers = [post(f"{address}/gradio_api/queue/join", body(f"greedy{i}", 100 + i)) for i in range(4)]
        assert [status for status, _ in answers] == [200, 200, 400, 400]
        assert "You have 2 drawings under way" in answers[2][1]
        status, text = post(f"{address}/gradio_api/queue/join", {**body("odd", 1), "fn_index": 10**6})
        assert status == 400 and "no function" in text
    finally:
        hook.remove()
