"""Anthropic's Message Batches as a test dictates them: a part of ``scripted_upstream``."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

TOKENS_IN = 11
TOKENS_OUT = 7


class SentBatch:
    """A batch that came. It is in progress until ``end``."""

    def __init__(self, number: int, headers: dict[str, str], body: dict[str, Any]) -> None:
        self.batch_id = f"msgbatch_{number}"
        self.headers = headers
        self.requests: list[dict[str, Any]] = body["requests"]
        self.created = datetime.now(UTC)
        self.lines: list[dict[str, Any]] | None = None
        self.polls = 0

    @property
    def prompts(self) -> list[str]:
        """The texts of the first messages."""
        return [each["params"]["messages"][0]["content"] for each in self.requests]

    def end(self, *lines: dict[str, Any]) -> None:
        """End it with these results."""
        self.lines = list(lines)

    def answer(self, **texts: str) -> None:
        """End it: by prompt, each answered with a text, the last first."""
        self.end(*(self.succeeded(prompt, text) for prompt, text in reversed(texts.items())))

    def succeeded(
        self, prompt: str, text: str, stop_reason: str = "end_turn", **usage: int
    ) -> dict[str, Any]:
        """An answer to the request with a prompt."""
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": text}],
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": {"input_tokens": TOKENS_IN, "output_tokens": TOKENS_OUT, **usage},
        }
        return self._line(prompt, {"type": "succeeded", "message": message})

    def errored(self, prompt: str, kind: str) -> dict[str, Any]:
        """A request that failed."""
        error = {"type": kind, "message": f"no: {prompt}"}
        return self._line(prompt, {"type": "errored", "error": {"type": "error", "error": error}})

    def ended(self, prompt: str, kind: str) -> dict[str, Any]:
        """A request that was not tried: "expired" or "canceled"."""
        return self._line(prompt, {"type": kind})

    def as_json(self, base_url: str) -> dict[str, Any]:
        """What Anthropic says of it."""
        over = self.lines is not None
        counts = dict.fromkeys(("canceled", "errored", "expired", "processing", "succeeded"), 0)
        counts["succeeded" if over else "processing"] = len(self.requests)
        place = f"{base_url}v1/messages/batches/{self.batch_id}/results"
        return {
            "id": self.batch_id,
            "type": "message_batch",
            "request_counts": counts,
            "processing_status": "ended" if over else "in_progress",
            "created_at": self.created.isoformat(),
            "expires_at": self.created.isoformat(),
            "ended_at": None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": place if over else None,
        }

    def _line(self, prompt: str, result: dict[str, Any]) -> dict[str, Any]:
        [found] = [
            each for each, text in zip(self.requests, self.prompts, strict=True) if text == prompt
        ]
        return {"custom_id": found["custom_id"], "result": result}


class ScriptedBatches:
    """All batches. ``refusals`` are the statuses of the next calls that create one.

    ``down``: the status of every other call, if it is not 0. ``gate``: closed, it holds back the
    replies to those who create a batch that came.
    """

    def __init__(self) -> None:
        self.refusals: list[tuple[int, str, dict[str, str]]] = []
        self.down = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.sent: list[SentBatch] = []
        self._arrived: asyncio.Queue[SentBatch] = asyncio.Queue()

    async def next(self) -> SentBatch:
        """Take the next batch."""
        return await self._arrived.get()

    def routes(self) -> list[Route]:
        """Return what is served."""
        stem = "/v1/messages/batches"
        return [
            Route(stem, self._create, methods=["POST"]),
            Route(stem, self._list, methods=["GET"]),
            Route(f"{stem}/{{batch_id}}", self._retrieve, methods=["GET"]),
            Route(f"{stem}/{{batch_id}}/results", self._results, methods=["GET"]),
        ]

    async def _create(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if self.refusals:
            status, kind, headers = self.refusals.pop(0)
            return _error(status, kind, headers)
        batch = SentBatch(len(self.sent) + 1, dict(request.headers), body)
        self.sent.append(batch)
        self._arrived.put_nowait(batch)
        await self.gate.wait()
        return JSONResponse(batch.as_json(str(request.base_url)))

    async def _list(self, request: Request) -> Response:
        if self.down:
            return _error(self.down, "api_error", {})
        data = [batch.as_json(str(request.base_url)) for batch in reversed(self.sent)]
        return JSONResponse({"data": data, "has_more": False, "first_id": None, "last_id": None})

    async def _retrieve(self, request: Request) -> Response:
        batch = self._named(request)
        if self.down or batch is None:
            return _error(self.down or 404, "api_error" if self.down else "not_found_error", {})
        batch.polls += 1
        return JSONResponse(batch.as_json(str(request.base_url)))

    async def _results(self, request: Request) -> Response:
        batch = self._named(request)
        if self.down or batch is None or batch.lines is None:
            return _error(self.down or 404, "not_found_error", {})
        lines = "".join(json.dumps(line) + "\n" for line in batch.lines)
        return Response(lines, media_type="application/x-jsonl")

    def _named(self, request: Request) -> SentBatch | None:
        batch_id = request.path_params["batch_id"]
        return next((each for each in self.sent if each.batch_id == batch_id), None)


def _error(status: int, kind: str, headers: dict[str, str]) -> Response:
    body = {"type": "error", "error": {"type": kind, "message": "no"}, "request_id": "req_7"}
    return JSONResponse(body, status_code=status, headers={**headers, "request-id": "req_7"})
