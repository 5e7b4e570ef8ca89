"""Who waits for what: a drawing that nobody waits for any more ends, and no client has more than a few under way."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from gradio.queueing import Event, Queue
from gradio.route_utils import get_fn

LEFT_SECONDS = 5  # a session to which nobody has listened for so long is left
FORGOTTEN_SECONDS = 600  # after which what lies ready for a session that was left is thrown away

Push = Callable[..., Awaitable[tuple[bool, Any, str]]]


@dataclass
class _Session:
    listeners: int = 0
    last: float = 0.0  # when it was joined, or left by the last listener


class Sessions:
    """The sessions that have asked for something, and how many connections listen to each."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}
        self._of_event: dict[str, str] = {}
        self._lock = threading.Lock()

    def joined(self, session: str, event: str) -> None:
        """A session has asked for something, which got the name `event`."""
        with self._lock:
            self._sessions.setdefault(session, _Session()).last = time.monotonic()
            self._of_event[event] = session

    @contextmanager
    def listening(self, name: str) -> Iterator[None]:
        """Somebody listens to a session, or to an event of one; to others nothing is remembered."""
        with self._lock:
            session = self._sessions.get(self._of_event.get(name, name))
            if session is not None:
                session.listeners += 1
        try:
            yield
        finally:
            if session is not None:
                with self._lock:
                    session.listeners -= 1
                    session.last = time.monotonic()

    def left(self, name: str | None, seconds: float = LEFT_SECONDS) -> bool:
        """Whether nobody has listened for so long to a session that asked for something."""
        with self._lock:
            session = self._sessions.get(name or "")
            return session is not None and not session.listeners and time.monotonic() - session.last > seconds

    def forget(self) -> list[str]:
        """Those that were left FORGOTTEN_SECONDS ago, now unknown here."""
        old = [name for name in list(self._sessions) if self.left(name, FORGOTTEN_SECONDS)]
        with self._lock:
            for name in old:
                del self._sessions[name]
            self._of_event = {event: name for event, name in self._of_event.items() if name in self._sessions}
        return old


class Listening:
    """ASGI middleware that tells Sessions who listens."""

    def __init__(self, app: Any, sessions: Sessions) -> None:
        self.app, self._sessions = app, sessions

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = _listened_to(scope) if scope["type"] == "http" and scope["method"] == "GET" else ""
        if not name:
            return await self.app(scope, receive, send)
        with self._sessions.listening(name):
            await self.app(scope, receive, send)


def _listened_to(scope: Any) -> str:
    """The session of `/queue/data?session_hash=…`, the event of `/call/NAME/EVENT`, or ''."""
    path = scope["path"]
    if path.endswith("/queue/data"):
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
    parts = path.rstrip("/").split("/")
    return parts[-1] if "call" in parts[-4:-2] else ""


def keep_fair(queue: Queue, sessions: Sessions, most: int, concurrency_id: str) -> None:
    """Let a client have at most `most` events of a kind in a queue, waiting or under way; 0 is any number.

    Waiting events of sessions that were left are taken out, so that nobody waits for them.
    """
    push: Push = queue.push

    async def push_if_few(body: Any, request: Any, username: str | None) -> tuple[bool, Any, str]:
        await _drop_left(queue, sessions)
        try:
            drawn = get_fn(queue.blocks, None, body).concurrency_id == concurrency_id
        except KeyError:
            return False, f"This page has no function {str(body.fn_index)[:20]}: load it again.", "error"
        client = request.client.host if request.client else ""
        under_way = [e for e in _events(queue) if e.concurrency_id == concurrency_id and _client_of(e) == client]
        if drawn and most and len(under_way) >= most:
            return False, f"You have {len(under_way)} drawings under way: wait for one of them, or stop it.", "error"
        success, event, state = await push(body=body, request=request, username=username)
        if success:
            sessions.joined(body.session_hash, event)
        return success, event, state

    queue.push = push_if_few


def _events(queue: Queue) -> list[Event]:
    """Waiting, and under way."""
    waiting = [event for line in queue.event_queue_per_concurrency_id.values() for event in line.queue]
    return waiting + [event for job in queue.active_jobs if job for event in job if event.alive]


def _client_of(event: Event) -> str:
    return event.request.client.host if event.request.client else ""


async def _drop_left(queue: Queue, sessions: Sessions) -> None:
    """Take out what waits for nobody, and what lies ready for those who will not come back."""
    for event in _events(queue):
        if sessions.left(event.session_hash):
            await queue.clean_events(session_hash=event.session_hash)
    for name in sessions.forget():
        queue.pending_messages_per_session.pop(name, None)
        queue.pending_event_ids_session.pop(name, None)


def check_waited_for(sessions: Sessions, request: gr.Request | None) -> None:
    """Raises ValueError where whoever asked does not listen any more."""
    if request is not None and sessions.left(request.session_hash):
        raise ValueError("Nobody waits for this any more: it was stopped.")
