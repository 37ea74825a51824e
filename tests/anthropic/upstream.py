"""The local Messages API in a thread of its own, so that synchronous clients can be tested too."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.middleware.gzip import GZipMiddleware

from tests.messages_server.app import MessagesServer
from tests.messages_server.listening import listen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

_START_S = 20.0


class Upstream:
    """Where the API is, and what it was asked."""

    def __init__(self, base_url: str, server: MessagesServer) -> None:
        self.base_url = base_url
        self._server = server

    @property
    def calls(self) -> int:
        """How many requests have come in."""
        return len(self._server.seen)

    @property
    def last_headers(self) -> dict[str, str]:
        """The headers of the latest one."""
        return self._server.seen[-1].headers

    @property
    def last_body(self) -> dict[str, Any]:
        """Its body."""
        body: dict[str, Any] = json.loads(self._server.seen[-1].body)
        return body

    def open_gate(self) -> None:
        """Let gated scenes go on."""
        self._server.gate.set()

    @classmethod
    @contextlib.contextmanager
    def serving(cls, *, zipped: bool = False) -> Iterator[Upstream]:
        """Serve while the block runs."""
        messages = MessagesServer(delay=0)
        app: ASGIApp = messages.app()
        if zipped:
            app = GZipMiddleware(app, minimum_size=1)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", lifespan="off", access_log=False)
        )
        listener = listen()
        host, port = listener.getsockname()
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        try:
            yield cls(f"http://{host}:{port}", messages)
        finally:
            messages.gate.set()
            server.should_exit = True
            server.force_exit = True
            thread.join(_START_S)
            listener.close()
