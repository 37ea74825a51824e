"""A real Prometheus scrapes a real sidecar under load: every query of the dashboard has data."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.e2e.sidecars import python_process
from tests.observe.load import load
from tests.observe.prometheus import Prometheus, find_promtool
from tests.observe.queries import queries_of, substituted
from tests.servers.fixtures import require
from tests.waiting import eventually
from tools.dashboard import dashboard_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.e2e.sidecars import Launch, Sidecar
    from tests.servers import RedisServer, TlsFiles

JOB = "search"
LABELS = {"namespace": "shop", "pod": "search-1"}
WITHIN_S = 60.0
RULES = "helm/mge-cache-sidecar/files/rules.yaml"


@pytest.fixture
async def anthropic_url(tmp_path: Path) -> AsyncIterator[str]:
    """Where an HTTP server speaks Anthropic's Messages API."""
    out = tmp_path / "messages"
    server = python_process(
        ["-m", "tests.messages_server", "--delay", "0"],
        stdout=out,
        stderr=tmp_path / "messages.err",
        stdin=subprocess.PIPE,
    )
    try:
        await eventually(lambda: out.read_text().endswith("\n"))
        yield out.read_text().strip()
    finally:
        server.kill()
        server.communicate()


@pytest.fixture
async def sidecar(
    launch: Launch,
    own_server: Callable[..., RedisServer],
    tls_files: TlsFiles,
    anthropic_url: str,
    tmp_path: Path,
) -> Sidecar:
    """On a Valkey with TLS and a password, so that it has every kind of file."""
    server = own_server("redis7", password="hunter2", tls=tls_files)
    password = tmp_path / "password"
    password.write_text(server.password)
    key = tmp_path / "anthropic"
    key.write_text("sk-secret")
    options = (
        *("--redis-password-file", str(password), "--redis-tls-ca-file", str(tls_files.ca)),
        *("--anthropic-base-url", anthropic_url, "--anthropic-api-key-file", str(key)),
        *("--redis-tls-cert-file", str(tls_files.cert), "--redis-tls-key-file", str(tls_files.key)),
    )
    return await launch(f"rediss://127.0.0.1:{server.tls_port}/0", options=options, http=True)


@asynccontextmanager
async def scraping(sidecar: Sidecar, folder: Path, rules: Path) -> AsyncIterator[Prometheus]:
    prometheus = require(lambda: Prometheus(folder))
    try:
        await prometheus.start(target=sidecar.http_address, labels=LABELS, job=JOB, rules=rules)
        yield prometheus
    finally:
        await prometheus.close()


@pytest.mark.timeout(300)
async def test_every_query_returns_data_and_every_rule_is_evaluated(
    sidecar: Sidecar, tmp_path: Path, repository: Path
) -> None:
    dashboard = json.loads(dashboard_json())
    async with (
        load(sidecar.target),
        scraping(sidecar, tmp_path, repository / RULES) as prometheus,
    ):
        for query in queries_of(dashboard):
            promql = substituted(query, namespace="shop", pod="search-1")
            assert await eventually(
                lambda promql=promql: prometheus.query(promql),  # type: ignore[misc]
                within_s=WITHIN_S,
                every_s=0.25,
            ), query
        for variable in dashboard["templating"]["list"][1:]:
            await offered(prometheus, variable)
        for metric in metrics_of_rules(repository / RULES):
            assert await prometheus.query(f'{metric}{{namespace="shop",job="search"}}'), metric
        await eventually(lambda: rules_are_well(prometheus), within_s=WITHIN_S, every_s=0.25)


def metrics_of_rules(rules: Path) -> set[str]:
    """The metrics of the sidecar that the rules are made of: an alert that is silent needs them."""
    names = set(re.findall(r"\b(?<!:)(?:mge_cache|v2|grpc_server)_\w+\b(?!:)", rules.read_text()))
    assert "mge_cache_feed_live" in names
    return names


async def offered(prometheus: Prometheus, variable: dict[str, Any]) -> None:
    """What Grafana offers to choose from is what the sidecar has."""
    series, label = variable["query"].removeprefix("label_values(").removesuffix(")").split(", ")
    found = await prometheus.label_values(label, substituted(series))
    assert found == [LABELS[variable["name"]]]


async def rules_are_well(prometheus: Prometheus) -> bool:
    rules = await prometheus.rules()
    assert rules
    for rule in rules:
        assert rule["health"] == "ok", rule
        assert not rule.get("alerts"), rule
        if rule["type"] == "recording":
            assert await prometheus.query(rule["name"]), rule["name"]
    return True


async def test_prometheus_has_nothing_to_say_against_the_metrics(sidecar: Sidecar) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://{sidecar.http_address}/metrics")).text
    require(find_promtool)
    checking = await asyncio.create_subprocess_exec(
        *("promtool", "check", "metrics"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await checking.communicate(text.encode())
    assert said.decode() == ""
