"""What tests of faults share: calls that are timed, figures, logs, and a search for secrets."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from mge_cache.v1 import cache_service_pb2 as pb
from tests.e2e.sidecars import open_channel
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.sidecars import Sidecar
    from tests.servers import RedisServer

PROMPT_MARK = "qxPROMPTxq"
ANSWER_MARK = "qxANSWERxq"
PASSWORD_MARK = "qxPASSWORDxq"
NAMESPACE = "faults"
MODEL = "model-of-faults"

DEADLINE_S = 0.05
"""The default of ``store_timeout_s``."""
RECOVERY_S = 2.0
"""Within this, all is well again after the store is: a second, and another for a busy machine."""
CALL_MAX_S = 1.0
"""What a single call may take on a machine that is busy with other things."""
CLIENT_TIMEOUT_S = 10.0

DOWN = ("store unavailable", "feed of invalidations lost")
UP = ("store available again", "feed of invalidations connected again")


def identity(name: str, namespace: str = NAMESPACE) -> pb.PromptIdentity:
    """Name a prompt; its text can be recognised wherever it turns up."""
    return pb.PromptIdentity(
        namespace=namespace, model=MODEL, prompt=f"{PROMPT_MARK} {name}", temperature=0.5
    )


def answer_of(name: str) -> bytes:
    """Return the answer that these tests store for a prompt."""
    return f"{ANSWER_MARK} {name}".encode()


@dataclass(slots=True)
class Caller:
    """Calls a sidecar as an application does, and remembers how long that took."""

    sidecar: Sidecar
    seconds: list[float] = field(default_factory=list)
    names: int = 0

    async def get(self, name: str, **options: Any) -> pb.GetPromptResponse:
        """GetPrompt."""
        request = pb.GetPromptRequest(identity=identity(name), **options)
        with self._timed():
            return await self.sidecar.stub.GetPrompt(request, timeout=CLIENT_TIMEOUT_S)

    async def get_new(self) -> pb.GetPromptResponse:
        """GetPrompt of a prompt that nobody has asked for."""
        self.names += 1
        return await self.get(f"new {self.names}")

    async def set(self, name: str, **options: Any) -> pb.SetPromptResponse:
        """SetPrompt of ``answer_of(name)``."""
        request = pb.SetPromptRequest(identity=identity(name), answer=answer_of(name), **options)
        with self._timed():
            return await self.sidecar.stub.SetPrompt(request, timeout=CLIENT_TIMEOUT_S)

    async def invalidate(self, masterplan: str) -> int:
        """Invalidate; returns the tick."""
        request = pb.InvalidateRequest(namespace=NAMESPACE, masterplan=masterplan)
        with self._timed():
            response = await self.sidecar.stub.Invalidate(request, timeout=CLIENT_TIMEOUT_S)
        return response.tick

    async def invalidate_code(self, masterplan: str = "plan") -> grpc.StatusCode:
        """Invalidate; returns the status."""
        try:
            await self.invalidate(masterplan)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def stats(self, namespace: str = "") -> pb.StatsResponse:
        """Stats."""
        with self._timed():
            return await self.sidecar.stub.Stats(
                pb.StatsRequest(namespace=namespace), timeout=CLIENT_TIMEOUT_S
            )

    def check_times(self) -> dict[str, float]:
        """Check what the calls took, forget it, and return it in milliseconds."""
        median_s, max_s = statistics.median(self.seconds), max(self.seconds)
        count = len(self.seconds)
        self.seconds.clear()
        assert median_s < DEADLINE_S, f"median {median_s} s of {count} calls"
        assert max_s < CALL_MAX_S, f"maximum {max_s} s of {count} calls"
        return {"calls": count, "median_ms": median_s * 1e3, "max_ms": max_s * 1e3}

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.seconds.append(time.perf_counter() - started_s)


@dataclass(frozen=True, slots=True)
class Figures:
    """The samples of ``/metrics``, by name and labels."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def of(self, name: str, **labels: str) -> float:
        """Return a sample; 0 if there is none."""
        return self.samples.get((name, frozenset(labels.items())), 0.0)

    def errors(self, operation: str) -> float:
        """Return the failures of an operation."""
        return self.of("v2_cache_errors_total", cache_layer="llm", operation=operation)

    def attempts(self) -> float:
        """Return how often calls have tried the store; probes and the feed are not calls."""
        return sum(
            value
            for (name, labels), value in self.samples.items()
            if name == "mge_cache_store_operation_seconds_count"
            and not labels & {("operation", "probe"), ("operation", "feed")}
        )

    @property
    def store_up(self) -> bool:
        """Whether the breaker is closed."""
        return self.of("mge_cache_breaker_open") == 0

    @property
    def feed_live(self) -> bool:
        """Whether invalidations arrive as they happen."""
        return self.of("mge_cache_feed_live") == 1


async def scrape(sidecar: Sidecar) -> Figures:
    """Read ``/metrics``."""
    text = await fetch(sidecar, "/metrics")
    return Figures(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )


async def fetch(sidecar: Sidecar, path: str) -> str:
    """GET a page, which must be there."""
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.get(f"http://{sidecar.http_address}{path}", timeout=CLIENT_TIMEOUT_S)
    assert response.status_code == 200, response.text
    return response.text


async def check_ready(sidecar: Sidecar) -> None:
    """Check that no probe would take the pod out of service."""
    assert await fetch(sidecar, "/healthz")
    assert await fetch(sidecar, "/readyz")
    async with open_channel(sidecar.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "mge_cache.v1.CacheService"):
            request = health_pb2.HealthCheckRequest(service=service)
            answer = await health.Check(request, timeout=CLIENT_TIMEOUT_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def until_connected(sidecar: Sidecar, *, within_s: float = 5.0) -> float:
    """Wait until the store and the feed are there; returns the seconds that it took."""
    started_s = time.perf_counter()

    async def connected() -> bool:
        figures = await scrape(sidecar)
        return figures.store_up and figures.feed_live

    await eventually(connected, within_s=within_s)
    return time.perf_counter() - started_s


def events(sidecar: Sidecar) -> list[str]:
    """Return the warnings, errors and good news that a sidecar has logged, in order."""
    lines = [json.loads(line) for line in sidecar.stderr().splitlines()]
    usual = {"ready", "stopping", "stopped"}
    return [line["event"] for line in lines if line["event"] not in usual]


async def until_logged(sidecar: Sidecar, *wanted: str) -> None:
    """Wait until a sidecar has logged all of these."""
    await eventually(lambda: set(wanted) <= set(events(sidecar)))


async def check_no_secrets(sidecar: Sidecar, server: RedisServer | None = None) -> None:
    """Check that nothing of prompts, answers and passwords is where it does not belong."""
    pages = ("/metrics", "/metrics/cache/statistics", "/metrics/cache/statistics/llm")
    texts = await asyncio.gather(*(fetch(sidecar, page) for page in pages))
    for text in (*texts, sidecar.stdout(), sidecar.stderr()):
        for mark in (PROMPT_MARK, ANSWER_MARK, PASSWORD_MARK):
            assert mark not in text
    if server is not None:
        await asyncio.to_thread(_check_keys, server)


def _check_keys(server: RedisServer) -> None:
    with server.client() as client:
        for name in client.scan_iter():
            kept = client.dump(name)
            assert PROMPT_MARK.encode() not in name + (kept or b"")
            assert ANSWER_MARK.encode() not in name
