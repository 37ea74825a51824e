"""Probes a Redis for ``mge-cache doctor``: tries all that the store does, on keys of its own."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from typing import TYPE_CHECKING, Any

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from mge_cache_server import redis_store_scripts as scripts
from mge_cache_server.config_parse import format_duration, mask_url
from mge_cache_server.doctor import Finding, Verdict, ok, problem, warning
from mge_cache_server.keys import KeyNames
from mge_cache_server.model import EntryKey
from mge_cache_server.redis_store_connect import connect
from mge_cache_server.redis_store_doctor_vectors import find_vector_sets, vector_trials
from mge_cache_server.redis_store_errors import VECTOR_RIGHTS, is_denied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from mge_cache_server.config import Settings
    from mge_cache_server.redis_store_doctor_vectors import Trial

_PATIENT_S = 3.0
_OLDEST_VERSION = (7, 0)
_ROUND_TRIPS = 50
_CLOCK_OFF_S = 2.0
_KEPT_MS = 10_000


async def probe(settings: Settings) -> list[Finding]:
    """Connect as the store does, and try everything that it does.

    Its keys are removed or expire within 10 seconds.
    """
    client = connect(settings)
    try:
        async with asyncio.timeout(_PATIENT_S):
            await client.execute_command("PING")
    except (RedisError, OSError, TimeoutError) as error:
        await client.aclose()
        return [_unreachable(settings, error)]
    try:
        return [finding async for finding in _Probe(client, settings).findings()]
    except (RedisError, OSError, TimeoutError) as error:
        return [_unreachable(settings, error)]
    finally:
        await client.aclose()


def _unreachable(settings: Settings, error: Exception) -> Finding:
    where = mask_url(settings.redis_url)
    if isinstance(error, TimeoutError):
        text = f"no answer within {format_duration(_PATIENT_S)}"
        return problem("redis", f"{where}: {text}", "look at host, port, firewall and TLS")
    if _is_refusal(error):
        mend = "look at --redis-username and the password; the user needs +@connection"
        return problem("redis", f"{where}: user or password refused", mend)
    # Only the kind of error: its text can hold what the URL holds.
    mend = "start it, or point --redis-url at the right host, port and scheme (rediss:// for TLS)"
    return problem("redis", f"{where}: cannot be reached ({type(error).__name__})", mend)


def _is_refusal(error: BaseException | None) -> bool:
    while error is not None:  # redis-py wraps what a new connection meets
        if isinstance(error, AuthenticationError | NoPermissionError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _mend(error: ResponseError, rights: str) -> str:
    if is_denied(error):
        return f"give the user: {rights}"
    return "this is not about rights: report it, with the version of the server"


class _Probe:
    def __init__(self, client: Redis | RedisCluster, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._names = KeyNames(settings.key_prefix)
        self._namespace = f"doctor-{secrets.token_hex(4)}"
        self._key = EntryKey(self._namespace, secrets.token_bytes(32))

    async def findings(self) -> AsyncIterator[Finding]:
        info = await self._info()
        for finding in (*self._server(info), *self._memory(info)):
            yield finding
        more: tuple[Trial, ...] = ()
        if self._settings.rag_index == "vector-sets":
            names = self._names.vectors(self._key)
            finding = await find_vector_sets(self._client, names[0])
            yield finding
            if finding.verdict is Verdict.OK:
                more = vector_trials(names, _KEPT_MS)
        async for finding in self._permissions(more):
            yield finding
        yield await self._feed()
        yield await self._clock()
        yield await self._latency()

    async def _info(self) -> dict[str, Any]:
        try:
            if isinstance(self._client, RedisCluster):
                node = self._client.get_primaries()[0]
                info = await self._client.info(target_nodes=node)
            else:
                info = await self._client.info()
        except ResponseError:
            return {}
        return dict(info)

    def _server(self, info: dict[str, Any]) -> list[Finding]:
        where = mask_url(self._settings.redis_url)
        if not info:
            mend = "allow +info to this user if doctor shall see version and memory"
            return [warning("redis", f"{where}: answers, but INFO is not allowed", mend)]
        product = "Valkey" if "valkey_version" in info else "Redis"
        version = str(info.get("valkey_version") or info.get("redis_version", "0"))
        findings = []
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < _OLDEST_VERSION:
            text = f"{where}: {product} {version} is older than 7.0"
            findings.append(warning("redis", text, "update it: nothing older is tested"))
        else:
            findings.append(ok("redis", f"{where}: {product} {version}"))
        if info.get("role") == "slave":
            mend = "point --redis-url at the primary, or use redis+sentinel://"
            findings.append(problem("redis", "this is a replica, which takes no writes", mend))
        clustered = bool(info.get("cluster_enabled"))
        if clustered != isinstance(self._client, RedisCluster):
            mend = f"use redis{'+cluster' if clustered else ''}:// in --redis-url"
            text = f"this {'is' if clustered else 'is not'} a node of a cluster"
            findings.append(problem("redis", text, mend))
        return findings

    def _memory(self, info: dict[str, Any]) -> list[Finding]:
        policy, limit = info.get("maxmemory_policy"), info.get("maxmemory")
        if policy is None or limit is None:
            return []
        if not limit:
            mend = "set maxmemory, with maxmemory-policy volatile-ttl"
            return [warning("memory", "maxmemory is not set: Redis can outgrow its host", mend)]
        if policy in {"volatile-ttl", "noeviction"}:
            return [ok("memory", f"maxmemory-policy is {policy}")]
        text = f"maxmemory-policy {policy} can evict epochs: whole namespaces would start anew"
        return [warning("memory", text, "set maxmemory-policy volatile-ttl (epochs live longest)")]

    async def _permissions(self, more: tuple[Trial, ...]) -> AsyncIterator[Finding]:
        names, channel = self._names, self._names.feed_channel
        entry, lease = names.entry(self._key), names.lease(self._key)
        epochs = names.epochs(self._namespace)
        rows = names.rows(self._key)
        token, kept, quiet = b"doctor", _KEPT_MS, b"doctor"
        advance = scripts.advance_arguments(
            self._namespace, ("*",), after=0, retention_ms=kept, channel=channel
        )
        trials: tuple[Trial, ...] = (
            ("lease", scripts.LOOKUP, (entry, lease), (token, kept, b"")),
            ("renew a lease", scripts.RENEW, (lease,), (token, kept)),
            ("release a lease", scripts.RELEASE, (lease,), (token, channel, quiet)),
            ("store", scripts.PUT, (entry, lease), (b"x", kept, token, channel, quiet)),
            ("look up", scripts.LOOKUP, (entry, lease), (b"", 0, b"")),
            ("drop a record", scripts.LOOKUP, (entry, lease), (b"", 0, b"x")),
            ("read epochs", scripts.READ_EPOCHS, (epochs,), (-1, kept)),
            ("invalidate", scripts.ADVANCE, (epochs,), advance),
            ("store a row", scripts.PUT_ROW, rows, (b"x", b"x", kept, channel, quiet)),
            ("list rows", scripts.LIST_ROWS, rows, (0, 1)),
            ("read rows", scripts.READ_ROWS, rows, (b"x",)),
            *more,
        )
        denied = 0
        for what, script, keys, args in trials:
            finding = await self._try(what, script, keys, args)
            if finding is not None:
                denied += 1
                yield finding
        if not denied:
            yield ok("permissions", "all scripts may run on this prefix")

    async def _try(
        self, what: str, script: scripts.Script, keys: tuple[str, ...], args: tuple[Any, ...]
    ) -> Finding | None:
        rest = (len(keys), *keys, *args)
        try:
            async with asyncio.timeout(_PATIENT_S):
                await self._client.execute_command("EVAL", script.text, *rest)
                await self._client.execute_command("EVALSHA", script.sha, *rest)
        except OutOfMemoryError:
            mend = "raise maxmemory, or set maxmemory-policy volatile-ttl"
            return problem("permissions", f"cannot {what}: Redis is out of memory", mend)
        except ReadOnlyError:
            mend = "point --redis-url at the primary"
            return problem("permissions", f"cannot {what}: Redis is read-only", mend)
        except ResponseError as error:
            # The text names the command or the key, which is the doctor's own.
            text = f"cannot {what}: {' '.join(str(error).split())[:200]}"
            return problem("permissions", text, _mend(error, self._acl()))
        return None

    def _acl(self) -> str:
        prefix = self._settings.key_prefix
        commands = (
            "+ping +info +scan +eval +evalsha +subscribe +unsubscribe +publish +get +set +pttl "
            "+del +unlink +setrange +pexpire +zscore +zadd +zrangebyscore +zremrangebyscore +time "
            "+hset +hdel +hmget +zrem +zscan +zmscore"
        )
        if self._settings.rag_index == "vector-sets":
            commands += f" {VECTOR_RIGHTS}"
        return f"~{prefix}:* &{prefix}:feed {commands}"

    async def _feed(self) -> Finding:
        channel = self._names.feed_channel
        pubsub: Any = self._client.pubsub()
        try:
            async with asyncio.timeout(_PATIENT_S):
                await pubsub.subscribe(channel)
                await self._client.execute_command("PUBLISH", channel, "doctor")
                while True:
                    message = await pubsub.get_message(timeout=_PATIENT_S)
                    if message and message["type"] == "message":
                        return ok("feed", f"messages arrive on {channel}")
        except TimeoutError:
            mend = "look at proxies between here and Redis: they must pass pub/sub"
            return problem("feed", f"a message on {channel} did not arrive", mend)
        except ResponseError as error:
            text = " ".join(str(error).split())[:200]
            return problem("feed", text, _mend(error, f"&{channel} +subscribe +publish"))
        finally:
            await pubsub.aclose()

    async def _clock(self) -> Finding:
        before_s = time.time()
        try:
            reply: Any = await self._client.time()
        except ResponseError:
            return warning("clock", "TIME is not allowed", "allow +time")
        seconds, micros = next(iter(reply.values())) if isinstance(reply, dict) else reply
        off_s = (seconds + micros / 1e6) - (before_s + time.time()) / 2
        text = f"Redis's clock differs from this host's by {abs(off_s):.3f} s"
        if abs(off_s) > _CLOCK_OFF_S:
            return warning("clock", text, "run NTP on both: ages of answers are shown wrong")
        return ok("clock", text)

    async def _latency(self) -> Finding:
        names = (self._names.entry(self._key), self._names.lease(self._key))
        taken_s = []
        try:
            for _ in range(_ROUND_TRIPS):
                started_s = time.perf_counter()
                await self._client.execute_command(
                    "EVAL", scripts.LOOKUP.text, 2, *names, "", 0, ""
                )
                taken_s.append(time.perf_counter() - started_s)
        except ResponseError:
            return warning("latency", "not measured: see permissions", "mend the permissions first")
        median_s, worst_s = statistics.median(taken_s), max(taken_s)
        deadline_s = self._settings.store_timeout_s
        text = (
            f"a look-up takes {median_s * 1000:.2f} ms, the slowest of {_ROUND_TRIPS} "
            f"{worst_s * 1000:.2f} ms; --store-timeout is {format_duration(deadline_s)}"
        )
        if median_s > deadline_s:
            return problem("latency", text, "raise --store-timeout, or bring Redis nearer")
        if worst_s > deadline_s / 2:
            return warning("latency", text, "raise --store-timeout to a few times the slowest")
        return ok("latency", text)
