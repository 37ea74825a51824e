"""Values that cannot be right are refused, with a message that says which and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.helm.charts import HELM, RenderError, read_objects
from tests.helm.second_opinion import problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helm.charts import Charts

SIDECAR = "mge-cache-sidecar"
TLS = f"{SIDECAR}.redis.tls.caSecret.name"
BAD = {
    "unknown value": (
        ['aplication={"replicas":2}'],
        "additional properties 'aplication' not allowed",
    ),
    "unknown value of the sidecar": ([f"{SIDECAR}.redsi={{}}"], "additional properties 'redsi'"),
    "unknown setting": (
        [f'{SIDECAR}.settings.tll="1h"'],
        "additional properties 'tll' not allowed",
    ),
    "setting that another value decides": (
        [f'{SIDECAR}.settings.listen="0.0.0.0:1"'],
        "additional properties 'listen' not allowed",
    ),
    "password as a setting": (
        [f'{SIDECAR}.settings.redis_password="secret"'],
        "additional properties 'redis_password' not allowed",
    ),
    "duration": ([f'{SIDECAR}.settings.ttl="1 day"'], "at '/settings/ttl'"),
    "size": ([f'{SIDECAR}.settings.l1_max="64 megs"'], "at '/settings/l1_max'"),
    "number": ([f'{SIDECAR}.settings.rag_threshold="high"'], "at '/settings/rag_threshold'"),
    "choice": ([f'{SIDECAR}.settings.log_level="loud"'], "'debug', 'info', 'warning', 'error'"),
    "transport": ([f'{SIDECAR}.transport="pod"'], "value must be one of 'tcp', 'unix'"),
    "root": ([f"{SIDECAR}.runAsUser=0"], "minimum: got 0, want 1"),
    "privileged port": ([f"{SIDECAR}.httpPort=80"], "minimum: got 80, want 1,024"),
    "one port for both": ([f"{SIDECAR}.httpPort=50151"], "must differ from"),
    "both monitors": (
        [f"{SIDECAR}.serviceMonitor.enabled=true", f"{SIDECAR}.podMonitor.enabled=true"],
        "serviceMonitor and podMonitor are both enabled: each pod would be counted twice",
    ),
    "no Redis": ([f'{SIDECAR}.redis.url=""'], "redis.url: must be set"),
    "no URL": ([f'{SIDECAR}.redis.url="redis:6379"'], "redis.url: must begin with redis://"),
    "password in the URL": (
        [f'{SIDECAR}.redis.url="redis://:hunter2@redis/0"'],
        "redis.url: must not hold a password: put it into a Secret",
    ),
    "certificates without TLS": (
        [f'{SIDECAR}.redis.url="redis://redis/0"', f'{TLS}="ca"'],
        "redis.tls: needs TLS in",
    ),
    "Sentinels' password without Sentinels": (
        [
            f'{SIDECAR}.redis.url="redis://redis/0"',
            f'{SIDECAR}.redis.sentinelPasswordSecret.name="s"',
        ],
        "sentinelPasswordSecret: needs redis+sentinel://",
    ),
    "password without Redis": (
        [f'{SIDECAR}.redis.passwordSecret.name="s"'],
        "has no use with memory://",
    ),
    "setting in extraEnv": (
        [f'{SIDECAR}.extraEnv=[{{"name":"MGE_CACHE_TTL","value":"1h"}}]'],
        "MGE_CACHE_TTL is a setting: it belongs into mge-cache-sidecar.settings",
    ),
    "key in extraEnv": (
        [f'{SIDECAR}.extraEnv=[{{"name":"ANTHROPIC_API_KEY","value":"hunter2"}}]'],
        "ANTHROPIC_API_KEY is a setting",
    ),
    "too little memory": (
        [f'{SIDECAR}.settings.l1_max="1GiB"'],
        "limits.memory: 384Mi is too little for l1_max 1GiB and rag_index_max 64MiB: raise it to",
    ),
    "no quantity": ([f'{SIDECAR}.resources.limits.memory="1GB"'], "at '/resources/limits/memory'"),
    "grace that is too short": (
        ["native=false", "pod.terminationGracePeriodSeconds=20"],
        "must be at least 30: the sidecar's shutdown delay (15s) and drain (10s), and 5 s to end",
    ),
    "socket without fsGroup": (["pod.securityContext.fsGroup=null"], "fsGroup: must be set"),
    "Valkey without a Secret": (
        ["valkey.enabled=true"],
        "make the Secret with: kubectl --namespace answers create secret generic",
    ),
    "two Redis": (
        [
            "valkey.enabled=true",
            'valkey.passwordSecret.name="s"',
            f'{SIDECAR}.redis.url="redis://redis/0"',
        ],
        "choose one: the Valkey of this chart or a Redis of your own",
    ),
    "service without ports": (["service.enabled=true"], "service.ports: must name at least one"),
    "injection over a socket": (["injection.enabled=true"], "transport: must be tcp"),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_refused(charts: Charts, settings: list[str], message: str) -> None:
    with pytest.raises(RenderError) as refused:
        charts.text(settings=tuple(settings))
    assert message in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "nil pointer" not in str(refused.value)


def test_injection_needs_a_version_that_has_it(charts: Charts) -> None:
    settings = ("injection.enabled=true", f'{SIDECAR}.transport="tcp"')
    with pytest.raises(RenderError, match=r"needs Kubernetes 1\.36 or later, not v1\.35"):
        charts.text(version="1.35", settings=settings)
    assert charts.text(version="1.36", settings=settings)


def test_the_memory_that_the_message_names_will_do(charts: Charts) -> None:
    large = f'{SIDECAR}.settings.l1_max="1GiB"'
    with pytest.raises(RenderError) as refused:
        charts.text(settings=(large,))
    named = str(refused.value).partition("raise it to ")[2].split()[0]
    assert charts.text(settings=(large, f'{SIDECAR}.resources.limits.memory="{named}"'))


def test_global_is_allowed(charts: Charts) -> None:
    assert charts.text(settings=('global={"region":"eu"}', f'{SIDECAR}.global={{"a":1}}'))


def paths(values: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the path of every value and of every map of values."""
    for name, value in values.items():
        yield ".".join((*path, name))
        if isinstance(value, dict):
            yield from paths(value, (*path, name))


