"""What settings must be together: contradictions between them, and files that they name."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from mge_cache_server.config_parse import split_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mge_cache_server.config import Settings
    from mge_cache_server.config_options import Merged, Option

SOCKET_PATH_MAX_BYTES = 107
"""Of a unix socket on Linux: sun_path without its final NUL."""

_SCHEMES = (
    "memory",
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_TLS_FILES = ("redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file")
_FILES = (*_TLS_FILES, "redis_password_file", "sentinel_password_file", "prices_file")
_REDIS_ONLY = (*_TLS_FILES, "redis_username", "redis_password", "redis_password_file")
_LABELS = {"redis_password": "MGE_CACHE_REDIS_PASSWORD"}  # it has no flag


def contradictions(
    settings: Settings, options: Mapping[str, Option], merged: Merged
) -> tuple[str, ...]:
    """List what is wrong with settings that are each right by themselves."""

    def given(field: str) -> str:
        value = options[field].show(getattr(settings, field))
        return f"{value}{merged.origins.get(field, ' by default')}"

    times = _times(settings, given_ttl=given("ttl_s"), given_max=given("ttl_max_s"))
    return (
        *(() if "ttl_max_s" in merged.broken else times),
        *_addresses(settings),
        *_store(settings),
        *_upstream(settings),
        *_missing_files(settings, options),
    )


def _times(settings: Settings, *, given_ttl: str, given_max: str) -> Iterator[str]:
    if settings.ttl_s > settings.ttl_max_s:
        yield f"--ttl: must be at most --ttl-max ({given_max}), not {given_ttl}"
    for namespace, ttl_s in settings.namespace_ttl_s.items():
        if not 1 <= ttl_s <= settings.ttl_max_s:
            yield (
                f"--namespace-ttl: {namespace}: must be from 1s to --ttl-max ({given_max}), "
                f"not {ttl_s:g}s"
            )


def _addresses(settings: Settings) -> Iterator[str]:
    if not settings.unix_socket and not settings.listen:
        yield "--unix-socket, --listen: at least one of them must be set"
    length = len(os.fsencode(settings.unix_socket))
    if length > SOCKET_PATH_MAX_BYTES:
        yield (
            f"--unix-socket: must have at most {SOCKET_PATH_MAX_BYTES} bytes, "
            f"not {length}: {settings.unix_socket}"
        )
    same = settings.listen == settings.http_listen
    if same and settings.listen and split_address(settings.listen)[1]:
        yield f"--http-listen: must differ from --listen ({settings.listen})"


def _upstream(settings: Settings) -> Iterator[str]:
    # Not repeated here: a proxy's URL may hold a password.
    if settings.anthropic_base_url and not re.match("https?://", settings.anthropic_base_url):
        yield "--anthropic-base-url: must begin with http:// or https://"


def _store(settings: Settings) -> Iterator[str]:
    if settings.redis_url:
        yield from (f"--redis-url: {problem}" for problem in _url_problems(settings.redis_url))
    if settings.redis_password and settings.redis_password_file:
        yield "MGE_CACHE_REDIS_PASSWORD, --redis-password-file: only one of them can be set"
    if bool(settings.redis_tls_cert_file) != bool(settings.redis_tls_key_file):
        yield "--redis-tls-cert-file, --redis-tls-key-file: each needs the other"
    yield from _without_effect(settings)


def _without_effect(settings: Settings) -> Iterator[str]:
    scheme = settings.redis_url.partition("://")[0]
    if scheme in {"", "memory"}:
        if settings.rag_index == "vector-sets":
            yield "--rag-index: vector-sets needs a Redis 8 in --redis-url"
        for field in _REDIS_ONLY:
            if getattr(settings, field):
                yield f"{_LABELS.get(field, _flag(field))}: needs a Redis in --redis-url"
    elif not scheme.startswith("rediss"):
        for field in _TLS_FILES:
            if getattr(settings, field):
                yield f"{_flag(field)}: needs TLS (rediss://) in --redis-url"
    if settings.sentinel_password_file and not scheme.endswith("+sentinel"):
        yield "--sentinel-password-file: needs redis+sentinel:// in --redis-url"


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _url_problems(url: str) -> Iterator[str]:
    # The texts never repeat the URL: it may hold a password in an unexpected place.
    scheme, slashes, rest = url.partition("://")
    rest = rest.rpartition("@")[2].partition("?")[0]
    hosts, _, path = rest.partition("/")
    if not slashes or scheme not in _SCHEMES:
        yield f"must begin with one of {', '.join(f'{name}://' for name in _SCHEMES)}"
    elif scheme == "unix":
        if not path:
            yield "must have the path of a socket: unix:///run/redis.sock"
    elif scheme == "memory":
        if rest:
            yield "must be just memory://"
    else:
        yield from _host_problems(scheme, hosts)
        yield from _database_problems(scheme, path)


def _host_problems(scheme: str, hosts: str) -> Iterator[str]:
    if not hosts or not all(_is_node(node) for node in hosts.split(",")):
        yield "must name hosts as host or host:port, several separated by commas"
    if "+" not in scheme and "," in hosts:
        yield "can name several hosts only with redis+sentinel:// or redis+cluster://"


def _database_problems(scheme: str, path: str) -> Iterator[str]:
    service, _, database = path.partition("/") if scheme.endswith("+sentinel") else ("", "", path)
    if scheme.endswith("+sentinel") and not service:
        yield "must name the service after the hosts: redis+sentinel://h1:26379,h2:26379/SERVICE"
    if scheme.endswith("+cluster") and path:
        yield "cannot choose a database: a cluster has only one"
    elif not re.fullmatch(r"\d*", database):
        yield "must have a number as its database"


def _is_node(node: str) -> bool:
    if re.fullmatch(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]", node):
        return True
    try:
        split_address(node)
    except ValueError:
        return False
    return True


def _missing_files(settings: Settings, options: Mapping[str, Option]) -> Iterator[str]:
    for field in _FILES:
        path = getattr(settings, field)
        if path and not os.path.isfile(path):  # noqa: PTH113 (pathlib is not needed to serve)
            yield f"{options[field].flag}: there is no file {path}"
