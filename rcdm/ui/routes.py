"""What the server answers beside Gradio's pages: finished drawings as files, a health check, and its headers."""

from __future__ import annotations

from typing import Any

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from rcdm.ui.export import KINDS, Result
from rcdm.ui.store import Store

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


def app_arguments(results: Store) -> dict[str, Any]:
    """Arguments of the FastAPI application that Gradio makes."""

    def file(request: Request) -> Response:
        result = results.get(request.path_params["key"])
        make, kind = KINDS.get(request.path_params["ending"], (None, ""))
        if not isinstance(result, Result) or make is None:
            return PlainTextResponse("This drawing is no longer kept: draw it again.", status_code=404)
        name = f"rcdm-{request.path_params['key'][:8]}.{request.path_params['ending']}"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "private, no-store"}
        return Response(make(result), media_type=kind, headers=headers)

    def health(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    routes = [Route("/drawings/{key}.{ending}", file), Route("/health", health)]
    return {"routes": routes, "middleware": [Middleware(Headers)]}
