"""Runs the server: ``python -m tests.messages_server --port 0 --delay 1``.

Prints its base URL on a line of its own once it listens; stops at SIGTERM, SIGINT, or when its
standard input is closed (so that it never outlives the program that started it).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import TYPE_CHECKING

import uvicorn

from tests.messages_server.answers import USUAL, Pace
from tests.messages_server.app import MessagesServer
from tests.messages_server.listening import listen

if TYPE_CHECKING:
    import socket


async def _serve(listener: socket.socket, messages: MessagesServer) -> None:
    config = uvicorn.Config(messages.app(), log_level="warning", lifespan="off", access_log=False)
    server = uvicorn.Server(config)

    def parent_gone() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            loop.remove_reader(sys.stdin.fileno())
            server.should_exit = True

    loop = asyncio.get_running_loop()
    if not sys.stdin.isatty():
        loop.add_reader(sys.stdin.fileno(), parent_gone)
    await server.serve(sockets=[listener])


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.messages_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1 (0: any free)")
    parser.add_argument("--delay", type=float, default=1.0, help="scale of the delays (0: none)")
    parser.add_argument("--first-token", type=float, metavar="S", help="fixed, not by chance")
    parser.add_argument("--tokens-per-s", type=float, default=USUAL.tokens_per_s)
    parser.add_argument("--answer-tokens", type=int, metavar="N", help="fixed, not by chance")
    parser.add_argument("--stamped", action="store_true", help="tokens are times: see Pace")
    options = parser.parse_args()
    first_s, tokens = options.first_token, options.answer_tokens
    pace = Pace(
        first_token_s=USUAL.first_token_s if first_s is None else (first_s, first_s),
        tokens_per_s=options.tokens_per_s,
        answer_tokens=USUAL.answer_tokens if tokens is None else (tokens, tokens),
        stamped=options.stamped,
    )
    listener = listen(options.port)
    host, port = listener.getsockname()
    sys.stdout.write(f"http://{host}:{port}\n")
    sys.stdout.flush()
    asyncio.run(_serve(listener, MessagesServer(delay=options.delay, pace=pace)))


if __name__ == "__main__":
    main()