def every_path() -> list[str]:
    """List what can be set to null, in both charts."""
    application, library = (
        yaml.safe_load((HELM / chart / "values.yaml").read_text())
        for chart in ("mge-cache", SIDECAR)
    )
    return [*paths(application), *paths(library, (SIDECAR,))]


EVERYTHING = (
    f"{SIDECAR}.serviceMonitor.enabled=true",
    f"{SIDECAR}.prometheusRule.enabled=true",
    f"{SIDECAR}.dashboard.enabled=true",
    f'{SIDECAR}.redis.url="rediss://redis:6380/0"',
    "networkPolicy.enabled=true",
    "networkPolicy.restrictEgress=true",
)
TAKEN_AWAY = re.compile(r"no request or no limit")  # who takes a limit away wants none
CLEAR = re.compile(r"must |missing property|is too little")


def complaints(charts: Charts, path: str) -> list[str]:
    """Say what is wrong with how null is met at a path."""
    try:
        text = charts.text(settings=(*EVERYTHING, f"{path}=null"))
    except RenderError as refused:
        said = str(refused)
        internal = "executing" in said.partition("execution error at")[0]
        return [f"{path}: {said}"] if internal or not CLEAR.search(said) else []
    found = problems(read_objects(text))
    return [f"{path}: {each}" for each in found if not TAKEN_AWAY.search(each)]


@pytest.mark.parametrize("number", range(4))
def test_null_is_taken_well_or_refused_clearly(charts: Charts, number: int) -> None:
    # What of a security context is taken away is taken away.
    tried = [path for path in every_path() if "securityContext." not in path][number::4]
    assert [each for path in tried for each in complaints(charts, path)] == []
