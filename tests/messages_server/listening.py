"""The socket that the server listens on."""

from __future__ import annotations

import socket


def listen(port: int = 0) -> socket.socket:
    """Listen on 127.0.0.1 (port 0: any free one), for connections that send at once.

    asyncio sees to that only for sockets whose protocol is named. Else the end of each answer would
    wait for the client's delayed acknowledgement: 40 ms.
    """
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
