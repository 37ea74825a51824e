"""What is behind each path, asked over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mge_cache_server.counts import Counts
from mge_cache_server.http import statistics_json
from mge_cache_server.model import LAYERS, LLM_LAYER
from tests.unit.figures import CountsByNamespace, Parts, counts_by_namespace, counts_of, reporter_of
from tests.unit.http_server import make_server, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

PATHS = (
    "/",
    "/metrics",
    "/metrics/cache/statistics",
    "/metrics/cache/statistics/llm",
    "/healthz",
    "/readyz",
)


@pytest.fixture
def counts() -> Counts:
    counts = Counts()
    mine = counts.of("mine", LLM_LAYER)
    mine.hits, mine.misses, mine.writes, mine.saved_usd, mine.spent_usd = 3, 1, 1, 0.3, 0.1
    mine.error("lookup")
    theirs = counts.of("theirs", LLM_LAYER)
    theirs.misses, theirs.unpriced_writes = 4, 2
    counts.unpriced("<script>alert(1)</script>")
    return counts


@pytest.fixture
async def client(counts: Counts) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(make_server(counts)) as client:
        yield client


@given(counts_by_namespace())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_prometheus_rest_and_statistics_agree(given_: CountsByNamespace) -> None:
    counts = counts_of(given_)
    report = reporter_of(counts, clock=lambda: 0.0).report()
    async with serving(make_server(counts)) as client:
        rest = (await client.get("/metrics/cache/statistics")).json()
        text = (await client.get("/metrics")).text
    assert rest == statistics_json(report)
    scraped = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }
    for layer in report.layers:
        name = layer.cache_layer
        shown = rest[f"{name}_cache"]
        assert shown["total_hits"] == scraped["v2_cache_hits_total", name] == layer.total_hits
        assert shown["total_misses"] == scraped["v2_cache_misses_total", name]
        assert shown["total_writes"] == scraped["v2_cache_writes_total", name]
        assert shown["total_invalidations"] == scraped["v2_cache_invalidations_total", name]
        assert shown["saved_usd"] == scraped["v2_cache_cost_savings_usd_total", name]
        assert shown["spent_usd"] == scraped["mge_cache_spent_usd_total", name]
        assert shown["saved_seconds"] == scraped["mge_cache_saved_seconds_total", name]
        assert shown["computed_seconds"] == scraped["mge_cache_computed_seconds_total", name]
        assert shown["unpriced_writes"] == scraped["mge_cache_unpriced_writes_total", name]
        errors = {
            operation: scraped["v2_cache_errors_total", *sorted((name, operation))]
            for operation in shown["errors_by_operation"]
        }
        assert shown["errors_by_operation"] == errors
        assert shown["total_errors"] == sum(errors.values())
    assert rest["l1"]["bytes"] == scraped["mge_cache_l1_bytes",]
    assert rest["store"]["available"] == scraped["mge_cache_store_up", "redis"]


async def test_the_statistics_of_all_namespaces(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics/cache/statistics")
    assert answer.headers["Content-Type"] == "application/json"
    shown = answer.json()
    layer = shown.pop("llm_cache")
    assert shown.pop("rag_cache")["total_hits"] == 0
    assert shown.pop("rag_similarity_cache")["total_hits"] == 0
    assert shown.pop("rag_index")["rows"] == 0
    assert shown.pop("batcher")["batches"] == 0
    assert layer.pop("errors_by_operation")["lookup"] == 1
    assert layer == {
        "cache_layer": "llm",
        "hit_rate": 3 / 8,
        "total_hits": 3,
        "total_misses": 5,
        "total_writes": 1,
        "total_invalidations": 0,
        "total_errors": 1,
        "spent_usd": 0.1,
        "saved_usd": 0.3,
        "cost_reduction": pytest.approx(0.75),
        "saved_seconds": 0,
        "unpriced_writes": 2,
        "computed_seconds": 0,
    }
    assert shown == {
        "combined_hit_rate": 3 / 8,
        "l1": {"entries": 3, "bytes": 4096, "max_bytes": 65536, "evictions": 7},
        "store": {"kind": "redis", "available": True, "feed_live": True},
        "unpriced_models": ["<script>alert(1)</script>"],
        "uptime_seconds": 0,
        "version": "1.2.3",
    }


async def test_the_statistics_of_one_namespace(client: httpx.AsyncClient) -> None:
    async def hit_rate(namespace: str) -> tuple[float, float]:
        path = "/metrics/cache/statistics"
        whole = (await client.get(path, params={"namespace": namespace})).json()
        layer = (await client.get(f"{path}/llm", params={"namespace": namespace})).json()
        assert layer == whole["llm_cache"]
        assert namespace == "" or whole["unpriced_models"] == []
        return layer["hit_rate"], whole["combined_hit_rate"]

    assert await hit_rate("mine") == (0.75, 0.75)
    assert await hit_rate("theirs") == (0, 0)
    assert await hit_rate("nobody's") == (0, 0)
    assert await hit_rate("") == (0.375, 0.375)


@pytest.mark.parametrize("layer", ["rags", "LLM", "llm_cache", "<b>", "%00", "..%2f..%2fetc"])
async def test_an_unknown_layer_is_told_the_known_ones(
    client: httpx.AsyncClient, layer: str
) -> None:
    answer = await client.get(f"/metrics/cache/statistics/{layer}")
    assert answer.status_code == 404
    if not layer.startswith(".."):
        assert answer.json() == {"error": "there is no such layer", "layers": list(LAYERS)}


@pytest.mark.parametrize(
    ("accept", "content_type", "end"),
    [
        ("", "text/plain; version=0.0.4", "\n"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text", "# EOF\n"),
        ("text/html, */*", "text/plain; version=0.0.4", "\n"),
    ],
)
async def test_a_scrape_comes_as_it_is_asked_for(
    client: httpx.AsyncClient, accept: str, content_type: str, end: str
) -> None:
    answer = await client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["Content-Type"].startswith(content_type)
    assert answer.headers["Vary"] == "Accept"
    assert answer.text.endswith(end)
    assert 'v2_cache_hits_total{cache_layer="llm"} 3.0' in answer.text


async def test_promtool_has_nothing_to_say_about_a_scrape(client: httpx.AsyncClient) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("MGE_CACHE_REQUIRE_SERVERS") == "1":
            pytest.fail("promtool is not installed")
        pytest.skip("promtool is not installed")
    scrape = (await client.get("/metrics")).content
    checked = subprocess.run(  # noqa: ASYNC221 (short, and nothing else runs here)
        [promtool, "check", "metrics"], input=scrape, capture_output=True, check=False
    )
    assert (checked.stdout, checked.stderr, checked.returncode) == (b"", b"", 0)


async def test_health_does_not_depend_on_the_store_and_readiness_on_draining() -> None:
    ready = False
    parts = Parts(available=False, live=False)
    async with serving(make_server(parts=parts, ready=lambda: ready)) as client:
        assert (await client.get("/readyz")).status_code == 503
        ready = True
        assert (await client.get("/readyz")).status_code == 200
        ready = False
        assert (await client.get("/readyz")).text == "not ready\n"
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("path", PATHS)
async def test_only_reading_is_allowed(client: httpx.AsyncClient, path: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = await client.request(method, path)
        assert answer.status_code == 405
        assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD"}
    head = await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Cache-Control"] == "no-store"
    assert head.headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in head.headers


async def test_other_paths_are_not_there(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/openapi.json", "/metrics/cache", "/favicon.ico", "/dashboard.html"):
        assert (await client.get(path)).status_code == 404


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]


async def test_the_dashboard_stands_alone(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
    )
    for element in ("script", "style"):
        text = answer.text.split(f"<{element}>")[1].split(f"</{element}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{element}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    page = _Page()
    page.feed(answer.text)
    loaded = [(t, value) for t, name, value in page.attributes if name in {"src", "href"}]
    assert loaded == [("link", "data:,")]
    inline = [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert inline == []
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|https?://", answer.text)
