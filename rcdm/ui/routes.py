"""What the server answers beside Gradio's pages: finished drawings as files, a health check, and its headers."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from cachetools import LRUCache
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from rcdm.data import images as im
from rcdm.ui.export import KINDS, Result
from rcdm.ui.waiting import Listening, Sessions

TITLE = "RCDM: what a self-supervised representation keeps"
ABOUT = "Drop in a photograph and see what backbone and projector keep of it."

POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'"
"""Browsers load nothing from elsewhere, whatever is put on the page."""

HEADERS = ((b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"),
           (b"referrer-policy", b"no-referrer"))  # fmt: skip


class Headers:
    """ASGI middleware that adds HEADERS to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


class Preview:
    """ASGI middleware for what a link to the page shows elsewhere: Gradio's front page calls every page Gradio."""

    def __init__(self, app: Any, title: str, about: str) -> None:
        self.app = app
        self._words = (
            (b'content="Gradio"', f'content="{title}"'.encode()),
            (b'content="Click to try out the app!"', f'content="{about}"'.encode()),
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        start: dict[str, Any] | None = None
        body = b""

        async def whole(message: Any) -> None:
            """Hold an HTML page back until it is there, and pass on all else."""
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_html(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    await self._answer(send, start, body)

        await self.app(scope, receive, whole)

    async def _answer(self, send: Any, start: dict[str, Any], body: bytes) -> None:
        for theirs, ours in self._words:
            body = body.replace(theirs, ours)
        headers = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
        await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})


def _is_html(start: Any) -> bool:
    """Whether an answer that begins is a page, not compressed."""
    headers = dict(start.get("headers", []))
    return headers.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in headers


MOST_FILES = 4  # in one upload: the page sends one
AROUND = 2**16  # bytes that multipart puts around a file
IN_A_MINUTE = 8  # times the largest upload: what one client may send

_FILE = re.compile(rb"(?i)content-disposition:[^\r\n]*filename")
_LONGEST_HEADER = 256


class Uploads:
    """ASGI middleware that ends an upload of too many files or bytes, and those of a client who sends too many.

    `most`: bytes of a file.
    """

    def __init__(self, app: Any, most: int = im.MAX_BYTES) -> None:
        self.app, self._most = app, most
        self._sent: LRUCache[str, deque[tuple[float, int]]] = LRUCache(10_000)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/upload"):
            receive = self._counted(receive, str((scope.get("client") or ("",))[0]))
        await self.app(scope, receive, send)

    def _counted(self, receive: Any, client: str) -> Any:
        """`receive`, but it raises what Gradio answers with a sentence where there is too much."""
        total, files, tail = 0, 0, b""

        async def counted() -> Any:
            nonlocal total, files, tail
            message = await receive()
            body = message.get("body", b"")
            total += len(body)
            files += len(_FILE.findall(tail + body)) - len(_FILE.findall(tail))  # a header may lie across two parts
            tail = (tail + body)[-_LONGEST_HEADER:]
            lately = self._of_last_minute(client, len(body))
            if total > self._most + AROUND or lately > IN_A_MINUTE * self._most:
                raise MultiPartException("This is more than the maximum allowed size: send less, or wait a minute.")
            if files > MOST_FILES:
                raise MultiPartException(f"Send at most {MOST_FILES} files at once.")
            return message

        return counted

    def _of_last_minute(self, client: str, more: int) -> int:
        """Bytes that a client has sent, with these."""
        now = time.monotonic()
        sent = self._sent.setdefault(client, deque())
        if sent and now - sent[-1][0] < 1:  # one entry a second, however small the parts are that come
            now, more = sent[-1][0], sent.pop()[1] + more
        sent.append((now, more))
        while now - sent[0][0] > 60:
            sent.popleft()
        return sum(size for _, size in sent)


def app_arguments(finished: Callable[[str], Any], sessions: Sessions, most: int) -> dict[str, Any]:
    """Arguments of the FastAPI application that Gradio makes; `finished(key)` gives a Result, or
    nothing; `most`: bytes of the largest file that is taken."""

    def file(request: Request) -> Response:
        result = finished(request.path_params["key"])
        make, kind = KINDS.get(request.path_params["ending"], (None, ""))
        if not isinstance(result, Result) or make is None:
            return PlainTextResponse("This drawing is no longer kept: draw it again.", status_code=404)
        name = f"rcdm-{request.path_params['key'][:8]}.{request.path_params['ending']}"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "private, no-store"}
        return Response(make(result), media_type=kind, headers=headers)

    def health(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    routes = [Route("/drawings/{key}.{ending}", file), Route("/health", health)]
    ours = [Middleware(Preview, title=TITLE, about=ABOUT), Middleware(Headers), Middleware(Uploads, most=most)]
    return {"routes": routes, "middleware": [*ours, Middleware(Listening, sessions=sessions)]}
